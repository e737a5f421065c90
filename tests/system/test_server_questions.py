"""What an MCP server asks in a worker's tool call is asked of a person: servers and clients of the official SDK, both eras."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import InvalidParams, ToolFailed
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from mcp_editor import CORRAL

pytestmark = pytest.mark.contract

ERAS = {"legacy": "auto", "modern": "2026-07-28"}

SERVERS = "".join(
    f"""
[mcp.servers.{era}{suffix}]
command = ["{sys.executable}", "{AGENTS / "mcp_forms.py"}"]
relays = ["elicitation"]
mcp.protocol_version = "{version}"
{more}
"""
    for era, version in ERAS.items()
    for suffix, more in (("", ""), ("_hasty", 'mcp.max_request_timeout = "2s"'))
)

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[agents.tools]
entrypoint = "tool_agent:agent"
resources.max_concurrent_requests = 4
resources.max_task_duration = "20s"
recovery.restart_backoff_base = "1ms"
{SERVERS}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("server-questions"), CONFIG) as running:
        yield running


def submit(daemon: DaemonProcess, tool: str) -> str:
    return str(daemon.call("task.submit", agent="tools", objective=tool)["id"])


def question(daemon: DaemonProcess, task: str, after: int = 0) -> Any:  # a record
    """Returns the open question of a task with a number above another, as soon as there is one."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["approval.*"]}, timeout_s=BOUND_S)
        changes = client.notifications()
        while True:
            found = daemon.call("approval.list", task=task)["approvals"]
            if found and found[0]["id"] > after:
                return found[0]
            next(changes)


def answer(daemon: DaemonProcess, task: str, *words: str | None) -> list[Any]:
    """Answers the questions of a task, one after the other, and returns them."""
    found: list[Any] = []
    for each in words:
        found.append(question(daemon, task, found[-1]["id"] if found else 0))
        daemon.call("approval.answer", approval=found[-1]["id"], answer=each)
    return found


def output(daemon: DaemonProcess, task: str) -> Any:
    record = daemon.call("task.wait", task=task)
    assert record["state"] == "succeeded", record
    return json.loads(record["output"])


@pytest.mark.parametrize("era", ERAS)
def test_the_fields_of_a_form_are_questions_of_the_task(daemon: DaemonProcess, era: str) -> None:
    task = submit(daemon, f"{era}__order")
    asked = answer(daemon, task, "Ada", "many", "3", "yes")
    begin = f"MCP server {era} asks: Your order\n"
    assert [each["question"].removeprefix(begin) for each in asked] == [*("Name", "Count", "Count", "Gift")]
    assert {(each["server"], each["agent"], each["can_decline"]) for each in asked} == {(era, "tools", True)}
    assert asked[3]["options"] == ["yes", "no"]
    assert output(daemon, task) == ["accept", {"name": "Ada", "count": 3, "gift": True}]


@pytest.mark.parametrize("era", ERAS)
def test_a_declined_question_declines_the_form(daemon: DaemonProcess, era: str) -> None:
    task = submit(daemon, f"{era}__order")
    answer(daemon, task, "Ada", None)
    assert output(daemon, task) == ["decline", None]
    ended = daemon.call("approval.list", task=task, ended=True)["approvals"][0]
    assert (ended["state"], ended["answer"]) == ("answered", None)
    assert ended["answered_by"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("words", "action"), [("allow", "accept"), ("deny", "decline")])
def test_a_form_without_fields_asks_for_consent(daemon: DaemonProcess, era: str, words: str, action: str) -> None:
    task = submit(daemon, f"{era}__consent")
    (asked,) = answer(daemon, task, words)
    assert asked["options"] == ["yes", "no"]
    assert output(daemon, task)[0] == action


@pytest.mark.long
def test_a_question_expires_with_the_time_limit_of_its_call_and_cancels_the_form(daemon: DaemonProcess) -> None:
    daemon.call("task.run", agent="tools", objective="legacy_hasty__nothing")
    task = submit(daemon, "legacy_hasty__order")
    asked = question(daemon, task)
    record = daemon.call("task.wait", task=task)
    state = daemon.call("approval.show", approval=asked["id"])["state"]
    # Where the machine is slow, the call ends first, with its own error.
    assert (state, record["output"]) in {
        ("expired", '["cancel", null]'),
        ("expired", "Timeout"),
        ("withdrawn", "Timeout"),
    }


@pytest.mark.long
def test_a_modern_server_waits_for_a_person_beyond_the_time_limit_of_a_call(daemon: DaemonProcess) -> None:
    task = submit(daemon, "modern_hasty__consent")
    expires = question(daemon, task)["expires_at"]
    asked_at = question(daemon, task)["asked_at"]
    assert expires[:10] > asked_at[:10]  # the usual limit of a day
    answer(daemon, task, "yes")
    assert output(daemon, task)[0] == "accept"


@pytest.mark.parametrize("era", ERAS)
def test_the_question_of_a_cancelled_task_is_withdrawn(daemon: DaemonProcess, era: str) -> None:
    task = submit(daemon, f"{era}__order")
    number = question(daemon, task)["id"]
    with daemon.client() as client:
        client.call("event.follow", {"types": ["approval.withdrawn"]}, timeout_s=BOUND_S)
        daemon.call("task.cancel", task=task)
        withdrawn = client.notifications()
        while daemon.call("approval.list", task=task)["approvals"]:
            next(withdrawn)
    assert daemon.call("approval.show", approval=number)["state"] == "withdrawn"


@pytest.mark.long
def test_the_question_of_a_dead_worker_is_withdrawn_and_asked_again_by_the_next_attempt(daemon: DaemonProcess) -> None:
    task = submit(daemon, "modern__consent")
    first = question(daemon, task)
    worker = daemon.call("task.show", task=task)["worker"]
    daemon.call("agent.signal", names=[worker], signal="SIGKILL")
    second = question(daemon, task, first["id"])
    assert daemon.call("approval.show", approval=first["id"])["state"] == "withdrawn"
    daemon.call("approval.answer", approval=second["id"], answer="yes")
    assert output(daemon, task)[0] == "accept"


def test_the_question_of_a_call_is_withdrawn_when_the_daemon_starts_again(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as running:
        task = submit(running, "modern__consent")
        first = question(running, task)
        running.kill()
        running.start()
        second = question(running, task, first["id"])
        assert running.call("approval.show", approval=first["id"])["state"] == "withdrawn"
        running.call("approval.answer", approval=second["id"], answer="no")
        assert output(running, task)[0] == "decline"


@pytest.mark.parametrize(
    ("client_era", "era", "action"),
    [
        ("legacy", "modern", "accept"),
        ("2026-07-28", "legacy", "decline"),
        pytest.param("2026-07-28", "modern", "accept", marks=pytest.mark.long),
        pytest.param("legacy", "legacy", "decline", marks=pytest.mark.long),
    ],
)
def test_the_person_at_the_client_of_the_task_is_asked_for_the_form_of_a_server(
    daemon: DaemonProcess, client_era: str, era: str, action: str
) -> None:
    from mcp.client.client import Client  # noqa: PLC0415  it takes a second
    from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: PLC0415  as above
    from mcp_types import ElicitResult  # noqa: PLC0415  as above

    heard: list[str] = []

    async def person(_context: Any, params: Any) -> Any:
        heard.append(params.message)
        said = {"Name": "Ada", "Count": "7", "Gift": "no"}[params.message.split("\n")[-1]]
        is_last = action == "decline" and len(heard) == 2
        return ElicitResult.model_validate(
            {"action": "decline"} if is_last else {"action": "accept", "content": {"answer": said}}
        )

    async def call() -> Any:
        args = ["--socket", str(daemon.socket), "mcp", "serve"]
        transport = stdio_client(StdioServerParameters(command=CORRAL, args=args))
        async with asyncio.timeout(BOUND_S), AsyncExitStack() as stack:
            callback: Any = person
            client: Any = Client(transport, mode=client_era, elicitation_callback=callback)
            await stack.enter_async_context(client)
            order: Any = {"agent": "tools", "objective": f"{era}__order"}
            return await client.call_tool("corral__run", order)

    result = asyncio.run(call())
    content = {"name": "Ada", "count": 7, "gift": False} if action == "accept" else None
    assert json.loads(result.content[0].text) == [action, content]
    assert heard[0] == f"tools: MCP server {era} asks: Your order\nName"


def test_a_call_outside_a_task_gets_no_answer_and_its_server_the_reason(daemon: DaemonProcess) -> None:
    with pytest.raises(ToolFailed) as refused:
        daemon.call("mcp.call", name="legacy__consent", arguments={})
    assert refused.value.data["server"] == "legacy"
    assert daemon.call("approval.list")["approvals"] == []


@pytest.mark.long
def test_the_question_of_a_handler_cannot_be_declined(tmp_path: Path) -> None:
    config = CONFIG.replace("tool_agent:agent", "questions_agent:agent")
    with DaemonProcess(tmp_path, config) as running:
        task = submit(running, "Sure?")
        with pytest.raises(InvalidParams) as refused:
            answer(running, task, None)
        assert refused.value.data["key"] == "answer"
