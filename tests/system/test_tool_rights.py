"""Who may list and call which tools: agents, their tasks, and the processes in their trees; what the audit keeps of it."""

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from corral.worker.contract.errors import PermissionDenied, ResourceLimitExceeded
from daemon_process import AGENTS, BOUND_S, DaemonProcess

ODD = f'["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]'

ASKING = """
import json, socket, sys, time
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    for name in sys.argv[2:]:
        params = {"name": name, "arguments": {"text": "x"}}
        request = {"jsonrpc": "2.0", "id": 1, "method": "mcp.call", "params": params}
        sock.sendall(json.dumps(request).encode() + b"\\n")
        answer = json.loads(sock.makefile().readline())
        print(name, answer.get("error", {}).get("code", "ok"), flush=True)
time.sleep(600)
"""

CONFIG = f"""
[agents.user]
command = ["{sys.executable}", "{AGENTS}/tool_user.py"]
tools = ["odd__*", "hidden__*"]
denied_tools = ["odd__e*o", "hidden__*"]
resources.max_concurrent_requests = 2

[mcp.servers.odd]
command = {ODD}
[mcp.servers.hidden]
command = {ODD}
[mcp.servers.other]
command = {ODD}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("tool_rights"), CONFIG) as process:
        yield process


def asked(daemon: DaemonProcess, method: str, params: object = None, **boundaries: object) -> Any:
    """What a worker is answered that asks for something in a task."""
    task = daemon.call("task.run", agent="user", objective=method, input=params or {}, boundaries=boundaries)
    assert task["state"] == "succeeded", task["error"]
    return task["output"]


def names(answer: Any) -> list[str]:
    return [tool["name"] for tool in answer["tools"]]


def calls(daemon: DaemonProcess) -> list[Any]:
    found: list[Any] = daemon.call("audit.list", actions=["mcp.call"])["records"]
    return found


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


def test_what_is_denied_is_neither_listed_nor_called(daemon: DaemonProcess) -> None:
    listed = names(asked(daemon, "tools/list"))
    assert "odd__methods" in listed
    assert {"odd__echo"}.isdisjoint(listed)
    assert all(each.startswith("odd__") for each in listed)
    for name in ("odd__echo", "hidden__echo", "other__echo", "cortex__cortex_search"):
        answer = asked(daemon, "tools/call", call(name, text="x"))
        assert (name, answer["code"]) == (name, PermissionDenied.code)
    assert "content" in asked(daemon, "tools/call", call("odd__methods"))


def test_a_list_starts_no_server_whose_tools_may_not_be_called(daemon: DaemonProcess) -> None:
    asked(daemon, "tools/list", None, allowed_tools=["odd__*", "other__*"])
    assert daemon.worker("odd-0")["pid"] is not None
    assert daemon.worker("other-0")["pid"] is None


def test_a_task_lists_and_calls_what_its_boundaries_allow(daemon: DaemonProcess) -> None:
    narrow = ["odd__meth*", "odd__echo", "other__*"]
    assert names(asked(daemon, "tools/list", None, allowed_tools=narrow)) == ["odd__methods"]
    assert asked(daemon, "tools/list", None, allowed_tools=[]) == {"tools": []}
    refused = asked(daemon, "tools/call", call("odd__slow"), allowed_tools=narrow)
    assert refused["code"] == PermissionDenied.code
    assert "content" in asked(daemon, "tools/call", call("odd__methods"), allowed_tools=narrow)


@pytest.mark.parametrize(
    ("boundaries", "code"),
    [({"allowed_tools": ["odd__slow"]}, PermissionDenied.code), ({"max_tool_calls": 0}, ResourceLimitExceeded.code)],
    ids=["tools", "calls"],
)
def test_a_call_that_names_no_task_is_bound_by_each_that_the_worker_runs(
    daemon: DaemonProcess, boundaries: dict[str, object], code: int
) -> None:
    held = daemon.call("task.submit", agent="user", objective="hold", boundaries=boundaries)["id"]
    try:
        assert asked(daemon, "tools/call", call("odd__methods"))["code"] == code
    finally:
        daemon.call("task.cancel", task=held)
        daemon.call("task.wait", task=held)
    assert "content" in asked(daemon, "tools/call", call("odd__methods"))


def test_a_process_inside_an_agents_tree_has_its_tools_on_the_control_socket_too(daemon: DaemonProcess) -> None:
    command = [sys.executable, "-c", ASKING, str(daemon.socket), "odd__methods", "odd__echo"]
    spec = {"command": command, "protocol": "none", "control": "operate", "tools": ["odd__m*"]}
    daemon.call("agent.add", name="inside", spec=spec)
    with daemon.client() as client:
        client.call("log.follow", {"names": ["inside"], "n": 10}, timeout_s=BOUND_S)
        told: list[str] = []
        following = client.notifications()
        while len(told) < 2:
            heard: Any = next(following).params
            told += [record["text"] for record in heard["records"]]
    assert told == ["odd__methods ok", f"odd__echo {PermissionDenied.code}"]
    daemon.call("agent.rm", name="inside")


def test_a_call_whose_caller_hangs_up_is_recorded_as_cancelled(daemon: DaemonProcess) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "mcp.call", "params": call("odd__hold")}
    with daemon.client() as client:
        client.call("event.follow", {"types": ["mcp.call"]}, timeout_s=BOUND_S)
        with closing(socket.socket(socket.AF_UNIX)) as caller:
            caller.connect(str(daemon.socket))
            caller.sendall(json.dumps(request).encode() + b"\n")
            daemon.await_worker("odd-0", lambda worker: worker["state"] == "Busy")
        told: Any = next(client.notifications()).params
    assert [event["outcome"] for event in told["events"]] == ["cancelled"]
    assert [each["result"] for each in calls(daemon)][-1] == "cancelled"


def test_arguments_are_kept_when_that_is_configured_short_ones_and_no_secrets(daemon: DaemonProcess) -> None:
    arguments = {"text": "kept", "api_key": "hunter2", "deep": [{"headers": {"X": "hunter2"}}]}
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":")).encode()
    digest = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
    daemon.call("mcp.call", name="odd__echo", arguments=arguments)
    assert calls(daemon)[-1]["arguments"] == digest
    daemon.config.write_text(f'{CONFIG}\n[audit]\narguments = "keep"\n')
    daemon.call("daemon.reload")
    daemon.call("mcp.call", name="odd__echo", arguments=arguments)
    daemon.call("mcp.call", name="odd__echo", arguments={"text": "x" * 5000})
    kept, long = (each["arguments"] for each in calls(daemon)[-2:])
    assert {key: kept[key] for key in digest} == digest
    assert kept["value"] == {"text": "kept", "api_key": "***", "deep": [{"headers": {"X": "***"}}]}
    assert set(long) == {"sha256", "bytes"}
    shown: subprocess.CompletedProcess[str] = daemon.corral("audit", "--action", "mcp.call")
    assert 'odd__echo {"api_key"' in shown.stdout
    assert "hunter2" not in json.dumps(calls(daemon)) + shown.stdout
