"""A long list of tools is two tools that find and call the others: for MCP clients on a pipe and over HTTP, and for agents."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from daemon_process import AGENTS, DaemonProcess
from http_api_client import Api
from mcp_editor import MODERN, Editor, serving

SHORT = ["corral__call_tool", "corral__find_tool"]

CONFIG = f"""
[daemon]
http = "127.0.0.1:0"

[mcp.servers.cortex]
disabled = true

[mcp.servers.shop]
command = ["{sys.executable}", "-I", "{AGENTS / "mcp_listed.py"}", "tools.json"]
denied_tools = ["item_13"]

[mcp.profiles.desk]
tools = ["shop__*"]
pinned = ["shop__item_1*"]
control = false

[mcp.profiles.whole]
list_limit = 0

[agents.crew]
entrypoint = "crew_agent:agent"
denied_tools = ["shop__item_7"]
expose = true
[agents.crew.process]
working_directory = "{AGENTS}"
[agents.crew.mcp]
pinned = ["shop__item_2"]

[agents.stepper]
entrypoint = "stepper:agent"
"""

STEPPER = """
from corral.worker import Agent

agent = Agent("stepper")


@agent.task
async def run(task):
    await task.step("first", lambda: 1)
    found = await task.tool("corral__find_tool", query="the ninth item")
    name = found.structured["tools"][0]["name"]
    return (await task.tool("corral__call_tool", {"name": name, "arguments": {"count": 2}})).text
"""

NUMBERS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def item(number: int) -> dict[str, Any]:
    word = NUMBERS[number - 1] if number <= len(NUMBERS) else f"number {number}"
    return {
        "name": f"item_{number}",
        "description": f"Sells the {word} item",
        "inputSchema": {"type": "object", "properties": {"count": {"type": "integer"}}},
        "annotations": {"readOnlyHint": number % 2 == 0},
    }


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("long-lists")
    (folder / "tools.json").write_text(json.dumps([item(number) for number in range(1, 61)]))
    (folder / "stepper.py").write_text(STEPPER)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def listed(editor: Editor, number: object = "listed") -> list[str]:
    return [tool["name"] for tool in editor.ask(number, "tools/list")["result"]["tools"]]


def called(editor: Editor, name: str, /, **arguments: object) -> Any:
    return editor.ask(f"call {name}", "tools/call", name=name, arguments=arguments)["result"]


def found(editor: Editor, query: str, **more: object) -> list[str]:
    structured = called(editor, "corral__find_tool", query=query, **more)["structuredContent"]
    return [tool["name"] for tool in structured["tools"]]


def text(result: Any) -> str:
    return str(result["content"][0]["text"])


def records(daemon: DaemonProcess, tool: str) -> list[Any]:
    return [each for each in daemon.call("audit.list", n=1000)["records"] if each.get("tool") == tool]


def test_a_tool_that_is_not_listed_is_found_and_called(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        tools = editor.ask("list", "tools/list")["result"]["tools"]
        assert [tool["name"] for tool in tools] == SHORT
        assert "shop (59)" in tools[1]["description"]
        (fourth, *_) = called(editor, "corral__find_tool", query="which tool sells the fourth item?")[
            "structuredContent"
        ]["tools"]
        assert fourth["name"] == "shop__item_4"
        assert fourth["inputSchema"]["properties"] == {"count": {"type": "integer"}}
        assert fourth["annotations"] == {"readOnlyHint": True}
        result = called(editor, "corral__call_tool", name="shop__item_4", arguments={"count": 3})
        assert json.loads(text(result)) == ["item_4", {"count": 3}]
        assert [each["result"] for each in records(daemon, "shop__item_4")] == ["ok"]
        assert not records(daemon, "corral__call_tool")


def test_own_tools_and_agents_are_found_and_called_too(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        assert "corral__logs" in found(editor, "read the logs")
        assert found(editor, "gives the agent crew a task")[0] in ("agent__crew", "corral__run")
        shown = called(editor, "corral__call_tool", name="corral__list", arguments={"kind": "servers"})
        assert [each["name"] for each in shown["structuredContent"]["entries"]] == ["shop"]
        arguments = {"objective": "echo", "input": 5}
        done = called(editor, "corral__call_tool", name="agent__crew", arguments=arguments)
        assert done["structuredContent"]["input"] == 5


def test_a_call_of_a_tool_that_was_found_can_be_a_task(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        info = {"name": "editor", "version": "1"}
        editor.ask("first", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=info)
        editor.send({"method": "notifications/initialized"})
        tools = {tool["name"]: tool for tool in editor.ask("list", "tools/list")["result"]["tools"]}
        assert tools["corral__call_tool"]["execution"] == {"taskSupport": "optional"}
        meant = {"name": "agent__crew", "arguments": {"objective": "echo", "input": 6}}
        answer = editor.ask("t", "tools/call", name="corral__call_tool", arguments=meant, task={})
        result = editor.ask("r", "tasks/result", taskId=answer["result"]["task"]["taskId"])["result"]
        assert result["structuredContent"]["input"] == 6


def test_a_wrong_name_is_answered_with_similar_ones(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        for wrong, near in (("shop__item_44x", "shop__item_44"), ("sells_ninth_item", "shop__item_9")):
            result = called(editor, "corral__call_tool", name=wrong)
            assert result["isError"]
            assert near in text(result)
        for arguments in ({}, {"name": "corral__call_tool"}, {"name": "shop__item_4", "arguments": 7}):
            assert called(editor, "corral__call_tool", **arguments)["isError"]
        assert called(editor, "corral__find_tool", query=7)["isError"]
        assert called(editor, "corral__find_tool", query="zebra")["structuredContent"] == {
            "tools": [],
            "searched": len(listed_all(daemon)),
        }


def listed_all(daemon: DaemonProcess) -> list[str]:
    with serving(daemon.socket, "--tools", "all") as editor:
        editor.initialize()
        return listed(editor)


def test_a_client_that_wants_all_tools_has_them(daemon: DaemonProcess) -> None:
    everything = listed_all(daemon)
    assert {"shop__item_1", "corral__run", "agent__crew"} <= set(everything)
    assert not set(SHORT) & set(everything)
    api = Api(daemon)
    for query, names in (("", SHORT), ("?tools=all", everything), ("?profile=whole", everything)):
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": MODERN}}
        headers = {
            "Accept": "application/json",
            "Authorization": f"Bearer {api.token}",
            "Content-Type": "application/json",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/list",
        }
        connection = api.connection()
        connection.request("POST", f"/mcp{query}", json.dumps(message), headers)
        result = json.loads(connection.getresponse().read())["result"]
        connection.close()
        assert [tool["name"] for tool in result["tools"]] == names


def test_what_a_client_may_not_use_is_neither_found_nor_called(daemon: DaemonProcess) -> None:
    with serving(daemon.socket, "--read-only", "--deny", "shop__item_4") as editor:
        editor.initialize()
        assert not records(daemon, "shop__item_3")
        for number in (3, 4, 13):
            assert f"shop__item_{number}" not in found(editor, f"item {number}", limit=20)
            result = editor.ask(
                number, "tools/call", name="corral__call_tool", arguments={"name": f"shop__item_{number}"}
            )
            assert "error" in result or result["result"]["isError"]
        (refused,) = records(daemon, "shop__item_3")
        assert refused["result"] == "PermissionDenied"


def test_a_profile_has_a_limit_and_pinned_tools_of_its_own(daemon: DaemonProcess) -> None:
    with serving(daemon.socket, "--profile", "desk") as editor:
        editor.initialize()
        assert listed(editor) == sorted(
            [*SHORT, "shop__item_1", *(f"shop__item_1{n}" for n in (0, 1, 2, *range(4, 10)))]
        )
    with serving(daemon.socket, "--profile", "desk", "--only", "shop__item_1*") as editor:
        editor.initialize()
        assert "shop__item_1" in listed(editor)
        assert not set(SHORT) & set(listed(editor, "again")), "it is short by itself"


def test_an_agent_finds_and_calls_the_tools_that_it_may_use(daemon: DaemonProcess) -> None:
    def output(objective: str, given: object = None, **boundaries: object) -> Any:
        task = daemon.call("task.run", agent="crew", objective=objective, input=given, boundaries=boundaries)
        return task["output"], task["tool_calls"]

    assert output("tools")[0] == [*SHORT, "shop__item_2"]
    assert output("tools", allowed_tools=["shop__item_4", "shop__item_7"])[0] == ["shop__item_4"]
    text, calls = output("tool corral__find_tool", {"query": "the fourth item"})
    assert json.loads(text["text"])["tools"][0]["name"] == "shop__item_4"
    assert calls == 0
    text, calls = output("tool corral__call_tool", {"name": "shop__item_4", "arguments": {"count": 3}})
    assert (json.loads(text["text"]), calls) == (["item_4", {"count": 3}], 1)
    for name, said in (("shop__item_7", "list"), ("shop__item_44x", "shop__item_4"), (5, "name")):
        text, _ = output("tool corral__call_tool", {"name": name})
        assert text["is_error"]
        assert said in text["text"]
    text, _ = output("tool corral__call_tool", {"name": "shop__item_4"}, allowed_tools=["shop__item_2"])
    assert text["is_error"]


def test_a_step_that_calls_a_tool_has_the_name_of_the_tool(daemon: DaemonProcess) -> None:
    task = daemon.call("task.run", agent="stepper", objective="go")
    assert json.loads(task["output"]) == ["item_9", {"count": 2}]
    steps = daemon.call("task.show", task=task["id"], steps=True)["steps"]
    assert [each["name"] for each in steps] == ["first", "tool:corral__find_tool", "tool:shop__item_9"]


def test_the_limit_and_the_pinned_tools_are_live(daemon: DaemonProcess) -> None:
    written = daemon.config.read_text()
    with serving(daemon.socket) as editor:
        editor.initialize()
        try:
            for keys, is_short in (("list_limit = 0", False), ('pinned = ["shop__item_6"]', True)):
                daemon.config.write_text(f"[mcp]\n{keys}\n{written}")
                daemon.call("daemon.reload")
                editor.await_told({"notifications/tools/list_changed"})
                names = listed(editor, keys)
                assert names == [*SHORT, "shop__item_6"] if is_short else len(names) > 59
        finally:
            daemon.config.write_text(written)
            daemon.call("daemon.reload")
