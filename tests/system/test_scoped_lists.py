"""Lists under a token for some agents: a page is cut from what the token may see, so that none is short before the last."""

from collections.abc import Iterator
from typing import Any

import pytest

from corral.supervisor.api.daemon_methods.event import ANSWER_EVENTS
from corral.worker.client.sync import Client
from daemon_process import AGENTS, BOUND_S, DaemonProcess

NAMES = ("web-a", "web-b", "mail")
EACH = 200
N = 40

CONFIG = "".join(
    f"""
[agents.{name}]
entrypoint = "rememberer:agent"
process.working_directory = "{AGENTS}"
"""
    for name in NAMES
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DaemonProcess, list[Any]]]:
    """A daemon with the tasks of three agents, by turns, each in a session of its own; and their records."""
    with DaemonProcess(tmp_path_factory.mktemp("scoped"), CONFIG) as daemon:
        daemon.call("agent.start", names=list(NAMES))
        with daemon.client() as client:
            made: list[Any] = [
                client.call(
                    "task.submit", {"agent": name, "objective": "say x", "session": f"s{number}"}, timeout_s=BOUND_S
                )
                for number in range(EACH)
                for name in NAMES
            ]
            ended = [client.call("task.wait", {"task": each["id"]}, timeout_s=BOUND_S) for each in made]
        assert {each["state"] for each in ended} == {"succeeded"}  # type: ignore[index]  # a record
        yield daemon, made


@pytest.fixture
def scoped(tasks: tuple[DaemonProcess, list[Any]]) -> Iterator[Client]:
    daemon, _ = tasks
    token = daemon.call("token.add", name="web", rights="read", agents=["web-[!b]", "w?b-b"])
    with daemon.client() as client:
        client.call("auth.login", {"token": token["token"]}, timeout_s=BOUND_S)
        yield client
    daemon.call("token.rm", name="web")


def ask(client: Client, method: str, **params: object) -> Any:
    return client.call(method, params, timeout_s=BOUND_S)


@pytest.mark.long
def test_a_scoped_token_pages_through_its_tasks_in_full_pages(
    tasks: tuple[DaemonProcess, list[Any]], scoped: Client
) -> None:
    wanted = [each["id"] for each in tasks[1] if each["agent"] != "mail"]
    found: list[str] = []
    before: str | None = None
    while True:
        page = ask(scoped, "task.list", limit=N, before=before)
        found += [each["id"] for each in page["tasks"]]
        before = page["more"]
        if before is None:
            break
        assert len(page["tasks"]) == N
    assert found == wanted[::-1]
    assert ask(scoped, "task.list", limit=N, state="failed") == {"tasks": [], "more": None, "skipped": 0}


def test_a_scoped_token_pages_through_its_events_in_full_pages(
    tasks: tuple[DaemonProcess, list[Any]], scoped: Client
) -> None:
    until = tasks[0].call("event.list", n=1)["newest"]
    whole = tasks[0].call("event.list", since=0, n=10_000, until=until)["events"]
    wanted = [each["seq"] for each in whole if str(each["agent"]).startswith("web-")]
    assert len(wanted) > ANSWER_EVENTS
    found: list[int] = []
    since: int | None = 0
    while since is not None:
        page = ask(scoped, "event.list", since=since, until=until)
        found += [each["seq"] for each in page["events"]]
        since = page["next"]
        assert since is None or len(page["events"]) == ANSWER_EVENTS
    assert found == wanted
    newest = ask(scoped, "event.list", n=N, until=until)["events"]
    assert [each["seq"] for each in newest] == wanted[-N:]


def test_a_follower_with_a_scoped_token_gets_as_many_past_events_as_it_asks_for(
    tasks: tuple[DaemonProcess, list[Any]], scoped: Client
) -> None:
    tasks[0].call("task.run", agent="mail", objective="say x", session="last")
    until = tasks[0].call("event.list", n=1)["newest"]
    wanted = ask(scoped, "event.list", n=N, until=until)["events"]
    ask(scoped, "event.follow", n=N)
    found: list[object] = []
    for each in scoped.notifications():
        events: Any = each.params["events"]
        found += events
        if len(found) >= N:
            break
    assert found == wanted


def test_a_scoped_token_lists_as_many_sessions_as_it_asks_for(
    tasks: tuple[DaemonProcess, list[Any]], scoped: Client
) -> None:
    page = ask(scoped, "memory.sessions", limit=N)["sessions"]
    assert len(page) == N
    assert {each["agent"] for each in page} <= {"web-a", "web-b"}
    whole = ask(scoped, "memory.sessions", limit=3 * EACH)["sessions"]
    named = {(each["agent"], each["session"]) for each in whole}
    assert len(whole) == len(named) == 2 * EACH
    of_one = ask(scoped, "memory.sessions", agent="web-b", limit=3 * EACH)["sessions"]
    assert len(of_one) == EACH


def test_a_token_for_no_agent_that_is_there_lists_nothing(tasks: tuple[DaemonProcess, list[Any]]) -> None:
    daemon, _ = tasks
    token = daemon.call("token.add", name="none", rights="read", agents=["other"])["token"]
    with daemon.client() as client:
        ask(client, "auth.login", token=token)
        assert ask(client, "task.list")["tasks"] == []
        assert ask(client, "event.list")["events"] == []
        assert ask(client, "memory.sessions")["sessions"] == []
        assert ask(client, "checkpoint.list")["checkpoints"] == []
