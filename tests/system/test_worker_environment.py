"""What a worker's environment holds: the socket, its name and number; and what differs between the workers of one agent."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import BIN, DaemonProcess, until
from free_ports import free_port, free_ports

pytestmark = pytest.mark.shell

NAMES = ("CORRAL_SOCKET", "CORRAL_WORKER", "CORRAL_AGENT", "CORRAL_INSTANCE", "PYTHONUNBUFFERED")

AGENT = f"""
import os
from corral.worker import Agent, Task

import os
AT_IMPORT = os.environ.get("PORT")
agent = Agent()


@agent.task
async def run(task: Task):
    if task.objective == "tools":
        return await tools()
    if task.objective == "print":
        print("half a line", end="")
    return {{**{{name: os.environ.get(name) for name in {NAMES}}}, "port": AT_IMPORT}}


async def tools():
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client
    program = StdioServerParameters(command={str(BIN / "corral")!r}, args=["mcp", "serve"])
    async with Client(stdio_client(program)) as client:
        return sorted(tool.name for tool in (await client.list_tools()).tools)


agent.run()
"""

SERVICE = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", sys.argv[1:], os.environ["OWN"], os.environ["CORRAL_INSTANCE"])
while True:
    server.accept()[0].close()
"""

CONFIG = """
[agents.forked]
entrypoint = "member:agent"
instances = 2
min_spare = 1
tools = ["odd__echo"]

[agents.cold]
entrypoint = "member:agent"
environment = {{ PORT = "${{port:8000}}" }}
instances = 2
tools = []

[agents.confined]
entrypoint = "member:agent"
tools = ["odd__echo"]
[agents.confined.process]
read_paths = [{paths}]
connect_ports = []

[agents.web]
command = ["python", "service.py", "${{port:{port}}}", "n${{instance}}"]
protocol = "none"
instances = 2
environment = {{ OWN = "own-${{instance}}" }}
ready = {{ tcp = "127.0.0.1:${{port:{port}}}", interval = "50ms" }}
[[agents.web.health]]
name = "port"
tcp = "127.0.0.1:${{port:{port}}}"
interval = "50ms"
start_delay = 0
[[agents.web.health]]
name = "number"
exec = ["sh", "-c", "test ${{instance}} = $CORRAL_INSTANCE"]
interval = "50ms"
start_delay = 0

[mcp.servers.odd]
command = ["python", "{programs}/mcp_odd.py"]
"""


def two_free_ports() -> int:
    """The first of two ports, one after the other."""
    first, second = free_ports(2)
    while second != first + 1:
        first, second = second, free_port()
    return first


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("environment")
    (folder / "member.py").write_text(AGENT)
    (folder / "service.py").write_text(SERVICE)
    programs = Path(__file__).parents[1] / "support" / "programs"
    readable = [folder, Path(sys.prefix), Path(__file__).parents[2]]
    paths = ", ".join(json.dumps(str(each)) for each in readable)
    config = CONFIG.format(port=two_free_ports(), programs=programs, paths=paths)
    with DaemonProcess(folder, config, environ={"CORRAL_SOCKET": ""}) as daemon:
        yield daemon


def reports(daemon: DaemonProcess, agent: str, instances: int) -> dict[str, Any]:
    """What the workers of an agent report, by the id of the worker."""
    found: dict[str, Any] = {}
    while len(found) < instances:
        record = daemon.call("task.run", agent=agent, objective="report")
        found[record["worker"]] = record["output"]
    return found


@pytest.mark.parametrize("agent", ["forked", "cold"])
def test_every_worker_has_the_socket_its_agent_and_its_number(daemon: DaemonProcess, agent: str) -> None:
    for number in range(2):
        daemon.await_worker(f"{agent}-{number}", lambda worker: worker["state"] == "Ready")
    for worker, report in reports(daemon, agent, 2).items():
        digits = worker.rpartition("-")[2]
        assert report["CORRAL_SOCKET"] == str(daemon.socket)
        assert report["CORRAL_WORKER"].partition("#")[0] == worker
        assert (report["CORRAL_AGENT"], report["CORRAL_INSTANCE"]) == (agent, digits)
        assert report["port"] == (str(8000 + int(digits)) if agent == "cold" else None)
    warm = daemon.call("daemon.status", names=[agent])["agents"][0]["warm"]
    assert warm["state"] == ("warm" if agent == "forked" else "cold"), warm


@pytest.mark.parametrize("agent", ["forked", "cold"])
def test_what_an_agent_prints_is_in_the_log_before_its_line_ends(daemon: DaemonProcess, agent: str) -> None:
    daemon.call("task.run", agent=agent, objective="print")
    until(lambda: "half a line" in daemon.corral("logs", agent).stdout)


def test_a_number_stays_over_a_restart_and_the_next_follows_at_scaling(daemon: DaemonProcess) -> None:
    daemon.call("agent.restart", names=["cold"])
    daemon.call("agent.scale", name="cold", instances=3)
    ports = {report["port"] for report in reports(daemon, "cold", 3).values()}
    assert ports == {"8000", "8001", "8002"}


def test_a_service_gets_its_port_and_is_checked_there(daemon: DaemonProcess) -> None:
    for number in range(2):
        worker = daemon.await_worker(f"web-{number}", lambda worker: worker["state"] == "Ready")
        with daemon.client() as client:
            client.call("event.follow", {"types": ["health.*"]})
            while any(check["healthy"] is None for check in worker["health"]):
                worker = daemon.worker(f"web-{number}")
        assert [check["healthy"] for check in worker["health"]] == [True, True], worker["health"]


def test_what_a_python_service_prints_is_in_the_log_while_it_runs(daemon: DaemonProcess) -> None:
    lines = daemon.corral("logs", "web").stdout
    for number in range(2):
        assert f"'n{number}'] own-{number} {number}" in lines


@pytest.mark.parametrize("agent", ["forked", "confined"])
def test_an_mcp_client_in_an_agent_sees_the_tools_that_the_agent_may_call(daemon: DaemonProcess, agent: str) -> None:
    done = daemon.call("task.run", agent=agent, objective="tools")
    assert "odd__echo" in done["output"], done
