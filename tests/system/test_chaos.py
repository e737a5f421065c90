"""Nothing accepted is lost: the short form of tests/chaos/chaos.py, with a seed that pytest shows."""

import json
import random
import socket
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from chaos.chaos import VICTIMS, ordeal
from chaos.witness import Evidence, Order, Row
from daemon_process import BOUND_S, DaemonProcess

TASKS = 200

MET = 500
"""Tasks that are cancelled as they begin, all at once."""

LEFT = 400
"""Tasks that a daemon leaves when it is killed, half of them workflows."""

EMPTY = """
from corral.worker import Agent
agent = Agent("empty")
@agent.task
async def run(task):
    pass
"""

CONFIG = """
[agents.empty]
entrypoint = "empty:agent"
instances = 2
[workflows.one]
[[workflows.one.steps]]
name = "step"
agent = "empty"
objective = "nothing"
"""


def test_every_acknowledged_task_ends_once_whoever_is_killed(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    verdict = ordeal(tmp_path, seed, TASKS)
    print(verdict)
    assert verdict.wrong == []
    assert verdict.tasks == TASKS
    assert verdict.kills["daemon"] == VICTIMS["daemon"]


def test_a_cancel_that_meets_a_start_is_the_one_end(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text(EMPTY)
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        answers = _cancelled_while_they_begin(daemon)
        assert daemon.stop() == 0
    with closing(sqlite3.connect(tmp_path / "state/corral.db")) as store:
        assert dict(store.execute("SELECT id, state FROM task")) == answers


def test_workflows_that_a_dead_daemon_left_find_their_agents_wanted(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text(EMPTY)
    with DaemonProcess(tmp_path, CONFIG) as daemon, socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(BOUND_S)
        raw.connect(str(daemon.socket))
        done = daemon.call("task.run", agent="empty", objective="nothing")["id"]
        flow = {"agent": "one", "objective": "nothing"}
        later = {**flow, "agent": "empty", "after": [done], "at": time.time() + 3600}
        for number in range(LEFT):  # the next daemon takes its time to read all these
            params = flow if number % 2 else later
            message = {"jsonrpc": "2.0", "id": number, "method": "task.submit", "params": params}
            raw.sendall(json.dumps(message).encode() + b"\n")
        with raw.makefile() as lines:
            next(lines)  # one is acknowledged: others have begun, without a step as yet
        daemon.kill()
        daemon.start()
        tasks = daemon.call("task.list", agent="one", limit=LEFT)["tasks"]
        ended = [daemon.call("task.wait", task=task["id"]) for task in tasks]
    assert {task["state"] for task in ended} == {"succeeded"}


def _cancelled_while_they_begin(daemon: DaemonProcess) -> dict[str, str]:
    """Task -> the state that its cancel was answered with; all cancels come at once, when the workers take the tasks."""
    empty = {"names": ["empty"]}
    daemon.call("agent.start", **empty)  # it is answered when they are up
    daemon.call("agent.pause", **empty)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(BOUND_S)
        raw.connect(str(daemon.socket))
        with raw.makefile() as lines:

            def asked(*messages: tuple[str, dict[str, Any]]) -> list[Any]:  # JSON
                wire = [
                    {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
                    for number, (method, params) in enumerate(messages)
                ]
                raw.sendall("".join(json.dumps(each) + "\n" for each in wire).encode())
                return [json.loads(line)["result"] for line in islice(lines, len(wire))]

            task = {"agent": "empty", "objective": "nothing"}
            tasks = asked(*[("task.submit", task)] * MET)
            cancels = [("task.cancel", {"task": task["id"]}) for task in tasks]
            answers = asked(("agent.resume", empty), *cancels)
    return {answer["id"]: answer["state"] for answer in answers if "state" in answer}


def _row(number: int, **changed: Any) -> Row:  # Any: JSON
    """The record of a turn of a session."""
    output = {"number": number, "turn": number}
    record = {"state": "succeeded", "output": output, "error": None}
    row = Row(f"task-{number}", "succeeded", f"order-{number}", None, record)
    return replace(row, **changed)


def _step(name: str, task: str) -> Row:
    """The record of a step of the workflow."""
    record = {"state": "succeeded", "step": name, "error": None}
    return Row(task, "succeeded", f"task-3/{name}", "task-3", record)


_FLOW = _row(3, record={"state": "succeeded", "kind": "workflow", "output": {"number": 3}, "error": None})
_STEPS = [_step("first", "step-1"), _step("second", "step-2")]


def _evidence(**changed: Any) -> Evidence:
    """Of two turns of a session, one after the other, and a workflow, in which nothing went wrong."""
    orders = {
        number: Order(
            number,
            {
                "idempotency_key": f"order-{number}",
                "session": "s" if number < 3 else None,
                "input": {"delegates": False},
            },
            after=(number - 1,) if number > 1 else (),
        )
        for number in (1, 2, 3)
    }
    rows = [_row(1), _row(2), _FLOW, *_STEPS]
    done = ("task-1", "task-2", "step-1", "step-2")
    evidence = Evidence(
        orders=orders,
        acknowledged={number: f"task-{number}" for number in orders},
        cancelled={},
        rows={row.id: row for row in rows},
        turns={"s": 2},
        journal=[f"{what} {task} 1" for task in done for what in ("begun", "done")],
        ends=[{"task": row.id, "state": row.state} for row in rows],
    )
    return replace(evidence, **changed)


def _rows(*rows: Row) -> dict[str, Row]:
    """With these in place of, or beside, what is there."""
    return {**_evidence().rows, **{row.id: row for row in rows}}


def _without(task: str) -> dict[str, Row]:
    return {row.id: row for row in _evidence().rows.values() if row.id != task}


def _journal(*without: str) -> list[str]:
    return [line for line in _evidence().journal if line not in without]


FAULTS: dict[str, dict[str, Any]] = {
    "a task is lost": {"rows": _without("task-1"), "turns": {"s": 1}},
    "one order is two tasks": {"rows": _rows(_row(2, id="task-4"))},
    "an end is missing": {"rows": _rows(_row(2, state="running")), "turns": {"s": 1}},
    "an end is another": {"rows": _rows(_row(2, state="failed")), "turns": {"s": 1}},
    "a cancel was taken back": {"cancelled": {1: "cancelled"}},
    "two at once": {"journal": ["overlap task-2 1", *_journal()]},
    "an attempt began twice": {"journal": [*_journal(), "begun task-2 1"]},
    "nobody has done it": {"journal": _journal("done step-2 1")},
    "it did not wait": {"journal": ["begun task-2 0", *_journal()]},
    "it did not wait for a workflow": {"journal": ["begun step-1 0", *_journal()]},
    "a step was made twice": {"rows": _rows(_step("second", "step-3"))},
    "a step is missing": {"rows": _without("step-1")},
    "a turn is lost": {"turns": {"s": 1}},
    "a turn came twice": {"rows": _rows(_row(2, record={**_row(2).record, "output": {"number": 2, "turn": 1}}))},
    "an end was told twice": {"ends": [{"task": "task-1", "state": "succeeded"}] * 2},
    "another end was told": {"ends": [{"task": "task-1", "state": "failed"}]},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_witness_sees_every_fault(fault: str) -> None:
    assert _evidence(**FAULTS[fault]).wrong() != []


def test_the_witness_has_nothing_to_say_where_nothing_is_wrong() -> None:
    assert _evidence().wrong() == []
