"""What a chaos run has to be true of: the orders that were acknowledged, the record, the journal and the events.

Nothing here talks to a daemon: the store is read when nobody has it open, and the journal is the toilers' own.
"""

import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENDED = {"succeeded", "failed", "cancelled", "timeout"}

STEPS = ("first", "second")
"""Of the workflow, each once."""


@dataclass(frozen=True)
class Order:
    """A task that was handed in: its params as they were sent, and sent again; `after` are numbers of others."""

    number: int
    params: Mapping[str, Any]  # Any: JSON
    after: tuple[int, ...] = ()
    is_cancelled: bool = False


@dataclass(frozen=True)
class Row:
    """One task of the record."""

    id: str
    state: str
    key: str | None
    parent: str | None
    record: Any  # JSON

    @property
    def is_workflow(self) -> bool:
        """Whether it has steps, and no handler of its own."""
        return bool(self.record.get("kind", "task") != "task")

    @property
    def step(self) -> str:
        """Which step of a workflow it is, and how that ended where not well."""
        step = str(self.record.get("step", ""))
        return step if self.state == "succeeded" else f"{step} {self.state}"


@dataclass(frozen=True)
class Evidence:
    """All that is left of a run: id by number, what a cancel was answered, and what the files say."""

    orders: Mapping[int, Order]
    acknowledged: Mapping[int, str]
    cancelled: Mapping[int, str]
    rows: Mapping[str, Row]
    turns: Mapping[str, int]
    journal: Sequence[str]
    ends: Iterable[Mapping[str, Any]]
    """Events of type task.ended."""

    @classmethod
    def of(cls, folder: Path, **given: Any) -> "Evidence":  # Any: the fields that no file has
        """With what `folder` has, whose daemon has ended."""
        with closing(sqlite3.connect(f"file:{folder / 'state/corral.db'}?mode=ro", uri=True)) as db:
            rows = {
                task: Row(task, state, key, parent, json.loads(record))
                for task, state, key, parent, record in db.execute(
                    "SELECT id, state, idempotency_key, parent, record FROM task"
                )
            }
            turns = dict(db.execute("SELECT session, turns FROM session"))
        journal = (folder / "journal").read_text().splitlines()
        return cls(rows=rows, turns=turns, journal=journal, **given)

    @property
    def untold(self) -> int:
        """Ends in the record of which no event was kept: those of a killed daemon's last moment."""
        return len(self.rows) - len({event["task"] for event in self.ends})

    def wrong(self) -> list[str]:
        """All that is not as it has to be, in words; nothing when the promises were kept."""
        return [*self._of_orders(), *self._of_record(), *self._of_journal(), *self._of_events()]

    def _of_orders(self) -> Iterable[str]:
        """Every task that was acknowledged is there, once, with an end of its own."""
        by_key = Counter(row.key for row in self.rows.values() if row.parent is None)
        turns = defaultdict[str, list[int]](list)
        for number, order in self.orders.items():
            row = self.rows.get(self.acknowledged.get(number, ""))
            if row is None:
                yield f"lost: order {number}, {self.acknowledged.get(number, 'not acknowledged')}"
                continue
            if (seen := by_key.pop(order.params["idempotency_key"], 0)) != 1:
                yield f"twice: order {number} is {seen} tasks"
            allowed = {"succeeded", "cancelled"} if order.is_cancelled else {"succeeded"}
            if row.state not in allowed:
                yield f"{row.id}: {row.state} {row.record.get('error')}"
            if self.cancelled.get(number, row.state) != row.state:
                yield f"{row.id}: ended as {self.cancelled[number]}, is {row.state} now"
            if row.state == "succeeded":
                yield from self._of_output(order, row)
                if session := order.params.get("session"):
                    turns[session].append(row.record.get("output", {}).get("turn", 0))
        yield from (f"unknown: {n} tasks with key {key}" for key, n in by_key.items())
        for session, numbers in turns.items():
            if sorted(numbers) != list(range(1, len(numbers) + 1)):
                yield f"session {session}: turns {sorted(numbers)}"
            if self.turns.get(session) != len(numbers):
                yield f"session {session}: {len(numbers)} turns, it has {self.turns.get(session)}"

    def _of_output(self, order: Order, row: Row) -> Iterable[str]:
        output: dict[str, Any] = row.record.get("output") or {}  # JSON
        if output.get("number") != order.number:
            yield f"{row.id}: the output of {output.get('number')}, not of {order.number}"
        if order.params["input"]["delegates"]:
            child = self.rows.get(output.get("child", ""))
            if child is None or (child.parent, child.state) != (row.id, "succeeded"):
                yield f"{row.id}: its child is {child}"

    def _of_record(self) -> Iterable[str]:
        """Everything has ended; of a family no more than what its parents asked for has succeeded."""
        for row in self.rows.values():
            if row.state not in ENDED or row.record.get("state") != row.state:
                yield f"{row.id}: {row.state} in the table, {row.record.get('state')} in its record"
            if row.parent is not None and row.state not in {"succeeded", "cancelled"}:
                yield f"{row.id}: a child that is {row.state}: {row.record.get('error')}"
            if row.is_workflow and row.state == "succeeded":
                steps = {child.id: child for child in self.rows.values() if child.parent == row.id}
                if sorted(each.step for each in steps.values()) != sorted(STEPS):
                    yield f"{row.id}: its steps are {steps}"

    def _of_journal(self) -> Iterable[str]:
        """Nothing ran on two workers at once, no attempt began twice, and nothing before what it waited for."""
        begun, done = dict[str, int](), dict[str, int]()
        for place, line in enumerate(self.journal):
            what, task, _ = line.split()
            if what == "overlap":
                yield f"on two workers at once: {line}"
            (begun if what == "begun" else done).setdefault(task, place)
        for line, n in Counter(self.journal).items():
            if n > 1:
                yield f"{n} times: {line}"
        for task, row in self.rows.items():
            if row.state == "succeeded" and not row.is_workflow and task not in done:
                yield f"{task}: succeeded, but nobody has done it"
        for number, order in self.orders.items():
            here = self._doers(self.acknowledged.get(number, ""))
            first = min((begun.get(task, math.inf) for task in here), default=math.inf)
            for other in order.after:
                waited = self._doers(self.acknowledged[other])
                if first < max((done.get(task, math.inf) for task in waited), default=math.inf):
                    yield f"order {number} began before {other} was done"

    def _doers(self, task: str) -> list[str]:
        """The tasks that have handlers: itself, or the steps of a workflow."""
        row = self.rows.get(task)
        if row is None or not row.is_workflow:
            return [task]
        return [child.id for child in self.rows.values() if child.parent == task]

    def _of_events(self) -> Iterable[str]:
        """No end is told twice, and none is told that is not in the record."""
        told = Counter[str]()
        for event in self.ends:
            told[event["task"]] += 1
            row = self.rows.get(event["task"])
            if row is None or row.state != event["state"]:
                yield f"{event['task']}: told as {event['state']}, is {row and row.state}"
        yield from (f"{task}: its end was told {n} times" for task, n in told.items() if n > 1)
