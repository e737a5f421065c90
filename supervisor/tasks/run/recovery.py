"""Takes up the tasks that an earlier daemon left: those that wait go on waiting, those that had begun follow `retry_on`."""

import asyncio
import time
from datetime import datetime

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import Cancelled, WorkerFailed

from ..rules.payload import words_bytes
from ..rules.retry_policy import Attempted, retries
from .accounting import Accounting
from .attempt import given_up
from .backlog import Entry
from .endings import Endings, agent_gone
from .record_writer import RecordWriter
from .submission import Submission
from .task_rules import TaskRules


class Recovery:
    """Loads the tasks of one daemon."""

    def __init__(
        self,
        store: Store,
        writer: RecordWriter,
        agents: Agents,
        rules: TaskRules,
        accounting: Accounting,
        endings: Endings,
        submission: Submission,
    ) -> None:
        self._store = store
        self._writer = writer
        self._backlog = writer.backlog
        self._agents = agents
        self._rules = rules
        self._accounting = accounting
        self._endings = endings
        self._submission = submission

    async def load(self) -> None:
        """Loads the counts, the budgets, and the tasks that have not ended."""
        await self._accounting.budgets.load()
        await self._writer.load_counts()
        now, here = time.time(), asyncio.get_running_loop().time()
        entries: list[Entry] = []
        for task, created in await self._writer.records.unfinished():
            due = None if task.scheduled_at is None else datetime.fromisoformat(task.scheduled_at).timestamp()
            since = here - max(0.0, now - max(created, due or created))
            entry = Entry(task, created, self._rules.limits(task), since, words_bytes(task), due)
            self._backlog.add(entry)
            self._endings.watch_deadline(entry)
            entries.append(entry)
        await self._accounting.load(self._store)
        for entry in entries:
            await self._resume(entry)

    async def _resume(self, entry: Entry) -> None:
        task, endings = entry.task, self._endings
        if self._agents.emergency_stop is not None:
            halted = Cancelled(f'cannot finish task "{task.id}": an emergency stop')
            endings.keep(endings.end(entry, "cancelled", halted))
            return
        if task.parent is not None:
            above = self._backlog.find(task.parent)
            if above is None or above.task.kind == "task":
                # The task that delegated it begins again, and delegates again.
                reason = "the daemon died while another task waited for it"
                orphaned = Cancelled(f'cannot finish task "{task.id}": {reason}', reason=reason)
                endings.keep(endings.end(entry, "cancelled", orphaned))
                return
            self._accounting.add_child(entry)
        if task.state == "running" and task.kind in ("task", "job"):
            is_gone = task.agent not in self._agents.agents
            ended = Attempted(died=True, error=WorkerFailed.__name__)
            is_job = task.kind == "job"  # whose run is never repeated for its task
            if is_job or is_gone or not retries(self._rules.retry_policy(task), task.attempt, ended):
                died = WorkerFailed("the daemon died while it ran", worker=task.worker, result="daemon-gone")
                endings.keep(endings.end(entry, "failed", agent_gone(task) if is_gone else given_up(task, died)))
                return
            self._backlog.replace(entry, replace(task, state="queued", worker=None, reason="the daemon died"))
        await self._submission.resume(entry)
