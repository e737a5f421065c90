"""Sessions through the whole: what an agent remembers from task to task, and what people see of it."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, Corrupted, NotFound, ResourceLimitExceeded
from daemon_process import AGENTS, BOUND_S, DaemonProcess, until

CREW = f"""
[agents.keen]
entrypoint = "rememberer:agent"
instances = 2
process.working_directory = "{AGENTS}"
tasks.retry_backoff_base = "10ms"
recovery.restart_backoff_base = "10ms"

[agents.brief]
entrypoint = "rememberer:agent"
process.working_directory = "{AGENTS}"
memory.max_session_bytes = "1KiB"
memory.overflow = "refuse"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("memory"), CREW) as process:
        process.call("agent.start", all=False, names=["keen", "brief"])
        yield process


def run(daemon: DaemonProcess, session: str | None, objective: str, agent: str = "keen") -> Any:
    return daemon.call("task.run", agent=agent, objective=objective, session=session)


def seen(daemon: DaemonProcess, session: str, agent: str = "keen") -> Any:
    task = run(daemon, session, "look", agent)
    assert task["state"] == "succeeded", task["error"]
    return task["output"]


def test_a_task_finds_what_the_tasks_before_it_left_whichever_worker_had_them(daemon: DaemonProcess) -> None:
    for number in range(4):
        task = run(daemon, "talk", f"say {number}")
        assert task["output"] == number
    run(daemon, "talk", "set name=Ada")
    look = seen(daemon, "talk")
    assert look == {
        "session": "talk",
        "turns": 5,
        "history": ["0", "1", "2", "3"],
        "variables": {"name": "Ada"},
        "data": {"name": ["Ada"]},
    }
    assert seen(daemon, "another")["history"] == []


def test_a_failed_task_leaves_nothing(daemon: DaemonProcess) -> None:
    run(daemon, "failing", "say before")
    assert run(daemon, "failing", "fail never")["state"] == "failed"
    assert seen(daemon, "failing")["history"] == ["before"]


def test_a_cancelled_task_leaves_nothing(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        task = daemon.call("task.submit", agent="keen", objective="wait", session="cancelled")
        told: Any = next(client.notifications()).params
        assert told["events"][0]["task"] == task["id"]
    with pytest.raises(Conflict):
        daemon.call("memory.clear", agent="keen", session="cancelled")
    daemon.call("task.cancel", task=task["id"])
    assert seen(daemon, "cancelled")["history"] == []


def test_a_turn_that_a_worker_did_not_survive_is_in_the_memory_once(daemon: DaemonProcess) -> None:
    run(daemon, "dying", "say before")
    assert run(daemon, "dying", "die twice")["attempt"] == 2
    assert seen(daemon, "dying")["history"] == ["before", "twice"]


def test_what_is_too_much_for_a_session_fails_its_task_and_the_session_stays(daemon: DaemonProcess) -> None:
    run(daemon, "full", "say before", "brief")
    task = run(daemon, "full", "fill 2000", "brief")
    assert task["error"]["name"] == "ResourceLimitExceeded"
    assert task["error"]["data"]["limit"] == "max_session_bytes"
    assert seen(daemon, "full", "brief")["history"] == ["before"]


def test_the_command_lists_shows_and_clears_sessions(daemon: DaemonProcess) -> None:
    run(daemon, "by-hand", "say hello")
    run(daemon, "by-hand", "set k=v")
    listed = json.loads(daemon.corral("--json", "memory", "list", "keen").stdout)
    (mine,) = [each for each in listed if each["session"] == "by-hand"]
    assert (mine["turns"], mine["messages"]) == (2, 1)
    assert "by-hand" in daemon.corral("memory", "list").stdout
    shown = json.loads(daemon.corral("--json", "memory", "show", "keen", "by-hand").stdout)
    assert shown["history"] == [{"role": "user", "content": "hello"}]
    assert shown["variables"] == {"k": "v"}
    assert shown["accessed_at"] >= mine["accessed_at"]
    assert "user: hello" in daemon.corral("memory", "show", "keen", "by-hand", "-n", "1").stdout
    assert daemon.corral("memory", "clear", "keen", "by-hand").returncode == 0
    assert daemon.corral("memory", "show", "keen", "by-hand").returncode == 3
    assert seen(daemon, "by-hand")["turns"] == 0


def test_the_command_stores_and_finds_values_by_key(daemon: DaemonProcess) -> None:
    assert daemon.corral("memory", "put", "brief", "colour", '{"of": "ü"}').returncode == 0
    put = daemon.corral("memory", "put", "brief", "note", "-", "--session", "s", stdin='"text"')
    assert put.returncode == 0
    got = daemon.corral("memory", "get", "brief", "colour")
    assert json.loads(got.stdout) == {"of": "ü"}
    assert daemon.corral("memory", "get", "brief", "note", "--session", "s").stdout == "text\n"
    assert daemon.corral("memory", "get", "brief", "none").stdout == "null\n"
    found = json.loads(daemon.corral("--json", "memory", "search", "brief", "te").stdout)
    assert [item["key"] for item in found] == ["note"]
    assert "colour" in daemon.corral("memory", "search", "brief").stdout
    assert "brief" in daemon.corral("memory", "stats", "brief").stdout
    assert daemon.corral("memory", "rm", "brief", "colour").returncode == 0
    assert daemon.corral("memory", "rm", "brief", "colour").returncode == 3
    cleared = json.loads(daemon.corral("--json", "memory", "clear", "brief", "s").stdout)
    assert cleared == {"sessions": 0, "keys": 1}


def test_nobody_remembers_for_an_agent_that_is_not_there(daemon: DaemonProcess) -> None:
    with pytest.raises(NotFound):
        daemon.call("memory.put", agent="nobody", key="k", value=1)


def test_an_agent_that_was_removed_is_remembered_until_that_is_cleared(daemon: DaemonProcess) -> None:
    spec = {"entrypoint": "rememberer:agent", "process": {"working_directory": str(AGENTS)}}
    daemon.call("agent.add", name="guest", spec=spec)
    run(daemon, "s", "say hello", "guest")
    daemon.call("agent.rm", name="guest")
    assert daemon.call("memory.show", agent="guest", session="s")["messages"] == 1
    assert daemon.call("memory.clear", agent="guest") == {"sessions": 1, "keys": 0}
    assert daemon.call("memory.sessions", agent="guest") == {"sessions": []}


def test_who_may_only_read_cannot_have_an_agent_forget_or_remember(daemon: DaemonProcess) -> None:
    methods = {each["name"]: each for each in daemon.call("rpc.discover")["methods"]}
    needs = {name: m["x-permission"] for name, m in methods.items() if name.startswith("memory.")}
    assert needs == {
        "memory.sessions": "read",
        "memory.show": "read",
        "memory.get": "read",
        "memory.search": "read",
        "memory.stats": "read",
        "memory.pools": "read",
        "memory.expire": "operate",
        "memory.put": "operate",
        "memory.delete": "operate",
        "memory.cleanup": "operate",
        "memory.clear": "operate",
    }


@pytest.mark.parametrize(
    ("damage", "repair", "error"),
    [
        ("UPDATE session SET turns = 77", "UPDATE session SET turns = 1", "Corrupted"),
        (
            "CREATE TRIGGER no BEFORE INSERT ON session_turn BEGIN SELECT RAISE(ABORT, 'no'); END",
            "DROP TRIGGER no",
            "Conflict",
        ),
    ],
)
def test_a_turn_that_the_store_never_takes_fails_its_task_and_the_session_stays(
    daemon: DaemonProcess, damage: str, repair: str, error: str
) -> None:
    daemon.call("memory.clear", agent="keen")
    run(daemon, "whole", "say one")
    with closing(sqlite3.connect(daemon.state_dir / "corral.db", isolation_level=None)) as store:
        store.execute(damage)
        task = run(daemon, "whole", "say two")
        store.execute(repair)
    assert (task["state"], task["error"]["name"]) == ("failed", error)
    assert seen(daemon, "whole")["history"] == ["one"]


def test_sessions_survive_the_death_of_the_daemon_and_a_damaged_one_hurts_no_other(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        for session in ("good", "bad"):
            run(daemon, session, "say one")
            run(daemon, session, "set k=v")
        daemon.kill()
        with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as store:
            (number,) = store.execute("SELECT id FROM session WHERE session = 'bad'").fetchone()
            (turn, blob) = store.execute(
                "SELECT id, value FROM session_turn WHERE session_id = ? LIMIT 1", (number,)
            ).fetchone()
            damaged = blob[:60] + bytes([blob[60] ^ 1]) + blob[61:]
            store.execute("UPDATE session_turn SET value = ? WHERE id = ?", (damaged, turn))
            store.commit()
        daemon.start()
        task = run(daemon, "bad", "say two")
        assert (task["state"], task["error"]["name"]) == ("failed", "Corrupted")
        assert task["error"]["data"]["agent"] == "keen"
        assert task["error"]["data"]["session"] == "bad"
        with pytest.raises(Corrupted):
            daemon.call("memory.show", agent="keen", session="bad")
        good = seen(daemon, "good")
        assert (good["history"], good["variables"]) == (["one"], {"k": "v"})
        daemon.call("memory.clear", agent="keen", session="bad")
        assert run(daemon, "bad", "say two")["output"] == 0


ASLEEP = """
[agents.keen]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
"""


def test_what_has_expired_is_neither_counted_nor_kept_beyond_a_cleanup(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, ASLEEP) as daemon, daemon.client() as client:
        client.call("event.follow", {"types": ["memory.expired"]}, timeout_s=BOUND_S)
        expired: Iterator[Any] = client.notifications()

        def put(key: str) -> None:
            daemon.call("memory.put", agent="keen", key=key, value="x", ttl_s=0.01)
            until(lambda: daemon.call("memory.get", agent="keen", key=key)["value"] is None)

        daemon.call("memory.put", agent="keen", key="stays", value="x")
        put("goes")
        (usage,) = daemon.call("memory.stats")["agents"]
        assert usage["keys"] == 1
        printed = daemon.corral("--json", "memory", "cleanup", "keen")
        assert json.loads(printed.stdout) == {"sessions": 0, "keys": 1}
        (event,) = next(expired).params["events"]
        assert (event["agent"], event["keys"]) == ("keen", 1)
        assert daemon.call("memory.cleanup") == {"sessions": 0, "keys": 0}
        daemon.config.write_text(ASLEEP + '[memory]\ncleanup_interval = "50ms"\n')
        daemon.call("daemon.reload")
        put("goes by itself")
        (event,) = next(expired).params["events"]
        assert (event["agent"], event["keys"]) == ("keen", 1)
        assert daemon.call("memory.stats")["agents"][0]["keys"] == 1


POOLS = f"""
[pools.small]
max_bytes = "64KiB"
overflow = "refuse"

[tenants.acme]
pool = "small"

[agents.keen]
entrypoint = "rememberer:agent"
instances = 2
process.working_directory = "{AGENTS}"
memory.pool = "small"

[agents."acme/brief"]
entrypoint = "rememberer:agent"
process.working_directory = "{AGENTS}"

[agents.still]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
"""


def pools(daemon: DaemonProcess) -> dict[str, Any]:
    return {each["name"]: each for each in daemon.call("memory.pools")["pools"]}


def test_the_file_of_the_store_shrinks_after_a_flood_was_forgotten(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, ASLEEP) as daemon:
        for number in range(50):
            daemon.call("memory.put", agent="keen", key=f"k{number}", value="x" * 1_000_000)
        file = daemon.state_dir / "corral.db"
        until(lambda: file.stat().st_size > 40_000_000)
        daemon.call("memory.clear", agent="keen")
        daemon.call("daemon.reload")  # what is too old is removed, as every hour
        until(lambda: file.stat().st_size < 20_000_000)


def test_a_pool_bounds_agents_of_several_owners_and_fails_the_task_that_is_too_much(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, POOLS) as daemon:
        daemon.call("agent.start", all=False, names=["keen", "acme/brief"])
        assert run(daemon, "a", "fill 30000")["state"] == "succeeded"
        assert run(daemon, "b", "fill 30000", "acme/brief")["state"] == "succeeded"
        for agent, session in (("keen", "c"), ("acme/brief", "b")):
            refused = run(daemon, session, "fill 9000", agent)
            assert refused["error"]["name"] == "ResourceLimitExceeded"
            assert refused["error"]["data"]["pool"] == "small"
        with pytest.raises(ResourceLimitExceeded):
            daemon.call("memory.put", agent="keen", key="k", value="x" * 9000)
        daemon.call("memory.put", agent="still", key="k", value="x" * 90_000)  # in no pool
        small = pools(daemon)["small"]
        assert (small["agents"], small["tenants"]) == (["acme/brief", "keen"], ["acme"])
        assert 60_000 < small["used_bytes"] < 64 * 1024
        printed = daemon.corral("memory", "pools").stdout
        assert "small" in printed
        assert "acme/brief, keen" in printed
        assert "92%" in printed


def test_a_reload_changes_a_pool_and_the_agents_in_it(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, POOLS) as daemon:

        def put(size: int) -> None:
            daemon.call("memory.put", agent="still", key="k", value="x" * size)

        put(90_000)
        text = POOLS.replace("autostart = false", 'autostart = false\nmemory.pool = "small"')
        daemon.config.write_text(text)
        assert daemon.call("daemon.reload")["changed"] == {"still": "live"}
        assert pools(daemon)["small"]["used_bytes"] == 90_003
        with pytest.raises(ResourceLimitExceeded):
            put(90_001)
        daemon.config.write_text(text.replace("64KiB", "1MiB"))
        assert daemon.call("daemon.reload")["live"] == ["pools"]
        put(90_001)
        for command in ("add", "set"):
            refused = daemon.corral("tenant", command, "acme" if command == "set" else "new", "pool=nowhere")
            assert (refused.returncode, "no pool has this name" in refused.stderr) == (2, True)
        daemon.config.write_text(text.replace("[pools.small]", "[pools.other]"))
        done = daemon.corral("reload")
        assert (done.returncode, "no pool has this name" in done.stderr) == (2, True)


@pytest.mark.long
def test_the_sum_of_a_pool_is_right_after_the_death_of_the_daemon_amid_writes(tmp_path: Path) -> None:
    config = POOLS.replace('"refuse"', '"evict"')
    with DaemonProcess(tmp_path, config) as daemon:
        for round_ in range(3):
            daemon.call("agent.start", all=False, names=["keen", "acme/brief"])
            for number in range(12):
                agent = ("keen", "acme/brief")[number % 2]
                size = 3000 + 1000 * (number % 5)
                run(daemon, f"s{number % 5}", f"fill {size}", agent)
                key, value = f"k{number % 3}", "x" * size
                daemon.call("memory.put", agent="still" if number % 2 else agent, key=key, value=value)
            for number in range(6):  # those are under way
                params = {"agent": "keen", "objective": "fill 9000", "session": f"u{number}"}
                daemon.call("task.submit", **params)
            daemon.kill()
            with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as store:
                (direct,) = store.execute(
                    "SELECT (SELECT COALESCE(SUM(size_bytes), 0) FROM session WHERE agent <> 'still') +"
                    " (SELECT COALESCE(SUM(LENGTH(CAST(key AS BLOB)) + LENGTH(value)), 0) FROM memory"
                    " WHERE agent <> 'still')"
                ).fetchone()
            # The tasks that were under way go on: they are not to change what is compared.
            daemon.config.write_text(config.replace("instances = 2", "instances = 2\nautostart = false"))
            daemon.start()
            found = pools(daemon)["small"]
            assert found["used_bytes"] == direct <= 64 * 1024, round_
            assert found["sessions"] > 0


def test_a_handler_or_a_person_ends_a_session(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        daemon.call("agent.start", all=False, names=["keen"])
        run(daemon, "s", "say one")
        kept = daemon.call("memory.show", agent="keen", session="s")["expires_at"]
        run(daemon, "s", "end 3600")
        (listed,) = daemon.call("memory.sessions")["sessions"]
        assert listed["expires_at"] < kept
        assert "is gone after" in daemon.corral("memory", "expire", "keen", "s", "never").stdout
        assert daemon.call("memory.show", agent="keen", session="s")["expires_at"] > kept
        assert daemon.corral("memory", "expire", "keen", "nobody", "1h").returncode == 3
        assert daemon.corral("memory", "expire", "keen", "s", "1ms").returncode == 0
        until(lambda: not daemon.call("memory.sessions")["sessions"])
        assert seen(daemon, "s")["history"] == []
