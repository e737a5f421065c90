"""Reads the stream of events, and holds it against the promise that there are never two copies of one worker.

A change of configuration brings a new worker up beside the former one, with the same id, on purpose: see
docs/reference/changes.md. So a worker id may have several rows of lives at a time: that which has the place, at most one that is
to take it while a change is under way, and those that were sent away and have not ended yet. Anything else is a copy.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from corral.supervisor.workers.lifecycle.state_machine import TRANSITIONS, State

TYPES = [
    *("worker.state", "agent.removed", "agent.scaled"),
    *("agent.rolling", "agent.switched", "agent.rolled", "agent.taken_back"),
]
"""The types of events that it needs."""

PLACED, INCOMING, LEAVING = "placed", "incoming", "leaving"

AT_REST = (State.INITIAL, State.TERMINATED)
"""States without a process."""


@dataclass
class Row:
    """The lives of one supervisor of a worker, one after the other."""

    role: str
    incarnation: int
    state: State = State.INITIAL

    @property
    def is_alive(self) -> bool:
        return self.state not in AT_REST


def number(worker: str) -> int:
    return int(worker.rpartition("-")[2])


class Lives:
    """What the events so far have told of each worker; `alone` are agents that permit none beside."""

    def __init__(self, alone: Collection[str] = ()) -> None:
        self.alone = alone
        self.rows: dict[str, list[Row]] = {}
        self.changing: set[str] = set()
        self.highest: dict[str, int] = {}

    def of(self, agent: str) -> dict[str, list[Row]]:
        return {w: rows for w, rows in self.rows.items() if w.rpartition("-")[0] == agent}

    def take(self, event: Mapping[str, Any]) -> None:
        kind, agent = event["type"], event["agent"]
        if kind == "worker.state":
            self.move(event)
        elif kind == "agent.rolling":
            self.changing.add(agent)
        elif kind == "agent.switched":
            self.switch(event["workers"])
        elif kind in ("agent.rolled", "agent.taken_back"):
            self.changing.discard(agent)
            for worker, rows in self.of(agent).items():
                for row in rows:
                    row.role = LEAVING if row.role == INCOMING else row.role
                self.forget_ended(worker)
        else:
            least = event["instances"] if kind == "agent.scaled" else 0
            for worker in [worker for worker in self.of(agent) if number(worker) >= least]:
                del self.rows[worker]

    def switch(self, workers: Iterable[str]) -> None:
        for worker in workers:
            rows = self.rows.get(worker, [])
            if any(row.role == INCOMING for row in rows):
                for row in rows:
                    row.role = PLACED if row.role == INCOMING else LEAVING
                self.forget_ended(worker)

    def forget_ended(self, worker: str) -> None:
        rows = self.rows[worker]
        self.rows[worker] = [r for r in rows if r.role != LEAVING or r.state is not State.TERMINATED]

    def move(self, event: Mapping[str, Any]) -> None:
        worker, old, new = event["worker"], State(event["from"]), State(event["to"])
        assert new in TRANSITIONS[old], event
        if new is State.STARTING:
            row = self.beginning(event["agent"], worker)
            assert event["incarnation"] > self.highest.get(worker, 0), event
            row.incarnation = self.highest[worker] = event["incarnation"]
        else:
            found = [row for row in self.rows.get(worker, ()) if row.state is old]
            found = [row for row in found if row.incarnation == event["incarnation"]]
            assert found, f"there is no such life: {event}"
            row = found[0]
        row.state = new
        self.forget_ended(worker)

    def beginning(self, agent: str, worker: str) -> Row:
        """The row that begins another life; a new one where none has ended its last."""
        rows = self.rows.setdefault(worker, [])
        alive = [row for row in rows if row.is_alive]
        assert not (alive and agent in self.alone), f"{worker} permits none beside: {alive}"
        waiting = [row for row in rows if row.state is State.INITIAL]
        if waiting:
            return waiting[0]
        if agent not in self.changing:  # an agent that was removed, or scaled to none, is there again
            rows[:] = [row for row in rows if row.state is not State.TERMINATED]
        in_place = [row for row in rows if row.role != LEAVING]
        assert len(in_place) < 2, f"a third copy of {worker}: {rows}"
        if any(row.is_alive for row in in_place):
            assert agent in self.changing, f"a second copy of {worker}, and no change: {rows}"
        row = Row(INCOMING if in_place and agent in self.changing else PLACED, 0)
        rows.append(row)
        return row


def check_lives(events: Iterable[Mapping[str, Any]], alone: Collection[str] = ()) -> None:
    """Fails, with the story of its agent, at the first event that must not be."""
    lives, seen = Lives(alone), list[Mapping[str, Any]]()
    for event in events:
        seen.append(event)
        try:
            lives.take(event)
        except AssertionError as error:
            story = [str(each) for each in seen if each["agent"] == event["agent"]]
            raise AssertionError("\n".join([str(error), *story])) from None
