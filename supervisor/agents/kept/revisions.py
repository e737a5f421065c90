"""Records each change of a table as a revision, and settles it when its workers are up, or are not.

Guarantees that numbers of a name only grow, in the order of the calls, and that a revision and the table in force of the
store change in one commit. A change begun while another of the same name is rolling ends that one as failed.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.store import Statement, Store
from corral.worker.contract.errors import NotFound, Timeout, WorkerFailed

from . import record as history
from .revision_rows import RevisionTable, ending, expiry, failure, insertion, removal, resumption, success


class Recording(NamedTuple):
    """Holds the numbers of revisions that are being written, also by name, and the end of the writing."""

    numbers: list[int]
    by_name: dict[str, int]
    written: asyncio.Future[list[int]]


class Revisions:
    """Holds the heads of all names, and the revisions in the store."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._table = RevisionTable(store)
        self._heads: dict[str, history.Head] = {}
        self._ends: dict[tuple[str, int], asyncio.Event] = {}
        """Ends of rolling revisions that are waited for."""

    async def load(
        self, in_force: Iterable[history.InForce], untouched: Collection[str] = ()
    ) -> list[history.Revision]:
        """Reads the heads, and makes the current revision of each name the table `in_force`.

        A revision that is still rolling is current where its table is the one in force; else it goes on rolling, and is
        returned, or has failed. Where no revision has the table in force, a new one is written: the file was changed while
        no daemon ran. `untouched` are names whose tables the store has, and which could not be put in force.
        """
        self._heads = await self._table.heads()
        opened: dict[str, list[history.Revision]] = {}
        for revision in await self._table.open():
            if revision.name not in untouched:
                opened.setdefault(revision.name, []).append(revision)
        present = {each.name: each for each in in_force}
        now, statements = time.time(), list[Statement]()
        news, resumed = list[history.Revision | history.Draft](), list[history.Revision]()
        for name in dict.fromkeys([*present, *opened]):
            end = history.aligned(opened.get(name, []), present.get(name))
            for revision in end.failed:
                statements += failure(name, revision.number, history.DAEMON_ENDED, now)
                news.append(replace(revision, state="failed", reason=history.DAEMON_ENDED))
            if end.succeeded is not None:
                statements += success(name, end.succeeded.number, now)
                news.append(replace(end.succeeded, state="current"))
            if end.resumed is not None:
                statements.append(resumption(name, end.resumed.number))
                resumed.append(end.resumed)
            if end.draft is not None:
                statements += insertion(end.draft, self._head(name).last + 1, now)
                news.append(end.draft)
            if name not in present:
                statements += ending([name], now)
            self._heads[name] = self._aligned_head(name, end)
        if statements:
            await self._store.write(*statements)
        for each in news:
            if isinstance(each, history.Revision):
                self._publish_settled(each.name, each.number, each.state, each.reason)
            elif self._head(each.name).last > 1:  # of the first one the addition tells
                self._publish_recorded(each, self._head(each.name).last)
        return resumed

    def _aligned_head(self, name: str, end: history.Alignment) -> history.Head:
        head = self._head(name)
        if end.draft is not None:
            return history.recorded(head, head.last + 1, is_settled=True)
        return history.Head(head.last, end.current, None if end.resumed is None else end.resumed.number)

    async def record(
        self,
        name: str,
        kind: history.Kind,
        table: Mapping[str, object],
        cause: history.Cause,
        *,
        is_stored: bool = True,
        base: str | None = None,
        is_settled: bool = False,
    ) -> int:
        """Writes a revision, which is rolling until it is settled; returns its number. It is durable when this returns."""
        return (await self.record_all([history.Draft(name, kind, table, cause, is_stored, base, is_settled)]))[0]

    async def record_all(self, drafts: Sequence[history.Draft]) -> list[int]:
        """Writes the revisions of several names in one commit, all or none; returns their numbers. Settled ones are in force with it."""
        recording = self.begin(drafts)
        await asyncio.shield(recording.written)
        return recording.numbers

    def begin(self, drafts: Sequence[history.Draft]) -> "Recording":
        """Begins to write revisions: the numbers and the heads are there at once, and are durable when `written` ends."""
        now, numbers, before = time.time(), list[int](), dict(self._heads)
        statements: list[Statement] = []
        for draft in drafts:
            numbers.append(self._head(draft.name).last + 1)
            statements += insertion(draft, numbers[-1], now)
        written = self._store.begin(*statements)
        for draft, number in zip(drafts, numbers, strict=True):
            head = history.recorded(self._head(draft.name), number, is_settled=draft.is_settled)
            self._heads[draft.name] = head

        def ended(writing: asyncio.Future[list[int]]) -> None:
            for draft, number in zip(drafts, numbers, strict=True):
                former = before.get(draft.name, history.Head())
                if writing.cancelled() or writing.exception() is not None:
                    self._heads[draft.name] = history.taken_back(self._head(draft.name), number, former)
                    continue
                if former.rolling is not None:
                    reason = history.given_up(number)
                    self._publish_settled(draft.name, former.rolling, "failed", reason)
                self._publish_recorded(draft, number)

        written.add_done_callback(ended)
        by_name = {draft.name: number for draft, number in zip(drafts, numbers, strict=True)}
        return Recording(numbers, by_name, written)

    async def _commit(self, statements: Sequence[Statement], committed: Callable[[], None]) -> None:
        """Writes in one commit; calls `committed` after it, also where the caller was cancelled meanwhile."""

        def ended(writing: asyncio.Future[list[int]]) -> None:
            if not writing.cancelled() and writing.exception() is None:
                committed()

        writing = self._store.begin(*statements)
        writing.add_done_callback(ended)
        await asyncio.shield(writing)

    async def settle(self, name: str, number: int, succeeded: bool, reason: str = "") -> bool:
        """Ends a rolling revision; returns False, and does nothing, where it is not rolling any more.

        One that has succeeded is current, the former one superseded, and its table in force in the store; one that has
        failed leaves the former one as it is.
        """
        if self._head(name).rolling != number:
            return False
        now, is_ended = time.time(), False
        end = success(name, number, now) if succeeded else failure(name, number, reason, now)

        def committed() -> None:
            nonlocal is_ended
            after = history.settled(self._head(name), number, succeeded)
            if after is not None:  # else another change came meanwhile, and has ended it
                is_ended, self._heads[name] = True, after
                self._publish_settled(name, number, "current" if succeeded else "failed", reason)

        try:
            await self._commit(end, committed)
        finally:
            self._note_end(name, number)
        return is_ended

    async def until_settled(self, numbers: Mapping[str, int], timeout_s: float | None) -> None:
        """Waits until revisions, by name, are rolling no more; without a limit as long as their workers take."""
        failed: dict[str, str] = {}
        try:
            async with asyncio.timeout(timeout_s):
                for name, number in numbers.items():
                    if reason := await self._end(name, number):
                        failed[name] = reason
        except TimeoutError:
            rolling = [name for name, number in numbers.items() if self._head(name).rolling == number]
            words = f"cannot see the end of the change of {', '.join(rolling)} within {timeout_s:g} s: it goes on"
            raise Timeout(words, names=rolling, limit=timeout_s) from None
        if failed:
            words = "; ".join(f'cannot change "{name}": {reason}' for name, reason in failed.items())
            raise WorkerFailed(words, taken_back=failed)

    async def _end(self, name: str, number: int) -> str:
        """Waits until a revision is rolling no more; returns why it has failed, "" if it has not."""
        if self._head(name).rolling == number:
            await self._ends.setdefault((name, number), asyncio.Event()).wait()
        if self._head(name).current == number:
            return ""
        found = await self._table.find(name, number)
        if found is None or found.state in ("current", "superseded"):
            return ""
        if found.state == "failed":
            return found.reason
        last = self._head(name).last
        return history.given_up(last) if last > number else "the store does not take its end"

    async def remove(self, names: Sequence[str]) -> None:
        """Deletes the tables in force of names from the store; their revisions stay, until retention ends them."""

        def committed() -> None:
            for name in names:
                before, self._heads[name] = self._head(name), history.removed(self._head(name))
                if before.rolling is not None:
                    self._note_end(name, before.rolling)

        if names:
            await self._commit(removal(names, time.time()), committed)

    async def expire(self, before: float) -> None:
        """Deletes the oldest revisions beyond MAX_REVISIONS of a name, and those of names removed `before` a time, in seconds since 1970."""
        await self._store.write(*expiry(before))

    def head(self, name: str) -> history.Head:
        """Returns what is known of a name at once; one without revisions has zero as its last number."""
        return self._head(name)

    def _head(self, name: str) -> history.Head:
        return self._heads.get(name) or history.Head()

    async def list(self, name: str, limit: int) -> list[history.Revision]:
        """Returns the revisions of a name, the newest first."""
        found = await self._table.list(name, limit)
        if not found:
            raise NotFound(f'cannot find revisions of "{name}"', name=name)
        return found

    async def find(self, name: str, number: int) -> history.Revision:
        """Returns one revision."""
        found = await self._table.find(name, number)
        if found is None:
            last = self._head(name).last
            raise NotFound(f'cannot find revision {number} of "{name}"', name=name, revision=number, last=last)
        return found

    async def before(self, name: str, number: int) -> history.Revision | None:
        """Returns the newest revision below a number that is or was in force; None where there is none."""
        return await self._table.before(name, number)

    async def former(self, name: str) -> history.Revision:
        """Returns the revision that was current before the present one."""
        head = self._head(name)
        found = await self.before(name, head.last + 1 if head.current is None else head.current)
        if found is None:
            raise NotFound(f'cannot find an earlier revision of "{name}"', name=name, last=head.last)
        return found

    def _publish_recorded(self, draft: history.Draft, number: int) -> None:
        self._bus.publish(
            "revision.recorded",
            agent=draft.name,
            revision=number,
            state="current" if draft.is_settled else "rolling",
            how=draft.cause.how,
            by=draft.cause.by,
            why=draft.cause.why,
        )

    def _note_end(self, name: str, number: int) -> None:
        if (end := self._ends.pop((name, number), None)) is not None:
            end.set()

    def _publish_settled(self, name: str, number: int, state: str, reason: str) -> None:
        self._note_end(name, number)
        self._bus.publish("revision.settled", agent=name, revision=number, state=state, reason=reason)
