"""Teams and workflows that are chosen by capability, where no agent offers it."""

from collections.abc import Iterator
from typing import Any

import pytest

from corral.worker.contract.errors import NotFound
from daemon_process import DaemonProcess

AGENT = """
from corral.worker import Agent

agent = Agent("member")


@agent.task
async def run(task):
    if task.objective == "pass on":
        return (await task.delegate(capability="careful-review", objective="read")).output
    return f"{task.agent} {task.objective}"
"""

CONFIG = """
[agents.reader]
entrypoint = "member:agent"
capabilities = ["review"]
[agents.writer]
entrypoint = "member:agent"
capabilities = ["write"]

[agents.asker]
entrypoint = "member:agent"

[workflows.careful]
capabilities = ["careful-review", "review", "slow"]
output = "${steps.second.output}"
[[workflows.careful.steps]]
name = "first"
capability = "review"
objective = "${objective}"
[[workflows.careful.steps]]
name = "second"
agent = "writer"
objective = "${steps.first.output}"

[teams.pair]
mode = "broadcast"
capabilities = ["both"]
members = ["reader", "writer"]

[teams.choice]
mode = "route"
members = ["writer", "careful"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("strategies")
    (folder / "member.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def run(daemon: DaemonProcess, **params: object) -> Any:
    return daemon.call("task.run", **{"objective": "read", **params})


def test_a_workflow_runs_for_a_capability_that_no_agent_offers(daemon: DaemonProcess) -> None:
    done = run(daemon, capability="careful-review")
    assert (done["agent"], done["kind"]) == ("careful", "workflow")
    assert done["output"] == "writer reader read"
    assert run(daemon, required_capabilities=["slow", "review"])["agent"] == "careful"
    assert run(daemon, capability="both")["agent"] == "pair"


def test_an_agent_comes_before_a_workflow_that_offers_the_same(daemon: DaemonProcess) -> None:
    done = run(daemon, capability="review")
    assert (done["agent"], done["output"]) == ("reader", "reader read")


def test_a_handler_delegates_to_a_workflow_by_capability(daemon: DaemonProcess) -> None:
    assert run(daemon, agent="asker", objective="pass on")["output"] == "writer reader read"


def test_a_member_that_is_a_workflow_is_chosen_by_its_capabilities(daemon: DaemonProcess) -> None:
    done = run(daemon, agent="choice", required_capabilities=["slow"])
    assert done["output"] == "writer reader read"


def test_a_capability_that_nothing_offers_is_not_found_and_status_shows_those_there_are(daemon: DaemonProcess) -> None:
    with pytest.raises(NotFound, match="juggle"):
        run(daemon, capability="juggle")
    status = daemon.call("daemon.status")
    assert status["workflows"][0]["capabilities"] == ["careful-review", "review", "slow"]
    assert [team["capabilities"] for team in status["teams"]] == [["both"], []]
    shown = daemon.call("workflow.show", name="careful")["spec"]
    assert shown["capabilities"] == ["careful-review", "review", "slow"]
