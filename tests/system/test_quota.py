"""`quota.list` and `corral quota`: what is used of each limit that the daemon holds, and what was refused."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from corral.worker.contract.errors import NotFound, Overloaded
from daemon_process import AGENTS, DaemonProcess

AGENT = """
from corral.worker import Agent, CorralError

agent = Agent("spender")


@agent.task
async def run(task):
    if task.input == "spend":
        task.usage(tokens=70, cost_cents=3)
        return "spent"
    for _ in range(task.input or 0):
        try:
            await task.tool("odd__echo", text="hello")
        except CorralError:
            pass
    return "called"
"""

CONFIG = f"""
[agents.spender]
entrypoint = "spender:agent"
resources.max_tokens_per_minute = 100
resources.max_tool_calls_per_minute = 3
tasks.max_cost_cents_per_day = 500

[agents.small]
entrypoint = "spender:agent"
autostart = false
tasks.max_queue_size = 2

[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
max_calls_per_minute = 50
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("quota")
    (folder / "spender.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def quotas(daemon: DaemonProcess, *names: str) -> dict[str, dict[str, Any]]:
    """The entries of one agent or server by key; without a name those of the whole daemon."""
    found = daemon.call("quota.list", **({"names": list(names)} if names else {}))["quotas"]
    return {each["key"]: each for each in found if names or each["name"] is None}


def test_usage_counts_and_refused_calls_are_reported_beside_each_limit(daemon: DaemonProcess) -> None:
    for _ in range(2):
        daemon.call("task.run", agent="spender", objective="spend", input="spend")
    found = quotas(daemon, "spender")
    tokens = found["resources.max_tokens_per_minute"]
    assert (tokens["limit"], tokens["used"], tokens["refused"]) == (100, 140, 1)
    cents = found["tasks.max_cost_cents_per_day"]
    assert (cents["limit"], cents["used"], cents["refused"]) == (500, 6, 0)
    daemon.config.write_text(CONFIG.replace("tokens_per_minute = 100", "tokens_per_minute = 0"))
    daemon.call("daemon.reload")
    assert "resources.max_tokens_per_minute" not in quotas(daemon, "spender"), "it is off"
    daemon.call("task.run", agent="spender", objective="call", input=5)
    calls = quotas(daemon, "spender")["resources.max_tool_calls_per_minute"]
    assert (calls["limit"], calls["used"], calls["refused"], calls["window_s"]) == (3, 3, 2, 60)
    server = quotas(daemon, "odd")["max_calls_per_minute"]
    assert (server["limit"], server["used"], server["refused"]) == (50, 3, 0)


def test_a_full_queue_counts_what_it_refuses(daemon: DaemonProcess) -> None:
    waiting = [daemon.call("task.submit", agent="small", objective="wait", when_down="queue")["id"] for _ in range(2)]
    with pytest.raises(Overloaded):
        daemon.call("task.submit", agent="small", objective="wait", when_down="queue")
    queue = quotas(daemon, "small")["tasks.max_queue_size"]
    assert (queue["limit"], queue["used"], queue["refused"]) == (2, 2, 1)
    total = quotas(daemon)["tasks.max_total_queue_size"]
    assert (total["used"], total["refused"]) == (2, 0)
    for task in waiting:
        daemon.call("task.cancel", task=task)
    assert quotas(daemon, "small")["tasks.max_queue_size"]["used"] == 0


def test_places_of_workers_and_processes_are_those_that_are_taken_now(daemon: DaemonProcess) -> None:
    places = quotas(daemon, "spender")["resources.max_concurrent_requests"]
    assert (places["limit"], places["used"]) == (1, 0)
    processes = quotas(daemon)["process.max_concurrent_processes"]
    assert (processes["limit"], processes["used"]) == (100, 2), "the spender and the server"


def test_the_command_shows_them_and_names_what_is_not_there(daemon: DaemonProcess) -> None:
    lines = daemon.corral("quota", "small").stdout.splitlines()
    assert lines[0].split() == ["NAME", "LIMIT", "VALUE", "USED", "WINDOW", "REFUSED"]
    assert lines[1].split()[:3] == ["small", "tasks.max_queue_size", "2"]
    assert "(all)" in daemon.corral("quota").stdout
    with pytest.raises(NotFound):
        daemon.call("quota.list", names=["nobody"])
