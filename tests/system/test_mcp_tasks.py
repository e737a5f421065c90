"""Calls of agents as tasks of MCP: by plain messages in the shape of 2025-11-25, by the official SDK in that of 2026-07-28."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import pytest

from daemon_process import BOUND_S, DaemonProcess
from mcp_editor import CORRAL, META, Editor, Message, serving

pytestmark = pytest.mark.contract

CODE = """
import asyncio, os, signal
from corral.worker import Agent

asker, shop = Agent("asker"), Agent("shop")

@asker.task
async def ask(task):
    return await task.ask(task.objective, options=["yes", "no"])

@shop.task
async def sell(task):
    match task.input["item"]:
        case "slow":
            await asyncio.sleep(1000)
        case "fail":
            raise ValueError("sold out")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
    return {"sold": task.input["item"]}
"""

CONFIG = """
[daemon]
http = "127.0.0.1:0"
[mcp.servers.cortex]
disabled = true
[mcp.profiles.shops]
tools = ["agent__shop"]
control = false
[agents.asker]
entrypoint = "tasked:asker"
expose = true
[agents.shop]
entrypoint = "tasked:shop"
instances = 2
expose = true
input_schema = { type = "object", required = ["item"] }
[agents.shop.tasks]
max_attempts = 1
"""

EXTENSION = META + "tasks"
RELATED = META + "related-task"
STATUS = "notifications/tasks/status"

DECLARED: Message = {
    META + "protocolVersion": "2026-07-28",
    META + "clientCapabilities": {"extensions": {EXTENSION: {}}},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("mcp-tasks")
    (folder / "tasked.py").write_text(CODE)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def opened(editor: Editor, version: str = "2025-11-25", **capabilities: object) -> Message:
    """The result of `initialize`."""
    info = {"name": "editor", "version": "1"}
    params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info}
    answer = editor.ask("first", "initialize", **params)
    editor.send({"method": "notifications/initialized"})
    return answer["result"]


def begun(editor: Editor, item: str) -> Message:
    """The task of a call of the shop."""
    answer = editor.ask(item, "tools/call", name="agent__shop", arguments={"item": item}, task={"ttl": 1000})
    return answer["result"]["task"]


def test_a_call_as_a_task_has_the_result_of_the_plain_call(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        assert opened(editor)["capabilities"]["tasks"]["requests"] == {"tools": {"call": {}}}
        tools = {tool["name"]: tool for tool in editor.ask(1, "tools/list")["result"]["tools"]}
        assert tools["agent__shop"]["execution"] == {"taskSupport": "optional"}
        assert tools["corral__run"]["execution"] == {"taskSupport": "optional"}
        assert "execution" not in tools["corral__list"]
        for call, (name, arguments) in enumerate(
            [
                ("agent__shop", {"item": "hat"}),
                ("agent__shop", {"item": "fail"}),
                ("corral__run", {"agent": "shop", "objective": "", "input": {"item": "hat"}}),
            ]
        ):
            given: Message = {"name": name, "arguments": arguments}
            task = editor.ask(f"t{call}", "tools/call", **given, task={})["result"]["task"]
            assert (task["status"], task["pollInterval"]) == ("working", 1000)
            result = editor.ask(f"r{call}", "tasks/result", taskId=task["taskId"])["result"]
            plain = editor.ask(f"p{call}", "tools/call", **given)["result"]
            if not plain["isError"]:  # the words of an error name the task
                assert result["content"] == plain["content"]
            assert result["isError"] == plain["isError"]
            assert result["_meta"][RELATED] == {"taskId": task["taskId"]}
            assert result["structuredContent"].keys() == plain["structuredContent"].keys()
            ended = editor.ask(f"g{call}", "tasks/get", taskId=task["taskId"])["result"]
            assert ended["status"] == ("failed" if result["isError"] else "completed")
            assert ended["ttl"] >= 7 * 86_400_000  # corral's own time limit, not that of the client
            assert daemon.call("task.show", task=task["taskId"])["agent"] == "shop"


def test_only_what_is_a_task_can_be_called_as_one(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        opened(editor)
        refused = editor.ask(1, "tools/call", name="corral__list", arguments={}, task={})
        assert refused["error"]["code"] == -32601
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            assert editor.ask(method, method, taskId="none")["error"]["code"] == -32602
        refused = editor.ask(2, "tools/call", name="agent__shop", arguments={}, task={})
        assert refused["error"]["code"] == -32602
    with serving(daemon.socket) as editor:  # an older client has no tasks, whatever it sends
        assert "tasks" not in opened(editor, "2025-06-18")["capabilities"]
        arguments = {"item": "hat"}
        plain = editor.ask(1, "tools/call", name="agent__shop", arguments=arguments, task={})
        assert plain["result"]["structuredContent"] == {"sold": "hat"}
        assert editor.ask(2, "tasks/list")["error"]["code"] == -32601


def test_a_task_is_cancelled_once_and_its_client_is_notified(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        opened(editor)
        task = begun(editor, "slow")["taskId"]
        cancelled = editor.ask(1, "tasks/cancel", taskId=task)["result"]
        assert cancelled["status"] == "cancelled"
        assert daemon.call("task.show", task=task)["state"] == "cancelled"
        told = editor.await_told({STATUS})
        last = [each["params"] for each in told if each["method"] == STATUS][-1]
        assert (last["taskId"], last["status"]) == (task, "cancelled")
        assert editor.ask(2, "tasks/cancel", taskId=task)["error"]["code"] == -32602
        assert editor.ask(3, "tasks/result", taskId=task)["result"]["isError"] is True


def test_the_tasks_of_all_callers_are_listed_page_by_page(daemon: DaemonProcess) -> None:
    made = [
        daemon.call("task.run", agent="shop", objective="", input={"item": str(number)})["id"] for number in range(101)
    ]
    with serving(daemon.socket) as editor:
        opened(editor)
        first = editor.ask(1, "tasks/list")["result"]
        second = editor.ask(2, "tasks/list", cursor=first["nextCursor"])["result"]
        shown = [task["taskId"] for task in [*first["tasks"], *second["tasks"]]]
        assert shown[:101] == made[::-1]
        assert editor.ask(3, "tasks/list", cursor=7)["error"]["code"] == -32602


@pytest.mark.parametrize("options", [["--profile", "shops"], ["--only", "agent__shop"]])
def test_a_client_without_the_tools_for_tasks_sees_those_of_its_own_tools(
    daemon: DaemonProcess, options: list[str]
) -> None:
    other = daemon.call("task.run", agent="shop", objective="", input={"item": "other"})["id"]
    with serving(daemon.socket, *options) as editor:
        opened(editor)
        task = begun(editor, "hat")["taskId"]
        result = editor.ask(1, "tasks/result", taskId=task)["result"]
        assert result["structuredContent"] == {"sold": "hat"}
        assert editor.ask(2, "tasks/get", taskId=other)["error"]["code"] == -32602
        listed = {each["taskId"] for each in editor.ask(3, "tasks/list")["result"]["tasks"]}
        assert task in listed
        assert other not in listed
    with serving(daemon.socket, "--read-only") as editor:
        opened(editor)
        refused = editor.ask(1, "tools/call", name="agent__shop", arguments={}, task={})
        assert refused["error"]["code"] == -32602
        assert editor.ask(2, "tasks/cancel", taskId=task)["error"]["code"] < 0


def test_a_task_that_asks_outlives_the_daemon_and_its_question_reaches_the_client(tmp_path: Path) -> None:
    (tmp_path / "tasked.py").write_text(CODE)
    with DaemonProcess(tmp_path, CONFIG) as daemon, serving(daemon.socket) as editor:
        opened(editor, elicitation={})
        arguments = {"objective": "Deploy?"}
        made = editor.ask(1, "tools/call", name="agent__asker", arguments=arguments, task={})
        task = made["result"]["task"]["taskId"]
        told = editor.await_told({STATUS})
        assert told[-1]["params"]["status"] == "input_required"
        daemon.kill()
        daemon.start()
        editor.await_told({"notifications/tools/list_changed"})
        editor.send({"id": 2, "method": "tasks/result", "params": {"taskId": task}})
        while (asked := editor.next()).get("method") != "elicitation/create":
            assert "result" not in asked, asked
        assert asked["params"]["message"] == "asker: Deploy?"
        assert asked["params"]["_meta"] == {RELATED: {"taskId": task}}
        answer = {"action": "accept", "content": {"answer": "yes"}}
        editor.send({"id": asked["id"], "result": answer})
        assert editor.answer(2)["result"]["content"][0]["text"] == "yes"
        shown = editor.ask(3, "tasks/get", taskId=task)["result"]
        assert (shown["status"], shown["createdAt"]) == ("completed", made["result"]["task"]["createdAt"])


def test_a_modern_client_that_does_not_declare_the_extension_has_plain_calls(daemon: DaemonProcess) -> None:
    plain: Message = {**DECLARED, META + "clientCapabilities": {}}
    with serving(daemon.socket) as editor:
        found = editor.ask(0, "server/discover", _meta=plain)["result"]
        assert found["capabilities"]["extensions"] == {EXTENSION: {}}
        given: Message = {"name": "agent__shop", "arguments": {"item": "hat"}}
        result = editor.ask(1, "tools/call", **given, _meta=plain)["result"]
        assert result["resultType"] == "complete"
        refused = editor.ask(2, "tasks/get", taskId="x", _meta=plain)["error"]
        assert refused["code"] == -32021
        assert refused["data"]["requiredCapabilities"]["extensions"] == {EXTENSION: {}}
        for method in ("tasks/list", "tasks/result"):
            refused = editor.ask(method, method, taskId="x", _meta=DECLARED)["error"]
            assert refused["code"] == -32601


def test_a_task_without_an_answer_of_its_agent_has_failed(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        for item, status in (("die", "failed"), ("fail", "completed")):
            given: Message = {"name": "agent__shop", "arguments": {"item": item}}
            task = editor.ask(item, "tools/call", **given, _meta=DECLARED)["result"]
            assert (task["resultType"], task["status"]) == ("task", "working")
            daemon.call("task.wait", task=task["taskId"])
            shown = editor.ask(f"{item}?", "tasks/get", taskId=task["taskId"], _meta=DECLARED)
            shown = shown["result"]
            assert shown["status"] == status
            if status == "failed":
                assert shown["error"]["code"] == -33009
                assert "result" not in shown
            else:
                assert shown["result"]["isError"] is True


def test_the_official_sdk_follows_a_task_and_answers_its_question(daemon: DaemonProcess) -> None:
    from mcp.client.client import Client  # noqa: PLC0415  it takes a second
    from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim  # noqa: PLC0415
    from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: PLC0415
    from mcp_types import CallToolResult, Request, RequestParams, Result  # noqa: PLC0415
    from pydantic import ConfigDict  # noqa: PLC0415  of the SDK

    class Params(RequestParams):
        model_config = ConfigDict(extra="allow")
        taskId: str

    class TaskRequest(Request[Params, str]):
        method: str
        params: Params

    class Shown(Result):
        model_config = ConfigDict(extra="allow")

    class Created(Result):
        model_config = ConfigDict(extra="allow")
        result_type: Literal["task"] = "task"
        taskId: str

    statuses: list[str] = []

    async def resolve(created: Created, context: ClaimContext) -> CallToolResult:
        async def ask(method: str, **more: object) -> Any:
            params = Params(taskId=created.taskId, **more)  # type: ignore[arg-type]  # extra keys
            request = TaskRequest(method=method, params=params)
            return (await context.session.send_request(request, Shown)).model_extra

        while True:
            shown = await ask("tasks/get")
            statuses.append(shown["status"])
            if shown["status"] == "completed":
                return CallToolResult.model_validate(shown["result"])
            if shown["status"] == "input_required":
                said = {"action": "accept", "content": {"answer": "no"}}
                await ask("tasks/update", inputResponses=dict.fromkeys(shown["inputRequests"], said))
            await asyncio.sleep(shown["pollIntervalMs"] / 10_000)

    class Tasks(ClientExtension):
        identifier = EXTENSION

        def claims(self) -> list[ResultClaim[Created]]:
            return [ResultClaim(result_type="task", model=Created, resolve=resolve)]

    async def called(_context: Any, _params: Any) -> Any:
        raise AssertionError("the question is in the task")

    never: Any = called

    async def call() -> Any:
        async with asyncio.timeout(BOUND_S), AsyncExitStack() as stack:
            args = ["--socket", str(daemon.socket), "mcp", "serve"]
            transport = stdio_client(StdioServerParameters(command=CORRAL, args=args))
            client = Client(transport, mode="2026-07-28", elicitation_callback=never, extensions=[Tasks()])
            client = await stack.enter_async_context(client)
            return await client.call_tool("agent__asker", {"objective": "Sell?"})

    assert asyncio.run(call()).content[0].text == "no"
    assert "input_required" in statuses


def test_a_modern_client_listens_to_its_task(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        given: Message = {"name": "agent__shop", "arguments": {"item": "slow"}}
        task = editor.ask(1, "tools/call", **given, _meta=DECLARED)["result"]["taskId"]
        wanted = {"taskIds": [task, "none"]}
        listen = {"notifications": wanted, "_meta": DECLARED}
        editor.send({"id": "listen", "method": "subscriptions/listen", "params": listen})
        acknowledged = editor.next()["params"]
        assert acknowledged["notifications"] == {"taskIds": [task]}
        first = editor.next()
        assert (first["method"], first["params"]["status"]) == ("notifications/tasks", "working")
        assert editor.ask(2, "tasks/cancel", taskId=task, _meta=DECLARED)["result"].keys() == {"resultType", "_meta"}
        (last,) = editor.await_told({"notifications/tasks"})
        assert last["params"]["taskId"] == task
        assert last["params"]["status"] == "cancelled"
        assert last["params"]["_meta"] == {META + "subscriptionId": "listen"}
        plain: Message = {"notifications": wanted, "_meta": {**DECLARED, META + "clientCapabilities": {}}}
        refused = editor.ask(3, "subscriptions/listen", **plain)
        assert refused["error"]["code"] == -32021
