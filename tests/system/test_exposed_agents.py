"""Agents, teams and workflows as tools of corral's MCP server, with the clients that people have."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from corral.worker.contract.errors import InvalidParams
from daemon_process import BOUND_S, DaemonProcess
from mcp_editor import CORRAL, META, MODERN, Editor, serving

CODE = """
import asyncio
from corral.worker import Agent
from corral.worker.errors import CorralError

shop, talker, lister, caller = (Agent(name) for name in ("shop", "talker", "lister", "caller"))

@shop.task
async def sell(task):
    item, count = task.input["item"], task.input.get("count", 1)
    if item == "fail":
        raise ValueError("sold out")
    if item == "odd":
        return {"total": "many"}
    if item == "slow":
        await task.progress(0.5, message="waits")
        await asyncio.sleep(1000)
    return {"total": count}

@talker.task
async def talk(task):
    return f"{task.objective}: {task.input}"

@lister.task
async def add(task):
    return sum(task.input)

@caller.task
async def call(task):
    names = [tool["name"] for tool in await task.tools()]
    try:
        result = await task.tool(task.input["tool"], task.input["arguments"], check=False)
    except CorralError as error:
        return {"names": names, "error": error.name}
    return {"names": names, "structured": result.structured, "text": result.text}
"""

CONFIG = """
[daemon]
http = "127.0.0.1:0"

[mcp.servers.cortex]
disabled = true

[mcp.profiles.narrow]
tools = ["agent__talker"]
denied_tools = ["corral__*"]

[agents.shop]
entrypoint = "shop:shop"
title = "The shop"
description = "Sells items"
expose = true
input_schema = { type = "object", required = ["item"], properties = { item = { type = "string" }, count = { type = "integer", minimum = 1 } } }
output_schema = { type = "object", required = ["total"], properties = { total = { type = "integer" } } }

[agents.talker]
entrypoint = "shop:talker"
expose = true

[agents.lister]
entrypoint = "shop:lister"
expose = true
input_schema = { type = "array", items = { type = "integer" } }

[agents.hidden]
entrypoint = "shop:talker"

[agents.caller]
entrypoint = "shop:caller"
expose = true
tools = ["agent__shop", "agent__caller"]

[teams.pair]
members = ["talker"]
mode = "route"
expose = true
description = "Two of a kind"

[workflows.flow]
expose = true
input_schema = { type = "object", required = ["n"] }
[[workflows.flow.steps]]
name = "one"
agent = "talker"
objective = "step"
input = "${input.n}"
"""

EXPOSED = {f"agent__{name}" for name in ("shop", "talker", "lister", "caller", "pair", "flow")}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("exposed")
    (folder / "shop.py").write_text(CODE)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def listed(editor: Editor) -> dict[str, Any]:
    tools = editor.ask("list", "tools/list")["result"]["tools"]
    return {tool["name"]: tool for tool in tools}


def called(editor: Editor, name: str, arguments: Mapping[str, object]) -> Any:
    return editor.ask(f"call {name}", "tools/call", name=name, arguments=arguments)["result"]


def run(daemon: DaemonProcess, agent: str, given: object) -> Any:  # a record
    return daemon.call("task.run", agent=agent, objective="", input=given)


@pytest.mark.parametrize("way", ["stdio", "http"])
def test_the_official_client_calls_an_agent_as_a_tool(daemon: DaemonProcess, way: str) -> None:
    import anyio  # noqa: PLC0415 - it takes a second
    from mcp.client.client import Client  # noqa: PLC0415 - it takes a second
    from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: PLC0415 - as above

    steps: list[str | None] = []

    async def stepped(progress: float, total: float | None, message: str | None) -> None:
        steps.append(message)

    async def use(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {name for name in tools if name.startswith("agent__")} == EXPOSED
        shop = tools["agent__shop"]
        assert (shop.title, shop.description) == ("The shop", "Sells items")
        assert shop.input_schema["required"] == ["item"]
        assert shop.output_schema is not None
        sold = await client.call_tool("agent__shop", {"item": "pen", "count": 3})
        assert (sold.is_error, sold.structured_content) == (False, {"total": 3})
        said = await client.call_tool("agent__talker", {"objective": "hi", "input": [1]}, progress_callback=stepped)
        assert (said.structured_content, said.content[0].text) == (None, "hi: [1]")  # type: ignore[union-attr]  # it is text
        added = await client.call_tool("agent__lister", {"input": [1, 2]})
        assert added.content[0].text == "3"  # type: ignore[union-attr]  # it is text
        flow = await client.call_tool("agent__flow", {"n": 7})
        assert "step: 7" in json.dumps(flow.structured_content)
        refused = await client.call_tool("agent__shop", {"item": "pen", "count": 0})
        assert refused.is_error
        assert refused.structured_content is not None
        assert refused.structured_content["error"]["name"] == "InvalidParams"
        assert refused.structured_content["error"]["data"]["key"] == "input.count"

    async def over_stdio() -> None:
        arguments = ["--socket", str(daemon.socket), "mcp", "serve"]
        parameters = StdioServerParameters(command=CORRAL, args=arguments)
        with anyio.fail_after(BOUND_S):
            async with Client(stdio_client(parameters)) as client:
                await use(client)

    async def over_http() -> None:
        import httpx2  # noqa: PLC0415 - as above
        from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - as above

        address = daemon.call("daemon.status")["daemon"]["http"]
        token = (daemon.state_dir / "http.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with anyio.fail_after(BOUND_S):
            async with httpx2.AsyncClient(headers=headers) as http:
                stream = streamable_http_client(f"http://{address}/mcp", http_client=http)
                async with Client(stream) as client:
                    await use(client)

    anyio.run(over_stdio if way == "stdio" else over_http)


def test_a_failed_task_is_an_error_that_a_model_reads(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        failed = called(editor, "agent__shop", {"item": "fail"})
        assert failed["isError"]
        assert "sold out" in failed["content"][0]["text"]
        error = failed["structuredContent"]["error"]
        assert (error["name"], error["data"]["exception"]) == ("TaskFailed", "ValueError")
        assert daemon.call("task.show", task=error["data"]["task"])["state"] == "failed"
        wrong = called(editor, "agent__talker", {"objective": "x", "more": 1})
        assert wrong["structuredContent"]["error"]["name"] == "InvalidParams"
        for name in ("agent__hidden", "agent__nobody"):
            assert "error" in editor.ask(name, "tools/call", name=name, arguments={})


def test_a_cancelled_call_cancels_the_task(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        params: Any = {"name": "agent__shop", "arguments": {"item": "slow"}, "_meta": {"progressToken": "t"}}
        editor.send({"id": "slow", "method": "tools/call", "params": params})
        while (message := editor.next()).get("params", {}).get("progress") != 0.5:
            assert "method" in message, message
        assert message["params"]["message"] == "waits"
        task = daemon.call("task.list", state="running", agent="shop")["tasks"][0]["id"]
        editor.send({"method": "notifications/cancelled", "params": {"requestId": "slow"}})
        assert daemon.call("task.wait", task=task)["state"] == "cancelled"


def test_the_input_of_every_task_is_held_to_the_schema(daemon: DaemonProcess) -> None:
    for method in ("task.run", "task.submit"):
        with pytest.raises(InvalidParams) as caught:
            daemon.call(method, agent="shop", objective="x", input={"item": 1})
        assert caught.value.data["key"] == "input.item"
        assert caught.value.data["rule"] == "type"
    with pytest.raises(InvalidParams) as caught:
        daemon.call("task.run", agent="flow", objective="x", input={})
    assert caught.value.data["key"] == "input.n"
    with pytest.raises(InvalidParams) as caught:
        daemon.call("task.run", agent="lister", objective="x")
    assert caught.value.data["key"] == "input"


def test_the_output_of_every_task_is_held_to_the_schema(daemon: DaemonProcess) -> None:
    error = run(daemon, "shop", {"item": "odd"})["error"]
    assert (error["name"], error["data"]["limit"]) == ("TaskFailed", "output_schema")
    assert error["data"]["path"] == "total"


def test_a_worker_delegates_by_the_tools_that_it_may_call(daemon: DaemonProcess) -> None:
    record = run(daemon, "caller", {"tool": "agent__shop", "arguments": {"item": "pen", "count": 2}})
    output = record["output"]
    assert (output["names"], output["structured"]) == (["agent__shop", "agent__caller"], {"total": 2})
    assert [daemon.call("task.show", task=child)["agent"] for child in record["children"]] == ["shop"]
    denied = run(daemon, "caller", {"tool": "agent__talker", "arguments": {"objective": "x"}})
    assert denied["output"]["error"] == "PermissionDenied"


def test_an_agent_that_calls_itself_is_refused(daemon: DaemonProcess) -> None:
    given: Any = {"tool": "agent__caller", "arguments": {"objective": "again", "input": {}}}
    record = run(daemon, "caller", given)
    assert record["output"]["error"] == "Conflict"


def test_a_view_narrows_the_agents_too(daemon: DaemonProcess) -> None:
    with serving(daemon.socket, "--profile", "narrow") as editor:
        editor.initialize()
        assert set(listed(editor)) == {"agent__talker"}
        assert "error" in editor.ask("x", "tools/call", name="agent__shop", arguments={})
    with serving(daemon.socket, "--deny", "agent__*") as editor:
        editor.initialize()
        assert not EXPOSED & listed(editor).keys()


def test_a_client_learns_of_agents_that_are_added_changed_and_removed(daemon: DaemonProcess) -> None:
    told = {"notifications/tools/list_changed"}
    spec = {"entrypoint": "shop:talker", "expose": True, "autostart": False}
    with serving(daemon.socket) as editor:
        editor.initialize()
        listed(editor)
        daemon.call("agent.add", name="late", spec=spec, start=False, directory=str(daemon.folder))
        editor.await_told(told)
        assert "agent__late" in listed(editor)
        editor.heard.clear()
        daemon.call("agent.rm", names=["late"])
        editor.await_told(told)
        assert "agent__late" not in listed(editor)
        editor.heard.clear()
        daemon.config.write_text(CONFIG.replace("[agents.hidden]", "[agents.hidden]\nexpose=true"))
        daemon.call("daemon.reload")
        editor.await_told(told)
        assert "agent__hidden" in listed(editor)
        daemon.config.write_text(CONFIG)
        daemon.call("daemon.reload")
        assert daemon.worker("hidden-0")["incarnation"] == 1


def test_a_reload_changes_the_schemas_without_a_restart(daemon: DaemonProcess) -> None:
    assert run(daemon, "lister", [1])["output"] == 1
    config = CONFIG.replace('type = "array", items', 'type = "array", minItems = 2, items')
    narrower = 'output_schema = { type = "string" }\n[agents.hidden]'
    daemon.config.write_text(config.replace("[agents.hidden]", narrower))
    daemon.call("daemon.reload")
    with pytest.raises(InvalidParams) as caught:
        run(daemon, "lister", [1])
    assert caught.value.data["rule"] == "minItems"
    assert run(daemon, "lister", [1, 2])["error"]["data"]["limit"] == "output_schema"
    daemon.config.write_text(CONFIG)
    daemon.call("daemon.reload")
    assert run(daemon, "lister", [1])["output"] == 1
    assert daemon.worker("lister-0")["incarnation"] == 1


def test_a_tool_that_requires_a_task_is_refused_to_clients_without_tasks(daemon: DaemonProcess) -> None:
    order: Any = {"name": "agent__talker", "arguments": {"objective": "hello"}}
    with serving(daemon.socket) as editor, serving(daemon.socket) as modern:
        editor.initialize()
        assert called(editor, "agent__talker", {"objective": "hello"})["isError"] is False
        required = 'entrypoint = "shop:talker"\ntask_support = "required"\nexpose'
        changed = CONFIG.replace('entrypoint = "shop:talker"\nexpose', required, 1)
        daemon.config.write_text(changed)
        daemon.call("daemon.reload")
        assert editor.ask(2, "tools/call", **order)["error"]["code"] == -32601
        assert modern.ask(1, "tools/call", **order, _meta=MODERN)["error"]["code"] == -32021
        able: Any = {**MODERN, META + "clientCapabilities": {"extensions": {META + "tasks": {}}}}
        assert modern.ask(2, "tools/call", **order, _meta=able)["result"]["resultType"] == "task"
        daemon.config.write_text(CONFIG)
        daemon.call("daemon.reload")
        assert called(editor, "agent__talker", {"objective": "hello"})["isError"] is False


def test_a_person_is_asked_for_required_arguments_that_a_call_leaves_out(daemon: DaemonProcess) -> None:
    order: Any = {"name": "agent__shop", "arguments": {"count": 2}}
    said: Any = {"action": "accept", "content": {"item": "hat", "count": 9}}
    able: Any = {**MODERN, META + "clientCapabilities": {"elicitation": {}}}
    with serving(daemon.socket) as editor, serving(daemon.socket) as modern:
        params: Any = {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}}
        editor.ask("first", "initialize", **params, clientInfo={"name": "e", "version": "1"})
        assert called(editor, "agent__shop", {"count": 2})["isError"] is True
        daemon.config.write_text(CONFIG.replace('title = "The', 'ask_missing = true\ntitle = "The'))
        daemon.call("daemon.reload")
        editor.send({"id": 3, "method": "tools/call", "params": order})
        while (asked := editor.next()).get("method") != "elicitation/create":
            assert "result" not in asked, asked
        assert asked["params"]["requestedSchema"] == {
            "type": "object",
            "properties": {"item": {"type": "string"}},
            "required": ["item"],
        }
        editor.send({"id": asked["id"], "result": said})
        assert editor.answer(3)["result"]["structuredContent"] == {"total": 2}
        asked = modern.ask(1, "tools/call", **order, _meta=able)["result"]
        assert asked["resultType"] == "input_required"
        for answer, is_error in ((said, False), ({"action": "decline"}, True)):
            given: Any = {**order, "inputResponses": {"missing": answer}}
            result = modern.ask(str(answer), "tools/call", **given, _meta=able)["result"]
            assert result["isError"] is is_error
        refused = modern.ask(4, "tools/call", **order, _meta=MODERN)["result"]
        assert refused["isError"] is True
        daemon.config.write_text(CONFIG)
        daemon.call("daemon.reload")
        assert called(editor, "agent__shop", {"count": 2})["isError"] is True


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"entrypoint": "shop:talker", "task_support": "required"}, "task_support"),
        ({"entrypoint": "shop:talker", "expose": True, "ask_missing": True}, "ask_missing"),
        ({"command": ["x"], "protocol": "none", "expose": True}, "expose"),
        ({"command": ["x"], "type": "oneshot", "input_schema": {"type": "object"}}, "input_schema"),
        ({"command": ["x"], "input_schema": {"type": "nonsense"}}, "input_schema"),
        ({"command": ["x"], "input_schema": {"$ref": "http://h/s"}}, "input_schema"),
        ({"command": ["x"], "output_schema": {"const": "x" * 70_000}}, "output_schema"),
        ({"command": ["x"], "output_schema": True}, "output_schema"),
    ],
)
def test_a_schema_that_cannot_hold_is_refused_by_key(daemon: DaemonProcess, table: dict[str, object], key: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        daemon.call("agent.add", name="odd", kind="agent", spec=table)
    assert caught.value.data["key"] == f"agents.odd.{key}"


def test_no_server_has_the_name_before_these_tools(daemon: DaemonProcess) -> None:
    with pytest.raises(InvalidParams):
        daemon.call("agent.add", name="agent", kind="mcp", spec={"command": ["x"]})
