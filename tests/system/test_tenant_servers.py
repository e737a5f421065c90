"""MCP servers where there are tenants: who sees which, whose process a call reaches, and when it ends."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import NotFound
from daemon_process import AGENTS, BOUND_S, DaemonProcess

STATE = f'command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]'
USER = f'command = ["{sys.executable}", "{AGENTS}/tool_user.py"]'
AGENT = """
[agents."{0}"]
{1}
"""
CONFIG = (
    "[tenants.acme]\n[tenants.bee]\n"
    + "".join(AGENT.format(name, USER) for name in ("own", "acme/a", "acme/b", "bee/c", "bee/idle"))
    + f"""
[agents.open]
{USER}
expose = true
[agents."acme/open"]
{USER}
expose = true
[agents."bee/open"]
{USER}
expose = true
[mcp.servers."acme/files"]
{STATE}
[mcp.servers."bee/files"]
{STATE}
[mcp.servers.files]
{STATE}
share = "tenant"
[mcp.servers.common]
{STATE}
[mcp.servers.shared]
{STATE}
share = "tenant"
instances = {{ min = 1, max = 4 }}
[mcp.servers.lone]
{STATE}
share = "agent"
instances = {{ min = 1, max = 6 }}
[mcp.servers.cortex]
disabled = true
"""
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("servers"), CONFIG) as running:
        yield running


def ask(daemon: DaemonProcess, agent: str, method: str, **params: object) -> Any:
    task = daemon.call("task.run", agent=agent, objective=method, input=params)
    assert task["state"] == "succeeded", task
    return task["output"]


def tool(daemon: DaemonProcess, agent: str, name: str, **arguments: object) -> str:
    answer = ask(daemon, agent, "tools/call", name=name, arguments=arguments)
    return str(answer["content"][0]["text"]) if "content" in answer else str(answer["message"])


def servers(daemon: DaemonProcess, agent: str) -> dict[str, str]:
    """The servers that an agent sees: the first part of a tool's name, and the server's own name."""
    tools = ask(daemon, agent, "tools/list")["tools"]
    found = {each["name"].partition("__")[0]: each["server"] for each in tools}
    found.pop("agent")
    return found


def awaited(is_so: Callable[[], bool]) -> None:
    """Asks the daemon again and again until it is so."""
    until = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < until


def test_an_agent_sees_the_servers_of_its_tenant_and_those_that_the_owner_gives_to_each(daemon: DaemonProcess) -> None:
    of_all = {"shared": "shared", "lone": "lone"}
    assert servers(daemon, "acme/a") == {"files": "acme/files", **of_all}
    assert servers(daemon, "bee/c") == {"files": "bee/files", **of_all}
    assert servers(daemon, "own") == {"files": "files", "common": "common", **of_all}
    known = {each["server"] for each in daemon.call("mcp.tools")["tools"]}
    assert known == {"acme/files", "bee/files", "files", "common", "shared", "lone"}


def test_a_call_of_a_name_reaches_the_server_of_the_callers_tenant(daemon: DaemonProcess) -> None:
    pids = {agent: tool(daemon, agent, "files__pid") for agent in ("own", "acme/a", "bee/c")}
    assert len(set(pids.values())) == 3
    assert tool(daemon, "acme/b", "files__pid") == pids["acme/a"]
    for agent in ("acme/a", "bee/c"):
        for name in ("common__get", "acme/files__get", "bee/files__get", "files/files__get"):
            assert "cannot" in tool(daemon, agent, name), (agent, name)
    for name in ("acme/files__get", "bee/files__get"):
        assert "cannot" in tool(daemon, "own", name)
    # The owner's own clients see all, under full names.
    assert daemon.call("mcp.call", name="acme/files__pid")["content"][0]["text"] == pids["acme/a"]


def test_a_name_that_only_a_foreign_server_has_is_as_unknown_as_any(daemon: DaemonProcess) -> None:
    foreign = ask(daemon, "acme/a", "tools/call", name="common__get", arguments={})
    absent = ask(daemon, "acme/a", "tools/call", name="comnon__get", arguments={})
    assert foreign["code"] == absent["code"] == NotFound.code
    assert foreign["message"].replace("common", "comnon") == absent["message"]
    assert foreign["data"].keys() == absent["data"].keys()
    assert foreign["data"].get("near") == absent["data"].get("near")


def test_an_exposed_agent_is_a_tool_of_its_own_tenant_alone(daemon: DaemonProcess) -> None:
    exposed = {"own": "agent__open", "acme/a": "agent__acme_open", "bee/c": "agent__bee_open"}
    for agent, own in exposed.items():
        tools = ask(daemon, agent, "tools/list")["tools"]
        assert [each["name"] for each in tools if each["server"] == "agent"] == [own]
        for name in exposed.values():
            call: dict[str, Any] = {"name": name, "arguments": {"objective": "tools/list", "input": {}}}
            answer = ask(daemon, agent, "tools/call", **call)
            if name == own:
                assert answer.get("isError") is not True, answer
            else:
                assert answer["code"] == NotFound.code, (agent, name)


def test_agents_of_a_tenant_share_a_process_that_no_other_tenant_has(daemon: DaemonProcess) -> None:
    tool(daemon, "acme/a", "shared__put", value="of acme")
    assert tool(daemon, "acme/b", "shared__get") == "of acme"
    assert tool(daemon, "bee/c", "shared__get") == tool(daemon, "own", "shared__get") == ""
    pids = [tool(daemon, agent, "shared__pid") for agent in ("acme/a", "acme/b", "bee/c", "own")]
    assert pids[0] == pids[1]
    assert len(set(pids)) == 3


def test_each_agent_has_its_own_process_where_a_server_says_so(daemon: DaemonProcess) -> None:
    pids = [tool(daemon, agent, "lone__pid") for agent in ("acme/a", "acme/b", "bee/c", "own")]
    assert len(set(pids)) == 4


def test_the_process_of_a_tenant_ends_with_its_last_agent(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        users = ("acme/a", "acme/b", "bee/c")
        pids = {agent: int(tool(daemon, agent, "shared__pid")) for agent in users}
        lone = int(tool(daemon, "bee/c", "lone__pid"))
        bees = ["bee/c", "bee/idle"]

        def running() -> set[int]:
            status = daemon.call("daemon.status")["mcp_servers"]
            return {worker["pid"] for each in status for worker in each["workers"]}

        config = CONFIG.replace(f'[agents."bee/open"]\n{USER}\nexpose = true\n', "")
        daemon.config.write_text(config)
        assert daemon.call("daemon.reload")["removed"] == ["bee/open"]
        text = config.replace(AGENT.format("bee/c", USER), "")
        daemon.config.write_text(text)
        assert daemon.call("daemon.reload")["removed"] == bees[:1]
        awaited(lambda: lone not in running())
        assert pids["bee/c"] in running()  # one agent of the tenant is left
        daemon.config.write_text(text.replace(AGENT.format("bee/idle", USER), ""))
        assert daemon.call("daemon.reload")["removed"] == bees[1:]
        awaited(lambda: pids["bee/c"] not in running())
        assert pids["acme/a"] in running()
