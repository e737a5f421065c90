"""Routing by success under a whole daemon: an agent that fails gets no task while another one succeeds."""

from pathlib import Path

import pytest

from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell

AGENT = """\
from corral.worker import Agent, Task
agent = Agent("searcher")
@agent.task
async def run(task: Task) -> str:
    if task.input == task.agent:
        raise ValueError("not today")
    return task.agent
"""

CONFIG = """
[tasks]
capability_routing = "best"
[agents.a-flaky]
entrypoint = "searcher:agent"
capabilities = ["search"]
instances = 4
[agents.steady]
entrypoint = "searcher:agent"
capabilities = ["search"]
[teams.searchers]
members = ["a-flaky", "steady"]
mode = "route"
routing = "best"
"""


def test_an_agent_that_failed_gets_no_task_while_another_succeeds(tmp_path: Path) -> None:
    (tmp_path / "searcher.py").write_text(AGENT)
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.call("agent.start", names=["a-flaky", "steady"])

        def run(**where: str) -> str:
            task = daemon.call("task.run", objective="search", input="a-flaky", **where)
            return str(task["output"] or task["error"]["name"])

        assert run(capability="search") == "TaskFailed", "neither has ended one: by name"
        assert [run(capability="search") for _ in range(3)] == ["steady"] * 3
        assert [run(agent="searchers") for _ in range(3)] == ["steady"] * 3
        daemon.config.write_text(CONFIG.replace('capability_routing = "best"', ""))
        daemon.call("daemon.reload")
        assert run(capability="search") == "TaskFailed", "the one with most free workers"
