"""Serves the methods `log.*` of the table: reads and follows the lines of workers."""

import contextlib
from collections.abc import AsyncGenerator
from typing import cast

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.logs.file_format import LogFilter
from corral.supervisor.records.logs.file_format import Record as LogRecord
from corral.supervisor.records.logs.merging import LogPosition
from corral.supervisor.records.logs.regex import Pattern
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tasks.run.tasks import Tasks
from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded
from corral.worker.contract.log_pieces import PieceJoiner
from corral.worker.control.params import LogParams
from corral.worker.control.results import LogLine, LogLines, LogPlace
from corral.worker.methods.events import LOG_FOLLOW, LOG_READ

from ..reports.task_lines import TaskLines
from ..table.caller import Caller
from ..table.handlers import serve

ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes of JSON in one answer; longer logs have to be followed."""

LINES = 100
"""Number of lines in one answer, unless `n`, a time or a task asks for more."""

LINES_FOLLOWED = 10
"""Number of past lines that a follower gets first, likewise."""


class LogMethods:
    """Serves the methods `log.*`."""

    def __init__(self, agents: Agents, tasks: Tasks, logs: LogStore, lines: TaskLines) -> None:
        self._agents = agents
        self._tasks = tasks
        self._logs = logs
        self._lines = lines

    def _log_filter(self, params: LogParams) -> LogFilter:
        given = params.names or []
        with_files = self._logs.names() if given else set[str]()
        names = self._agents.registry.chosen(given, params.selector, extra=sorted(with_files))
        for name in names:
            if name not in with_files:
                self._agents.supervisors(name)
        running = frozenset(
            supervisor.id for supervisor in self._agents.all_supervisors() if supervisor.worker.pid is not None
        )
        return LogFilter(
            names=frozenset(names),
            since=params.since,
            until=params.until,
            stream=params.stream,
            level=params.level,
            pattern=None if params.grep is None else Pattern(params.grep),
            previous=params.previous,
            running=running,
        )

    @serve(LOG_READ)
    async def _read(self, params: LogParams, _caller: Caller) -> LogLines:
        found: list[LogRecord] = []
        size = 0
        joiner = PieceJoiner()
        position = _position(params)
        batches = await self._batches(params, LINES, position, follow=False)
        async with self._logs.answering, contextlib.aclosing(batches):
            async for batch in batches:
                size += len(codec.encode(batch))
                if size > ANSWER_BYTES:
                    raise ResourceLimitExceeded(
                        f"cannot answer with more than {ANSWER_BYTES} bytes of log: follow it",
                        limit="answer",
                        value=ANSWER_BYTES,
                    )
                found += joiner.join(batch)
        found += joiner.flush()
        records = cast("list[LogLine]", found)  # the shape that `logs.record` gives them
        return LogLines(records=records, position=None if position is None else position.text())

    @serve(LOG_FOLLOW)
    async def _follow(self, params: LogParams, caller: Caller) -> LogPlace:
        if params.follow and (params.until is not None or params.previous):
            key = "previous" if params.previous else "until"
            raise InvalidParams(f'cannot follow a log with "{key}": that is over', key=key)
        lines = LINES_FOLLOWED if params.follow else LINES
        position = _position(params)
        batches = await self._batches(params, lines, position, follow=params.follow)
        begin = None
        if position is not None:
            position.begin_round(self._logs.newest())
            begin = position.text() if params.after is None else params.after
        caller.follow(_send_batches(caller, batches, position))
        return LogPlace(position=begin)

    async def _batches(
        self, params: LogParams, lines: int, position: LogPosition | None, *, follow: bool
    ) -> AsyncGenerator[list[LogRecord], None]:
        """Returns the records that are asked for; of a task or since a time all, else the last `lines` unless `n` says how many."""
        wanted = self._log_filter(params)
        is_all = params.since is not None or params.task is not None
        n = lines if params.n is None and not is_all else params.n
        n = None if params.after is not None else n
        if params.task is not None:
            if params.names or params.selector or params.previous:
                raise InvalidParams(
                    f'cannot select lines of task "{params.task}" by names or incarnations: the task says which',
                    key="task",
                    value=params.task,
                )
            return self._lines.of_task(await self._tasks.show(params.task), wanted, n, position, follow=follow)
        logs = self._logs
        if follow:
            return logs.follow(wanted, n, position=position)
        return logs.history(wanted, n, position)


def _position(params: LogParams) -> LogPosition | None:
    """Returns the position that is moved with what is read; None where nobody can go on from it."""
    if params.after is None:
        has_end = params.until is not None or params.previous
        return None if has_end else LogPosition()
    if params.previous:
        raise InvalidParams('cannot go on after a position in "previous" ones', key="after")
    try:
        return LogPosition.parse(params.after)
    except ValueError:
        raise InvalidParams("cannot go on after that: take the position of an answer as it is", key="after") from None


async def _send_batches(
    caller: Caller, batches: AsyncGenerator[list[LogRecord], None], position: LogPosition | None
) -> None:
    end: dict[str, object] = {}
    try:
        async with contextlib.aclosing(batches):
            async for batch in batches:
                place = None if position is None else position.text()
                caller.notify("log", {"records": batch, "position": place})
                batch.clear()  # it is encoded: while its reader takes its time, nothing is held twice
                await caller.drain()
    except ResourceLimitExceeded as error:  # of the pattern
        end = {"error": error.to_wire()}
    caller.notify("log.end", end)
