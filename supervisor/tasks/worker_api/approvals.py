"""Asks, answers, expires and withdraws the questions of tasks.

Open questions are in memory, all of them in the store. An answer counts once: the first that is given ends the question.
A question outlives the daemon and the worker; its task gets the answer when it asks again under the same key. One of an
MCP server ends with the call that it asks in. Times of the store are seconds of the Unix epoch.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.records.events.bus import Bus, rfc3339
from corral.supervisor.records.store.sealed import seal, unseal
from corral.supervisor.records.store.store import LAST_MOMENT, Store, number_of
from corral.worker.contract import codec
from corral.worker.contract.approvals import Approval, AskParams
from corral.worker.contract.errors import Conflict, Corrupted, InvalidParams, NotFound, ResourceLimitExceeded
from corral.worker.contract.records import Task, copied

from ..run.backlog import TaskHandover

ALLOW = ("allow", "yes", "approve", "ok")
DENY = ("deny", "no", "reject", "refuse")


def answer_of(words: str, options: Sequence[str], approval: int) -> str:
    """Returns the option that `words` name in any case, or mean as a word of consent or refusal; without options the words."""
    if not options:
        return words
    if words in options:
        return words
    lowered = {option.lower(): option for option in options}
    asked = words.strip().lower()
    for each in (asked, *next((same for same in (ALLOW, DENY) if asked in same), ())):
        if each in lowered:
            return lowered[each]
    text = f'cannot answer {approval} with "{words[:100]}": its answers are {", ".join(options)}'
    raise InvalidParams(text, key="answer", value=words[:100], options=list(options))


def check_decline(question: Approval) -> None:
    """Refuses to decline what is no question of a form."""
    if not question.can_decline:
        text = f"cannot decline {question.id}: it belongs to no form, and can only be answered"
        raise InvalidParams(text, key="answer", value=None, options=list(question.options))


def check_question(asked: AskParams) -> None:
    """Refuses a question that no answer could end as it says."""
    if len({option.lower() for option in asked.options}) < len(asked.options):
        text = "cannot ask: two options differ in nothing but their case"
        raise InvalidParams(text, key="options", value=asked.options)
    if asked.options and asked.default is not None and asked.default not in asked.options:
        text = f'cannot ask: the default "{asked.default[:100]}" is none of the options'
        raise InvalidParams(text, key="default", value=asked.default[:100])


def key_of(asked: AskParams) -> str:
    """Returns the key by which a task knows its question again."""
    if asked.key is not None:
        return asked.key
    words = "\0".join((asked.question, *asked.options))
    return f"#{hashlib.sha256(words.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


OPEN_MOST = 10_000
"""Number of questions that may be open."""

OPEN_OF_AGENT = 1_000
"""Number of those of one agent."""

DETAIL_BYTES = 64 * 1024

PUBLISHED_CHARS = 1_000
"""Characters of a question in its event."""

USUAL_S = 24 * 3600.0
"""Seconds until a question expires, where it says nothing."""

KEPT_S = 7 * 24 * 3600.0
"""Seconds for which an ended question is kept."""

logger = logging.getLogger(__name__)

End = Literal["answered", "expired", "withdrawn"]


class Open(Struct, eq=False):
    """Holds a question that is open; `ended` is done with its record."""

    record: Approval
    expires: float
    ended: asyncio.Future[Approval]
    timer: asyncio.TimerHandle | None = None
    is_ending: bool = False


class Approvals:
    """Holds the questions of one daemon."""

    def __init__(self, store: Store, bus: Bus, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Open] = {}
        self._of_task: dict[str, dict[str, Open]] = {}
        """By task, and by the key of the question."""
        self._asking: dict[tuple[str, str], asyncio.Lock] = {}
        self._ends = set[asyncio.Task[None]]()
        self._awaiting: dict[str, set[asyncio.Future[Approval]]] = {}
        """Waits for the next question, by task."""

    @property
    def is_busy(self) -> bool:
        """Returns whether a question is being asked or ended: the store is about to have that."""
        return bool(self._asking or self._ends) or any(one.is_ending for one in self._open.values())

    async def load(self, left: Sequence[TaskHandover] = ()) -> None:
        """Takes up the open questions of the store; those of tasks and calls that have ended meanwhile are withdrawn.

        The tasks that another program of this daemon has `left` run on.
        """
        running = {each.task.id for each in left}
        sql = (
            "SELECT approval.id, approval.record, approval.expires_at, task.id IS NULL OR task.finished_at IS NOT NULL"
            " FROM approval LEFT JOIN task ON task.id = approval.task WHERE approval.state = 'open'"
        )
        for number, blob, expires, has_ended in await self._store.read(sql):
            record = _record(number, blob)
            if record is None:
                continue
            one = self._take(record, float(expires) if isinstance(expires, int | float) else 0.0)
            if (has_ended and record.task not in running) or record.server is not None:
                self._end_soon(one, "withdrawn")

    def close(self) -> None:
        """Stops the timers; the next daemon takes the questions up."""
        for one in self._open.values():
            if one.timer is not None:
                one.timer.cancel()

    async def ask(self, task: Task, worker: str, asked: AskParams, server: str | None = None) -> Approval:
        """Returns the record of a question when it has ended; at once where it has ended before."""
        check_question(asked)
        key = (task.id, key_of(asked))
        async with self._asking.setdefault(key, asyncio.Lock()):
            try:
                one = self._of_task.get(task.id, {}).get(key[1])
                before = None if one is not None else await self._before(*key)
                if before is not None and before.state != "withdrawn":
                    return before
                if one is None:
                    one = await self._begin(task, worker, key[1], asked, server)
            finally:
                self._asking.pop(key, None)
        try:
            return await asyncio.shield(one.ended)
        except asyncio.CancelledError:
            if server is not None and not one.ended.done():
                self._end_soon(one, "withdrawn")
            raise

    async def _begin(self, task: Task, worker: str, key: str, asked: AskParams, server: str | None) -> Open:
        self._check_room(task.agent)
        if len(codec.encode(asked.detail)) > DETAIL_BYTES:
            text = f"cannot ask: its detail has more than {DETAIL_BYTES} bytes of JSON"
            raise ResourceLimitExceeded(text, limit="detail", value=DETAIL_BYTES)
        now = self._clock()
        expires = min(now + (USUAL_S if asked.timeout_s is None else asked.timeout_s), LAST_MOMENT)
        record = Approval(
            id=0,
            agent=task.agent,
            worker=worker,
            task=task.id,
            key=key,
            **copied(asked, "kind question options detail default can_decline"),
            asked_at=rfc3339(now),
            expires_at=rfc3339(expires),
            server=server,
        )
        sql = "INSERT INTO approval (task, key, agent, state, record, expires_at) VALUES (?, ?, ?, 'open', ?, ?)"
        found = await self._store.write(
            ("DELETE FROM approval WHERE task = ? AND key = ?", (task.id, key)),
            (sql, (task.id, key, task.agent, _sealed(record), expires)),
        )
        one = self._take(replace(record, id=found[1]), expires)
        self._bus.publish(
            "approval.asked",
            agent=task.agent,
            worker=worker,
            approval=one.record.id,
            task=task.id,
            kind=record.kind,
            question=record.question[:PUBLISHED_CHARS],
            options=record.options,
            expires_at=record.expires_at,
        )
        return one

    def _check_room(self, agent: str) -> None:
        of_agent = sum(one.record.agent == agent for one in self._open.values())
        for limit, value, most in (
            ("open questions", len(self._open), OPEN_MOST),
            (f'open questions of agent "{agent}"', of_agent, OPEN_OF_AGENT),
        ):
            if value >= most:
                text = f"cannot ask: there are {most} {limit}"
                raise ResourceLimitExceeded(text, limit="approvals", value=most, agent=agent)

    async def _before(self, task: str, key: str) -> Approval | None:
        """Returns the ended record of a question that the task has asked before."""
        rows = await self._store.read("SELECT id, record FROM approval WHERE task = ? AND key = ?", (task, key))
        return _record(*rows[0]) if rows else None

    # TaskObserver

    def started(self, task: Task) -> None:
        """Notes nothing."""

    def ended(self, task: Task) -> None:
        """Withdraws the questions of a task that has ended."""
        for one in tuple(self._of_task.get(task.id, {}).values()):
            self._end_soon(one, "withdrawn")

    def question(self, task: str, after: int = 0) -> Approval | None:
        """Returns the oldest open question of a task above a number; requests for permission have their own answerers."""
        for one in self._of_task.get(task, {}).values():
            if one.record.kind == "question" and not one.is_ending and one.record.id > after:
                return one.record
        return None

    async def asked(self, task: str, after: int = 0) -> Approval:
        """Returns the open question of a task above a number, as soon as there is one."""
        while (found := self.question(task, after)) is None:
            future: asyncio.Future[Approval] = self._loop.create_future()
            waits = self._awaiting.setdefault(task, set())
            waits.add(future)
            try:
                await future
            finally:
                waits.discard(future)
                if not waits:
                    self._awaiting.pop(task, None)
        return found

    @property
    def is_any_open(self) -> bool:
        """Returns whether any question is open."""
        return bool(self._open)

    def open(self, agent: str | None = None, task: str | None = None) -> list[Approval]:
        """Returns the open questions, the oldest first."""
        return [
            one.record
            for _, one in sorted(self._open.items())
            if agent in (None, one.record.agent) and task in (None, one.record.task)
        ]

    async def ended_ones(
        self, agent: str | None, task: str | None, limit: int, is_known: Callable[[str], bool] | None = None
    ) -> list[Approval]:
        """Returns the last questions that have ended, the newest first; those of agents that are known alone."""
        sql = (
            "SELECT id, record FROM approval WHERE state <> 'open' AND (? IS NULL OR agent = ?)"
            " AND (? IS NULL OR task = ?) AND id < ? ORDER BY id DESC LIMIT 1000"
        )
        found: list[Approval] = []
        below = 2**62
        while len(found) < limit:
            rows = await self._store.read(sql, (agent, agent, task, task, below))
            records = [record for row in rows if (record := _record(*row)) is not None]
            found += [each for each in records if is_known is None or is_known(each.agent)]
            if len(rows) < 1000:
                break
            below = number_of(rows[-1][0])
        return found[:limit]

    async def show(self, number: int) -> Approval:
        """Returns a question."""
        one = self._open.get(number)
        if one is not None:
            return one.record
        rows = await self._store.read("SELECT id, record FROM approval WHERE id = ?", (number,))
        found = _record(*rows[0]) if rows else None
        if found is None:
            raise NotFound(f"cannot find approval {number}", approval=number)
        return found

    async def answer(self, number: int, words: str | None, by: str) -> Approval:
        """Answers a question, or declines its form; that is durable when this returns."""
        one = self._open.get(number)
        if one is None or one.is_ending:
            found = await self.show(number) if one is None else one.record
            text = f"cannot answer {number}: it is {found.state}"
            facts = {"state": found.state, "answer": found.answer, "by": found.answered_by}
            raise Conflict(text, approval=number, **facts)
        if words is None:
            check_decline(one.record)
            return await self._end(one, "answered", None, by)
        return await self._end(one, "answered", answer_of(words, one.record.options, number), by)

    def _take(self, record: Approval, expires: float) -> Open:
        one = Open(record, expires, self._loop.create_future())
        self._open[record.id] = one
        self._of_task.setdefault(record.task, {})[record.key] = one
        self._arm(one)
        for future in self._awaiting.get(record.task, ()):
            if not future.done():
                future.set_result(record)
        return one

    def _arm(self, one: Open) -> None:
        one.timer = self._loop.call_later(max(min(one.expires - self._clock(), 3600.0), 0.0), self._look, one)

    def _look(self, one: Open) -> None:
        """Ends a question whose time is over by the wall clock, which may have been set."""
        if one.is_ending or one.ended.done():
            return
        if self._clock() < one.expires:
            self._arm(one)
        else:
            self._end_soon(one, "expired")

    def _end_soon(self, one: Open, state: End) -> None:
        if one.is_ending:
            return
        task = self._loop.create_task(self._end_by_itself(one, state))
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _end_by_itself(self, one: Open, state: End) -> None:
        try:
            await self._end(one, state, one.record.default if state == "expired" else None, None)
        except Exception as error:  # the store takes nothing now: it is looked at again
            logger.warning("cannot end question %d yet: %s", one.record.id, error)
            one.timer = self._loop.call_later(1.0, self._end_soon, one, state)

    async def _end(self, one: Open, state: End, answer: str | None, by: str | None) -> Approval:
        one.is_ending = True
        now, record = self._clock(), one.record
        ended = replace(record, state=state, answer=answer, answered_by=by, ended_at=rfc3339(now))
        sql = "UPDATE approval SET state = ?, record = ?, ended_at = ? WHERE id = ?"
        try:
            await self._store.write((sql, (state, _sealed(ended), now, record.id)))
        except BaseException:
            one.is_ending = False
            raise
        if one.timer is not None:
            one.timer.cancel()
        self._open.pop(record.id, None)
        of_task = self._of_task.get(record.task, {})
        of_task.pop(record.key, None)
        if not of_task:
            self._of_task.pop(record.task, None)
        if not one.ended.done():
            one.ended.set_result(ended)
        self._publish_end(ended)
        return ended

    def _publish_end(self, ended: Approval) -> None:
        publish = partial(self._bus.publish, agent=ended.agent, worker=ended.worker)
        number, task = ended.id, ended.task
        if ended.state == "answered":
            publish("approval.answered", approval=number, task=task, answer=ended.answer, by=ended.answered_by)
        elif ended.state == "expired":
            publish("approval.expired", approval=number, task=task, answer=ended.answer)
        else:
            publish("approval.withdrawn", approval=number, task=task)

    async def expire(self, now: float) -> None:
        """Removes questions that ended long ago."""
        await self._store.write(("DELETE FROM approval WHERE state <> 'open' AND ended_at < ?", (now - KEPT_S,)))


def _sealed(record: Approval) -> bytes:
    return seal(msgspec.json.encode(record), compress=True)


def _record(number: object, blob: object) -> Approval | None:
    """Returns a record of the store under its number; None where it is damaged, which is logged."""
    try:
        data = unseal(blob if isinstance(blob, bytes) else b"", f"question {number}")
        return replace(msgspec.json.decode(data, type=Approval), id=number_of(number))
    except (Corrupted, msgspec.MsgspecError) as error:
        logger.error("cannot use question %s: its record is damaged: %s", number, error)
        return None
