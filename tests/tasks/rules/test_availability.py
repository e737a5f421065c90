"""Which states of its workers make an agent one that runs no task by itself: a table."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.tasks.rules.availability import why_down
from corral.supervisor.workers.lifecycle.state_machine import LastExit, State, Worker
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor

pytestmark = pytest.mark.core

GAVE_UP = LastExit("restart-limit", message="gave up after 3 restarts within 60 s: m")
CANNOT = LastExit("exec-failed", message="cannot run it")
DONE = LastExit("exited", code=0, message="exited with status 0")

DEAD: dict[str, Any] = {"state": State.TERMINATED, "wanted": True}

UP_OR_COMING: dict[str, dict[str, Any]] = {
    "it is up": {"state": State.READY, "wanted": True},
    "it is busy": {"state": State.BUSY, "wanted": True},
    "it is paused": {"state": State.IDLE, "wanted": True, "paused_at": 1.0},
    "it is launched": {"state": State.STARTING, "wanted": True},
    "it has died, and starts again": {**DEAD, "resume_at": 1.0, "last_exit": CANNOT},
    "it backs off": {"state": State.INITIAL, "wanted": True, "deadline": 9.0},
    "it is restarted": {"state": State.SHUTTING_DOWN, "wanted": True, "cause": "stopped"},
    "it waits for room": {"state": State.INITIAL, "wanted": True, "waits": True},
    "it gave up, and waits for room": {**DEAD, "waits": True, "last_exit": GAVE_UP},
}

DOWN: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "it gave up": ({**DEAD, "last_exit": GAVE_UP}, "reset", "restart-limit"),
    "it cannot be started": ({**DEAD, "last_exit": CANNOT}, "reset", "exec-failed"),
    "it has ended well": ({**DEAD, "last_exit": DONE}, "reset", "exited"),
    "it was never started": ({"state": State.INITIAL}, "start", "stopped"),
    "it was stopped": ({"state": State.TERMINATED, "last_exit": GAVE_UP}, "start", "stopped"),
    "it is being stopped": ({"state": State.SHUTTING_DOWN}, "start", "stopped"),
}


def agent(
    *workers: dict[str, Any],
    name: str = "a",
    requires: tuple[str, ...] = (),
    is_after_others: bool = False,
    is_hibernated: bool = False,
) -> Agent:
    """Returns an agent with workers in these states."""

    def is_cordoned(_: object) -> bool:
        return is_hibernated

    spec = Spec(name=name, kind="agent", source="test", requires=requires)
    supervisors = [
        SimpleNamespace(
            worker=Worker(f"{name}-{number}", spec, **fields),
            job=SimpleNamespace(is_waiting=is_after_others),
            is_cordoned=is_cordoned,
        )
        for number, fields in enumerate(workers)
    ]
    return Agent(spec, cast("list[WorkerSupervisor]", supervisors))


@pytest.mark.parametrize("case", UP_OR_COMING)
def test_what_is_up_or_comes_by_itself_is_not_down(case: str) -> None:
    fields = UP_OR_COMING[case]
    assert why_down(agent(fields), {}) is None
    for other, _, _ in DOWN.values():  # one of several is enough
        assert why_down(agent(other, fields), {}) is None


@pytest.mark.parametrize("case", DOWN)
def test_what_runs_only_when_it_is_started_is_down_and_names_the_command(case: str) -> None:
    fields, command, result = DOWN[case]
    down = why_down(agent(fields, fields), {})
    assert down is not None
    assert down.remedy.endswith(f"corral {command} a")
    assert down.result == result
    assert down.was_up == (case != "it was never started")
    assert down.refusal().data["remedy"] == down.remedy


def test_a_worker_that_gave_up_reports_more_than_one_that_was_stopped() -> None:
    down = why_down(agent(DOWN["it was stopped"][0], DOWN["it gave up"][0]), {})
    assert down is not None
    assert down.result == "restart-limit"


def test_none_at_all_is_down_and_a_hibernated_one_is_not() -> None:
    none = why_down(agent(), {})
    assert none is not None
    assert none.remedy == "corral scale a 1"
    asleep = {"state": State.TERMINATED, "last_exit": LastExit("hibernated", message="hibernated")}
    assert why_down(agent(asleep, is_hibernated=True), {}) is None


def test_what_waits_for_one_that_gave_up_is_down_through_all_that_stand_between() -> None:
    waits: dict[str, Any] = {"state": State.INITIAL, "wanted": True, "waits": True}
    top = agent(waits, name="top", requires=("middle",), is_after_others=True)
    middle = agent(waits, name="middle", requires=("root",), is_after_others=True)
    for fields, is_down in ((DOWN["it gave up"][0], True), (UP_OR_COMING["it backs off"], False)):
        agents = {"top": top, "middle": middle, "root": agent(fields, name="root")}
        down = why_down(top, agents)
        assert (down is not None) == is_down
        assert down is None or down.remedy.endswith("corral reset root")
    ended = agent(DOWN["it has ended well"][0], name="root")  # as a job does
    assert why_down(middle, {"middle": middle, "root": ended}) is None
