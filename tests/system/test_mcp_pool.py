"""The pool of MCP servers in a running daemon: started by need, listed while stopped, shared by the rules."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import (
    CorralError,
    InvalidParams,
    NotFound,
    Overloaded,
    PermissionDenied,
    SpawnFailed,
    Timeout,
)
from daemon_process import AGENTS, BOUND_S, DaemonProcess

STATE = f'command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"'

CONFIG = f"""
[mcp.servers.lazy]
{STATE}]
idle_timeout = "200ms"
[mcp.servers.hidden]
{STATE}]
denied_tools = ["put", "hidden__get"]
[mcp.servers.broken]
{STATE}, "--dies"]
recovery.max_restart_attempts = 1
recovery.restart_backoff_base = "10ms"
[mcp.servers.patient]
{STATE}, "--dies"]
recovery.restart_backoff_base = "10m"
recovery.restart_backoff_max = "10m"
[mcp.servers.limited]
{STATE}]
max_calls_per_minute = 2
[mcp.servers.spared]
{STATE}]
spares = 1
idle_timeout = 0
[mcp.servers.wide]
{STATE}]
instances = 2
[mcp.servers.narrowed]
{STATE}]
instances = 2
[mcp.servers.private]
{STATE}]
share = "agent"
instances = {{ min = 1, max = 2 }}
[mcp.servers.dedicated]
{STATE}]
share = "agent"
process.shutdown_grace_period = "200ms"
instances = {{ min = 1, max = 3 }}
"""

AGENT = f"""
[agents.%s]
command = ["{sys.executable}", "-P", "{AGENTS}/crew_agent.py"]
autostart = false
tools = [%s]
"""

WHOLE = CONFIG + "".join(AGENT % (name, '"private__*"') for name in ("ann", "bob", "cleo"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("pool"), WHOLE) as started:
        yield started


def text(result: Any) -> str:
    return str(result["content"][0]["text"])


def call(daemon: DaemonProcess, tool: str, timeout_s: float | None = None, /, **given: Any) -> str:
    result = daemon.call("mcp.call", name=tool, arguments=given, timeout_s=timeout_s)
    return text(result)


def refusal(daemon: DaemonProcess, tool: str, timeout_s: float | None = None, /, **given: Any) -> CorralError:
    with pytest.raises(CorralError) as caught:
        call(daemon, tool, timeout_s, **given)
    return caught.value


def server(daemon: DaemonProcess, name: str) -> Any:
    (entry,) = daemon.call("daemon.status", names=[name])["mcp_servers"]
    return entry


def tools(daemon: DaemonProcess, name: str) -> set[str]:
    return {tool["tool"] for tool in daemon.call("mcp.tools", server=name)["tools"]}


def rests(worker: Any) -> bool:
    return worker["pid"] is None and worker["state"] == "Terminated"


def gave_up(worker: Any) -> bool:
    last = worker["last_exit"]
    return last is not None and last["result"] == "restart-limit"


def test_a_server_starts_at_its_first_call_stops_unused_and_stays_listed_by_the_next_daemon(tmp_path: Path) -> None:
    config = f'[mcp.servers.lazy]\n{STATE}]\nidle_timeout = "200ms"\n'
    with DaemonProcess(tmp_path, config) as daemon:
        assert daemon.worker("lazy-0")["state"] == "Initial"
        assert call(daemon, "lazy__put", value="x") == "ok"
        facts = server(daemon, "lazy")["mcp"]
        assert (facts["era"], facts["version"], facts["calls"]) == ("legacy", "2025-11-25", 1)
        assert (facts["prompts"], facts["resources"], facts["templates"]) == (1, 1, 1)
        last = daemon.await_worker("lazy-0", rests)["last_exit"]
        assert last["result"] == "stopped"
        assert "put" in tools(daemon, "lazy")
        daemon.stop()
        daemon.start()
        assert "put" in tools(daemon, "lazy"), "it is not started for that"
        assert daemon.worker("lazy-0")["state"] == "Initial"
        assert server(daemon, "lazy")["mcp"]["era"] == "legacy"

        daemon.config.write_text(config.replace('mcp_state.py"', 'mcp_state.py", "--extra=more"'))
        daemon.call("daemon.reload")
        assert server(daemon, "lazy")["tools"] == [], "another program may have others"
        assert "more" in tools(daemon, "lazy"), "so it is started and asked"
        daemon.config.write_text("")
        daemon.call("daemon.reload")
        with pytest.raises(NotFound):
            daemon.call("mcp.tools", server="lazy")


def test_a_server_that_dies_before_its_handshake_says_why_and_is_parked(daemon: DaemonProcess) -> None:
    error = refusal(daemon, "broken__put", value="x")
    assert error.code == SpawnFailed.code
    assert "the moon is in the wrong house" in error.message
    daemon.await_worker("broken-0", gave_up)
    error = refusal(daemon, "broken__put", value="x")
    assert (error.code, error.data["result"]) == (SpawnFailed.code, "restart-limit")
    assert "the moon is in the wrong house" in error.message
    entry = server(daemon, "broken")
    assert entry["state"] == "Terminated"
    assert entry["mcp"]["stderr"] == ["the moon is in the wrong house"] * 2
    assert "broken" in daemon.call("mcp.tools")["failures"]


def test_a_call_while_a_server_waits_for_its_next_start_ends_with_its_last_words(daemon: DaemonProcess) -> None:
    assert "patient" in daemon.call("mcp.tools")["failures"]
    daemon.await_worker("patient-0", lambda w: w["next_start_in_s"] is not None)
    error = refusal(daemon, "patient__put", 0.2, value="x")
    assert error.code == SpawnFailed.code
    assert "the moon is in the wrong house" in error.message
    assert "patient" in daemon.call("mcp.tools")["failures"], "whoever lists does not wait for it"


def test_tools_that_are_denied_are_neither_listed_nor_called(daemon: DaemonProcess) -> None:
    assert tools(daemon, "hidden") == {"pid", "meet", "read_folder"}
    assert refusal(daemon, "hidden__put", value="x").code == NotFound.code
    assert refusal(daemon, "hidden__get").code == NotFound.code
    assert call(daemon, "hidden__pid").isdecimal()


def test_arguments_are_judged_before_the_server_sees_them(daemon: DaemonProcess) -> None:
    calls = server(daemon, "lazy")["mcp"]["calls"]
    for arguments, key, rule in (
        ({}, "path", "required"),
        ({"path": 3}, "path", "type"),
        ({"path": "/" + "a" * 30_000 + "!"}, "path", "pattern"),
        ({"path": "/a", "more": 1}, "more", "additionalProperties"),
    ):
        error = refusal(daemon, "lazy__read_folder", **arguments)
        assert (error.code, error.data["key"], error.data["rule"]) == (InvalidParams.code, key, rule)
    facts = server(daemon, "lazy")["mcp"]
    assert (facts["calls"] - calls, facts["in_flight"]) == (4, 0)
    assert call(daemon, "lazy__read_folder", path="/a/b") == ""


def test_a_server_is_called_no_more_often_than_it_may_be(daemon: DaemonProcess) -> None:
    assert call(daemon, "limited__put", value="x") == "ok"
    assert call(daemon, "limited__get") == "x"
    for _ in range(3):
        error = refusal(daemon, "limited__get")
        assert (error.code, error.data["limit"]) == (Overloaded.code, "max_calls_per_minute")
        wait_s: Any = error.data["retry_after_s"]
        assert 0 < wait_s <= 30
    (event,) = daemon.call("event.list", types=["limit.calls"])["events"]
    assert (event["agent"], event["limit"]) == ("limited", 2)


def test_a_spare_is_ready_and_takes_over_when_the_other_is_killed(daemon: DaemonProcess) -> None:
    first = int(call(daemon, "spared__pid"))
    spare = daemon.await_worker("spared-1", lambda w: w["state"] == "Ready")["pid"]
    assert [int(call(daemon, "spared__pid")) for _ in range(3)] == [first] * 3
    os.kill(first, signal.SIGKILL)
    daemon.await_worker("spared-0", lambda w: w["pid"] != first)
    assert int(call(daemon, "spared__pid")) in (spare, daemon.worker("spared-0")["pid"])
    assert daemon.worker("spared-1")["pid"] == spare


def test_two_processes_work_at_the_same_time_and_the_risk_of_that_is_reported(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as both:
        calls = [
            both.submit(call, daemon, "wide__meet", folder=str(tmp_path), name=a, other=b)
            for a, b in (("a", "b"), ("b", "a"))
        ]
        assert [each.result(BOUND_S) for each in calls] == ["met", "met"]
    assert server(daemon, "wide")["mcp"]["warning"]
    assert server(daemon, "lazy")["mcp"]["warning"] is None
    assert daemon.log.read_text().count("server wide") == 1


def test_a_call_does_not_go_to_a_process_that_is_being_removed(daemon: DaemonProcess, tmp_path: Path) -> None:
    def meet(name: str) -> str:
        return call(daemon, "narrowed__meet", folder=str(tmp_path), name=name, other="end")

    daemon.call("agent.start", names=["narrowed"])
    with ThreadPoolExecutor(4) as many:
        calls = [many.submit(meet, name) for name in "ab"]
        for worker in ("narrowed-0", "narrowed-1"):
            daemon.await_worker(worker, lambda w: w["state"] == "Busy")
        scaled = many.submit(daemon.call, "agent.scale", name="narrowed", instances=1)
        daemon.await_worker("narrowed-1", lambda w: w["state"] == "ShuttingDown")
        calls.append(many.submit(call, daemon, "narrowed__get"))
        error = refusal(daemon, "narrowed__get", 0.1)
        (tmp_path / "end").touch()
        assert [each.result(BOUND_S) for each in calls] == ["met", "met", ""]
        scaled.result(BOUND_S)
    assert isinstance(error, Timeout), "there is one process left, and it is at work"


def test_agents_that_share_with_nobody_find_their_own_state_and_never_another_s(daemon: DaemonProcess) -> None:
    def tool(agent: str, name: str, **arguments: Any) -> str:
        task = daemon.call("task.run", agent=agent, objective=f"tool {name}", input=arguments)
        assert task["state"] == "succeeded", task
        return str(task["output"]["text"])

    daemon.call("agent.start", names=["ann", "bob", "cleo"])
    assert tool("ann", "private__put", value="ann's") == "ok"
    assert tool("bob", "private__get") == ""
    assert tool("bob", "private__put", value="bob's") == "ok"
    assert (tool("ann", "private__get"), tool("bob", "private__get")) == ("ann's", "bob's")
    assert len(server(daemon, "private")["workers"]) == 2
    assert tool("cleo", "private__get") == "", "who has rested longest gave way, and was restarted"
    assert tool("bob", "private__get") == "bob's"
    assert tool("ann", "private__get") == "", "what it left went with its process"
    assert len(server(daemon, "private")["workers"]) == 2
    task = daemon.call("task.run", agent="ann", objective="tool lazy__get", input={})
    assert task["error"]["code"] == PermissionDenied.code


def test_the_process_of_a_removed_agent_ends_with_it_and_those_of_others_stay(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    def tool(agent: str, name: str, **arguments: Any) -> str:
        task = daemon.call("task.run", agent=agent, objective=f"tool dedicated__{name}", input=arguments)
        assert task["state"] == "succeeded", task
        return str(task["output"]["text"])

    def add(name: str) -> None:
        command = [sys.executable, "-P", f"{AGENTS}/crew_agent.py"]
        process = {"shutdown_grace_period": "200ms"}
        spec = {"command": command, "tools": ["dedicated__*"], "process": process}
        daemon.call("agent.add", name=name, spec=spec, start=True)

    def facts(number: int) -> Any:
        return daemon.worker(f"dedicated-{number}")

    whole = daemon.config.read_text()
    daemon.config.write_text(whole + AGENT % ("eve", '"dedicated__*"'))
    daemon.call("daemon.reload")
    daemon.call("agent.start", names=["eve"])
    add("dan")
    add("fay")
    for agent in ("dan", "eve", "fay"):
        assert tool(agent, "put", value=agent) == "ok"
    stays = facts(2)["pid"]
    daemon.call("agent.rm", name="dan")
    assert daemon.await_worker("dedicated-0", rests)["last_exit"]["result"] == "stopped"
    daemon.config.write_text(whole)
    assert daemon.call("daemon.reload")["removed"] == ["eve"]
    daemon.await_worker("dedicated-1", rests)
    assert (facts(2)["pid"], tool("fay", "get")) == (stays, "fay")

    add("dan")
    assert tool("dan", "get") == "", "another agent of this name finds nothing of the first"
    assert tool("dan", "pid") in {str(facts(0)["pid"]), str(facts(1)["pid"])}
    meeting = {"folder": str(tmp_path), "name": "dan", "other": "nobody"}
    daemon.call("task.submit", agent="dan", objective="tool dedicated__meet", input=meeting)
    daemon.await_worker("dedicated-0", lambda worker: worker["state"] == "Busy")
    daemon.call("agent.rm", name="dan")
    daemon.await_worker("dedicated-0", rests)
    assert facts(1)["pid"] is None, "the call that was under way is not repeated"
    assert (facts(2)["pid"], tool("fay", "get")) == (stays, "fay")
