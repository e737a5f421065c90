"""Holds what the screen of `corral top` knows of a daemon: the last sample, and the events, tasks and log lines since.

An answer replaces, an event changes: after each the rows are those of that moment. It asks nobody, and knows no terminal.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from .. import render
from ..render import Record, inner, number, word
from .columns import HISTORY_SHOWN
from .samples import entries, figures_of, key_of, processes, row

LINES_KEPT = 1_000
"""Number of log lines of one agent that are kept."""

LINE_CHARS = 4_096
"""Characters up to which the pieces of a line are shown as one."""

TASKS_KEPT = 500
"""Number of tasks that are listed."""

NOTHING: Record = {}
"""Record of a thing that there is not."""

LEAST_ADVANCED = ("Terminated", "ShuttingDown", "Initial", "Starting")
"""States that an agent shows if one of its wanted workers is in it; the first of them wins."""

TASK_EVENTS: Mapping[str, str] = {
    "task.queued": "queued",
    "task.retried": "queued",
    "task.started": "running",
    "task.progress": "running",
}
"""Type of an event -> the state of its task; `task.ended` has it in a field."""


class Snapshot:
    """Holds the newest known figures; `rows` are those of the list of agents and servers."""

    def __init__(self) -> None:
        self.status: Record = {}
        self.statistics: Record = {}
        self.at = ""
        self.rights = ""
        """The rights of the caller; empty until the daemon has said them."""
        self.trouble = ""
        """The reason why the daemon is not reached; empty while it is."""
        self.tasks: list[dict[str, object]] = []
        self.lines: deque[dict[str, object]] = deque(maxlen=LINES_KEPT)
        self.points: list[Record] = []
        """The history of the agent that is shown, as `metrics.history` has it."""
        self._entries: dict[str, dict[str, object]] = {}
        self._figures: dict[str, dict[str, object]] = {}
        self._workers: dict[str, tuple[str, dict[str, object]]] = {}
        self._rows: dict[str, dict[str, object]] = {}
        self._history: dict[str, deque[float]] = {}
        self._stale: set[str] = set()

    # -- agents and servers

    @property
    def may_act(self) -> bool:
        """Returns whether the caller may change something; False until the daemon has said so."""
        return self.rights not in ("", "read")

    def take_sample(self, status: Record, statistics: Record, at: str) -> None:
        """Takes the answers of `daemon.status` and `statistics.show`."""
        self.status, self.at = status, at
        self.statistics = {**statistics, "process": processes(statistics)}
        self._entries = {key_of(entry): entry for entry in entries(status)}
        known = figures_of(statistics)
        self._figures = {name: known.get(name, {}) for name in self._entries}
        self._workers = {
            key_of({"node": entry.get("node"), "id": worker.get("id")}, "id"): (name, worker)
            for name, entry in self._entries.items()
            for worker in render.inners(entry, "workers")
        }
        self._history = {name: self._history.get(name) or deque(maxlen=HISTORY_SHOWN) for name in self._entries}
        self._rows = {name: self._row(name) for name in self._entries}
        for name, found in self._rows.items():
            self._history[name].append(number(found, "cpu_percent") or 0.0)
            found["history"] = list(self._history[name])
        self._stale.clear()

    def take_event(self, event: Record) -> bool:
        """Takes one event; returns whether it has changed anything that is shown."""
        kind = word(event, "type")
        if kind == "worker.state":
            return self._take_state(key_of(event, "worker"), event)
        if kind == "agent.removed":
            name = key_of(event, "agent")
            self._rows.pop(name, None)
            return self._entries.pop(name, None) is not None
        if kind in ("agent.paused", "agent.resumed"):
            found = self._workers.get(key_of(event, "worker"))
            if found is not None:
                found[1]["paused"] = kind == "agent.paused"
            return found is not None
        return kind.startswith("task.") and self._take_task_event(event)

    def rows(self) -> list[dict[str, object]]:
        """Returns the rows of all agents and servers."""
        for name in self._stale & self._entries.keys():
            history = self._rows.get(name, {}).get("history", [])
            self._rows[name] = {**self._row(name), "history": history}
        self._stale.clear()
        return list(self._rows.values())

    def row_of(self, name: str) -> Record:
        """Returns the row of an agent or server; an empty one where there is none of this name."""
        return next((each for each in self.rows() if each["name"] == name), NOTHING)

    def workers_of(self, name: str) -> list[dict[str, object]]:
        """Returns the workers of an agent or server."""
        return render.inners(self._entries.get(name, {}), "workers")

    def entry_of(self, name: str) -> Record:
        """Returns the entry of an agent or server in the status."""
        return self._entries.get(name, {})

    def _row(self, name: str) -> dict[str, object]:
        entry = self._entries[name]
        return {
            **row(entry, self._figures.get(name, {})),
            "name": name,
            "health": health_of(entry),
            "health_score": entry.get("health_score"),
        }

    def _take_state(self, worker_id: str, event: Record) -> bool:
        found = self._workers.get(worker_id)
        if found is None:
            return False
        name, worker = found
        state = word(event, "to")
        worker |= {"state": state, "reason": event.get("reason")}
        if state != "Busy":
            worker["task"] = None
        if state == "Terminated":
            worker |= {"pid": None, "cpu_percent": 0.0, "rss_bytes": 0}
        entry = self._entries.get(name)
        if entry is not None:
            self._stale.add(name)
            entry["is_changed"] = True
        return entry is not None

    def settle(self) -> None:
        """Works out the states of agents whose workers have changed, once for all events since the last time."""
        for name in self._stale & self._entries.keys():
            entry = self._entries[name]
            if entry.pop("is_changed", False):
                entry["state"] = combined_state(render.inners(entry, "workers"), word(entry, "state"))

    # -- tasks

    def take_tasks(self, records: Iterable[dict[str, object]]) -> None:
        """Takes an answer of `task.list`."""
        self.tasks = list(records)

    def task_of(self, task_id: str) -> Record:
        """Returns the record of a listed task; an empty one where it is not listed."""
        return next((each for each in self.tasks if each["id"] == task_id), NOTHING)

    def _take_task_event(self, event: Record) -> bool:
        kind, task_id = word(event, "type"), word(event, "task")
        state = word(event, "state") if kind == "task.ended" else TASK_EVENTS.get(kind, "")
        if not task_id or not state:
            return False
        found = self._workers.get(key_of(event, "worker"))
        if found is not None and state == "running":
            found[1]["task"] = task_id
        record = next((each for each in self.tasks if each.get("id") == task_id), None)
        if record is None:
            if kind != "task.queued":
                return False  # an older one than those that are listed
            record = {"id": task_id, "agent": event.get("agent"), "created_at": event.get("at")}
            self.tasks.insert(0, record)
            del self.tasks[TASKS_KEPT:]
        record |= {"state": state, "worker": event.get("worker") or record.get("worker")}
        for key, name in (
            ("attempt", "attempt"),
            ("progress", "progress"),
            ("total", "progress_total"),
            ("duration_s", "duration_s"),
        ):
            if event.get(key) is not None:
                record[name] = event[key]
        if kind == "task.ended" and event.get("error") is not None:
            record["error"] = {"name": event["error"], "message": event.get("reason")}
        return True

    # -- log lines

    def take_lines(self, records: Iterable[dict[str, object]]) -> None:
        """Takes log lines of the agent that is shown; one that was unfinished goes on in its place."""
        for record in records:
            last = self.lines[-1] if self.lines else {}
            is_more = last.get("partial") and len(str(last["text"])) < LINE_CHARS
            if is_more and all(last.get(key) == record.get(key) for key in ("node", "worker", "stream")):
                self.lines[-1] = {**record, "text": f"{last['text']}{record['text']}"}
            else:
                self.lines.append(record)


def health_of(entry: Record) -> str:
    """Returns the health of an agent or server in a word: ok, degraded, failed, or - where nothing runs and nothing should."""
    workers = render.inners(entry, "workers")
    if entry.get("degraded"):
        return "degraded"
    for worker in workers:
        if worker.get("next_start_in_s") is not None:
            return "failed"
        result = word(inner(worker, "last_exit"), "result")
        if word(worker, "state") == "Terminated" and result not in render.ASKED_FOR:
            return "failed" if render.has_failed(worker) else "ok"
    return "ok" if any(worker.get("pid") is not None for worker in workers) else "-"


def combined_state(workers: Iterable[Record], before: str) -> str:
    """Returns the state of an agent with these workers: the least advanced of those that are to be up; `before` where there are none."""
    all_states = [(word(worker, "state"), bool(worker.get("wanted", True))) for worker in workers]
    states = {state for state, is_wanted in all_states if is_wanted} or {state for state, _ in all_states}
    for state in (*LEAST_ADVANCED, "Busy", "Idle", "Ready"):
        if state in states:
            return state
    return before
