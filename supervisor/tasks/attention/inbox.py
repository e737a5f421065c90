"""Holds the inbox of one daemon: what waits for a person, the newest need first, until somebody has seen it.

Questions are those that are open, and workers that gave up those that are down: both are asked for at each look. Tasks and
budgets are kept in the store, within 0.1 s of their end. A task is in it if nobody waited for its end: neither a caller, nor
the task that delegated it. Times of the store are seconds of the Unix epoch.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from corral.supervisor.records.events.bus import Bus, Event, rfc3339
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.sealed import seal, unseal
from corral.supervisor.records.store.store import Statement, Store
from corral.supervisor.workers.lifecycle.state_machine import GIVEN_UP, State
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.approvals import Approval
from corral.worker.contract.errors import Corrupted, NotFound
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Task
from corral.worker.control.reports import INBOX_RANKS, InboxItem, InboxKind

from ..run.backlog import Entry
from ..worker_api.approvals import Approvals

KEPT_MOST: dict[InboxKind, int] = {"failed": 1_000, "budget": 1_000, "done": 100}
"""Number of items of a kind that are kept: the newest."""

TEXT_CHARS = 1_000

SAVE = "INSERT OR REPLACE INTO inbox (id, agent, record) VALUES (?, ?, ?)"
REMOVE = "DELETE FROM inbox WHERE id = ?"

IsKnown = Callable[[str], bool]

logger = logging.getLogger(__name__)


def item_of_task(task: Task, *, is_awaited: bool) -> InboxItem | None:
    """Returns what a person is told about the end of a task; None where somebody else takes its end, or has caused it.

    That a task of a schedule has succeeded is no news.
    """
    has_failed = task.state in ("failed", "timeout")
    if is_awaited or task.parent is not None or task.kind == "placed":
        return None
    if not has_failed and (task.state != "succeeded" or task.schedule is not None):
        return None
    text = task.error.message if task.error is not None else task.objective
    return InboxItem(
        id=task.id,
        kind="failed" if has_failed else "done",
        at=task.finished_at or task.created_at,
        agent=task.agent,
        worker=task.worker,
        task=task.id,
        text=text[:TEXT_CHARS],
    )


def item_of_question(question: Approval) -> InboxItem:
    """Returns an open question as an item."""
    return InboxItem(
        id=f"q{question.id}",
        kind="question",
        at=question.asked_at,
        agent=question.agent,
        worker=question.worker,
        task=question.task,
        text=question.question[:TEXT_CHARS],
        approval=question.id,
        options=question.options,
        expires_at=question.expires_at,
    )


def ordered(items: Iterable[InboxItem]) -> list[InboxItem]:
    """Returns items in the order of the inbox: questions, other needs, then tasks that went well; of each the newest first."""
    newest = sorted(items, key=lambda item: item.at, reverse=True)
    return sorted(newest, key=lambda item: INBOX_RANKS[item.kind])


def needs(items: Iterable[InboxItem]) -> int:
    """Returns how many items need somebody: open questions, and all others that nobody has seen but good ends."""
    return sum(item.kind == "question" or (item.kind != "done" and not item.seen) for item in items)


class Inbox:
    """Holds the items of one daemon; belongs to the loop's thread."""

    def __init__(
        self, store: Store, bus: Bus, gathered: Gathered, approvals: Approvals, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._gathered = gathered
        self._approvals = approvals
        self._clock = clock
        self._kept: dict[InboxKind, dict[str, InboxItem]] = {kind: {} for kind in KEPT_MOST}
        """By kind and id, in the order in which they came."""
        self._changed = set[str]()
        self._seen = set[str]()
        """Ids of questions and workers that were seen."""
        self._down: dict[WorkerSupervisor, InboxItem] = {}
        gathered.add(self._unsaved)
        bus.subscribe(["limit.cost"], where=self._note_budget)

    async def load(self) -> None:
        """Takes up the items, and which questions were seen, under earlier daemons."""
        found: list[InboxItem] = []
        for number, blob in await self._store.read("SELECT id, record FROM inbox"):
            try:
                data = unseal(blob if isinstance(blob, bytes) else b"", f"item {number}")
                found.append(msgspec.json.decode(data, type=InboxItem))
            except (Corrupted, msgspec.MsgspecError) as error:
                logger.error("cannot use item %s of the inbox: it is damaged: %s", number, error)
        is_open = {f"q{each.id}" for each in self._approvals.open()}
        for item in sorted(found, key=lambda item: item.at):
            if item.kind != "question":
                self._kept[item.kind].setdefault(item.id, item)
            elif item.id in is_open:
                self._seen.add(item.id)
            else:
                self._change(item.id)

    # -- what happens

    def task_ended(self, entry: Entry) -> None:
        """Notes the end of a task."""
        item = item_of_task(entry.task, is_awaited=entry.waiters > 0)
        if item is not None:
            self._keep(item)

    def worker_changed(self, supervisor: WorkerSupervisor) -> None:
        """Notes that a worker gave up."""
        worker = supervisor.worker
        if worker.state is not State.TERMINATED or not _has_given_up(supervisor) or supervisor in self._down:
            return
        last = worker.last_exit
        assert last is not None, "one that gave up has ended"
        self._down[supervisor] = InboxItem(
            id=f"{supervisor.id}.{worker.incarnation}",
            kind="gave-up",
            at=rfc3339(self._clock()),
            agent=worker.spec.name,
            worker=supervisor.id,
            text=(last.message or last.result)[:TEXT_CHARS],
        )

    def _note_budget(self, event: Event) -> bool:
        agent = event.agent or ""
        for before in [each for each in self._kept["budget"].values() if each.agent == agent]:
            self._drop(before)
        text = str(event.fields.get("reason"))
        self._keep(InboxItem(id=f"e{event.seq}", kind="budget", at=event.at, agent=agent, text=text))
        return False  # nothing is queued

    def _keep(self, item: InboxItem) -> None:
        same = self._kept[item.kind]
        same[item.id] = item
        self._change(item.id)
        if len(same) > KEPT_MOST[item.kind]:
            self._drop(next(iter(same.values())))

    def _drop(self, item: InboxItem) -> None:
        self._kept[item.kind].pop(item.id, None)
        self._change(item.id)

    def _all_kept(self) -> list[InboxItem]:
        return [item for same in self._kept.values() for item in same.values()]

    def _change(self, item: str) -> None:
        self._changed.add(item)
        self._gathered.soon()

    def _unsaved(self) -> Iterator[Statement]:
        changed, self._changed = self._changed, set()
        kept = {item.id: item for item in self._all_kept()} if changed else {}
        for each in changed:
            item = kept.get(each)
            if item is None and each in self._seen:
                item = InboxItem(id=each, kind="question", at="", agent="", text="")
            if item is None:
                yield REMOVE, (each,)
            else:
                yield SAVE, (each, item.agent, seal(msgspec.json.encode(item), compress=False))

    # -- what is asked for

    def items(self, is_known: IsKnown | None = None) -> list[InboxItem]:
        """Returns the items in their order, those of agents that are known alone."""
        for supervisor in [each for each in self._down if not _has_given_up(each)]:
            self._seen.discard(self._down.pop(supervisor).id)
        asked = [item_of_question(each) for each in self._approvals.open()]
        found = [
            replace(item, seen=True) if item.id in self._seen else item
            for item in (*asked, *self._down.values(), *self._all_kept())
            if is_known is None or is_known(item.agent)
        ]
        return ordered(found)

    def needs(self, is_known: IsKnown | None = None) -> int:
        """Returns how many items need somebody."""
        if not (any(self._kept.values()) or self._down or self._approvals.is_any_open):
            return 0
        return needs(self.items(is_known))

    async def see(self, items: Sequence[str] | None, is_known: IsKnown | None = None) -> list[str]:
        """Marks items as seen, None all of them; returns their ids. Questions stay in the list until they are answered.

        Raises:
            NotFound: there is no such item.
        """
        present = {item.id: item for item in self.items(is_known)}
        for each in items or ():
            if each not in present:
                raise NotFound(f'cannot find "{each}" in the inbox', item=each, known=[*present][:20])
        chosen = list(present if items is None else dict.fromkeys(items))
        for item in [present[each] for each in chosen]:
            if item.kind in self._kept:
                self._drop(item)
                continue
            self._seen.add(item.id)
            if item.kind == "question":
                self._change(item.id)
        await self._gathered.settle()
        return chosen

    async def expire(self, before: float) -> None:
        """Removes items that are older, and what was seen of questions that have ended."""
        for item in self._all_kept():
            if datetime.fromisoformat(item.at).timestamp() < before:
                self._drop(item)
        for gone in self._seen - {item.id for item in self.items()}:
            self._seen.discard(gone)
            self._change(gone)

    def forget(self, tenant: str) -> None:
        """Removes the items of a tenant that is removed."""
        for item in self._all_kept():
            if tenant_of(item.agent) == tenant:
                self._drop(item)


def _has_given_up(supervisor: WorkerSupervisor) -> bool:
    worker = supervisor.worker
    is_down = worker.state is State.TERMINATED and worker.wanted
    return is_down and worker.last_exit is not None and worker.last_exit.result in GIVEN_UP
