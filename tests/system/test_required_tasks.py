"""Tools of servers that run as tasks of MCP only: the pool calls them like others, in both shapes, whatever the server does."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import CorralError, Timeout, ToolFailed
from daemon_process import BOUND_S, DaemonProcess
from mcp_editor import MODERN, serving

pytestmark = pytest.mark.contract

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "mcp_tasks.py"

CONFIG = "".join(
    f"""
[mcp.servers.{era}]
command = ["{sys.executable}", "{PROGRAM}", "{era}"]
relays = ["elicitation"]
concurrency = "parallel"
mcp.protocol_version = "{version}"
"""
    for era, version in (("legacy", "auto"), ("modern", "2026-07-28"))
)

ERAS = ("legacy", "modern")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("required-tasks"), CONFIG) as running:
        yield running


def words(daemon: DaemonProcess, tool: str, **more: object) -> Any:
    """The text of the result of a call."""
    return daemon.call("mcp.call", name=tool, arguments={}, **more)["content"][0]["text"]


@pytest.mark.parametrize("era", ERAS)
def test_a_tool_that_requires_tasks_is_called_like_any_other(daemon: DaemonProcess, era: str) -> None:
    assert words(daemon, f"{era}__slow") == "slow is done"


def test_a_tool_with_optional_tasks_has_plain_calls(daemon: DaemonProcess) -> None:
    assert words(daemon, "legacy__optional") == "plain"


def test_a_failed_task_is_a_failed_call(daemon: DaemonProcess) -> None:
    assert daemon.call("mcp.call", name="legacy__fails", arguments={})["isError"] is True
    with pytest.raises(ToolFailed) as caught:
        words(daemon, "modern__fails")
    assert caught.value.data["code"] == -32603
    assert caught.value.data["task"] == "fails"


@pytest.mark.parametrize("era", ERAS)
def test_a_task_that_does_not_end_is_cancelled_at_the_time_limit(daemon: DaemonProcess, era: str) -> None:
    words(daemon, f"{era}__cancelled")  # it is up: its start is not part of the limit
    with pytest.raises(Timeout):
        words(daemon, f"{era}__endless", timeout_s=0.5)
    assert "endless" in words(daemon, f"{era}__cancelled")


@pytest.mark.parametrize("tool", ["forgets", "odd", "garbage", "dies"])
def test_what_a_server_does_wrong_is_an_error_that_names_it(daemon: DaemonProcess, tool: str) -> None:
    with pytest.raises(CorralError) as caught:
        words(daemon, f"legacy__{tool}")
    assert isinstance(caught.value, ToolFailed)
    assert caught.value.data["tool"] == tool
    assert caught.value.data["server"] == "legacy"


def test_a_client_is_asked_and_its_cancelling_cancels_the_task(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        params: Any = {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}}
        editor.ask(0, "initialize", **params, clientInfo={"name": "e", "version": "1"})
        editor.send({"method": "notifications/initialized"})
        tools = editor.ask(1, "tools/list")["result"]["tools"]
        assert all("execution" not in tool for tool in tools if tool["name"].startswith("legacy"))
        call: Any = {"name": "legacy__asks", "arguments": {}}
        editor.send({"id": 2, "method": "tools/call", "params": call})
        while (asked := editor.next()).get("method") != "elicitation/create":
            assert "result" not in asked, asked
        editor.send({"id": asked["id"], "result": {"action": "accept", "content": {}}})
        assert editor.answer(2)["result"]["content"][0]["text"] == "accept"
        meta: Any = {**MODERN, "io.modelcontextprotocol/clientCapabilities": {"extensions": {}}}
        declared: Any = {"io.modelcontextprotocol/tasks": {}}
        meta["io.modelcontextprotocol/clientCapabilities"]["extensions"] = declared
        call = {"name": "modern__slow", "arguments": {}}
        answer = editor.ask(3, "tools/call", **call, _meta=meta)
        assert answer.get("result"), answer
        result = answer["result"]
        assert result["resultType"] == "complete"  # the task is between corral and the server


def test_a_modern_task_that_asks_goes_on_with_the_answer_of_its_caller(daemon: DaemonProcess) -> None:
    able: Any = {**MODERN, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
    call: Any = {"name": "modern__asks", "arguments": {}}
    said: Any = {"which": {"action": "accept", "content": {"name": "this one"}}}
    with serving(daemon.socket) as editor:
        asked = editor.ask(1, "tools/call", **call, _meta=able)["result"]
        assert asked["resultType"] == "input_required"
        assert asked["inputRequests"]["which"]["params"]["message"] == "Which?"
        assert "asks" not in words(daemon, "modern__cancelled").split(",")
        forged = asked["requestState"].replace(":asks", ":slow")
        for state, code in ((forged, -32602), ("corral-task:", -32602)):
            given: Any = {**call, "inputResponses": said, "requestState": state}
            assert editor.ask(state, "tools/call", **given, _meta=able)["error"]["code"] == code
        given = {**call, "inputResponses": said, "requestState": asked["requestState"]}
        result = editor.ask(2, "tools/call", **given, _meta=able)["result"]
        assert (result["resultType"], result["content"][0]["text"]) == ("complete", "this one")
        refused = editor.ask(3, "tools/call", **call, _meta=MODERN)["result"]
        assert refused["isError"] is True
        assert "asks" in words(daemon, "modern__cancelled").split(",")


def test_a_legacy_client_answers_the_question_of_a_modern_task(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        params: Any = {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}}
        editor.ask(0, "initialize", **params, clientInfo={"name": "e", "version": "1"})
        editor.send({"method": "notifications/initialized"})
        call: Any = {"name": "modern__asks", "arguments": {}}
        editor.send({"id": 1, "method": "tools/call", "params": call})
        while (asked := editor.next()).get("method") != "elicitation/create":
            assert "result" not in asked, asked
        said = {"action": "accept", "content": {"name": "that one"}}
        editor.send({"id": asked["id"], "result": said})
        assert editor.answer(1)["result"]["content"][0]["text"] == "that one"


def test_a_caller_that_goes_cancels_the_task(daemon: DaemonProcess) -> None:
    def await_in(list_of_tasks: str) -> None:
        deadline = time.monotonic() + BOUND_S
        while "left" not in words(daemon, list_of_tasks):
            assert time.monotonic() < deadline

    with serving(daemon.socket) as editor:
        params: Any = {"protocolVersion": "2025-11-25", "capabilities": {}}
        editor.ask(0, "initialize", **params, clientInfo={"name": "e", "version": "1"})
        call: Any = {"name": "legacy__left", "arguments": {}}
        editor.send({"id": 1, "method": "tools/call", "params": call})
        await_in("legacy__looked_at")
        editor.send({"method": "notifications/cancelled", "params": {"requestId": 1}})
        await_in("legacy__cancelled")
