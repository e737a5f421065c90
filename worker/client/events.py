"""Follows events, logs, tasks and commands of a daemon from a program: in order, at the pace of the reader; events without gaps."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Literal, Self, cast

import msgspec

from ..contract.codec import as_array, as_object, encode
from ..contract.errors import Conflict, Unreachable, from_wire
from ..contract.jsonrpc import Notification
from ..contract.log_pieces import PieceJoiner
from ..contract.records import Task
from ..control.nodes import places_of, places_text
from ..control.results import LogLine
from .async_ import Connection, Endpoint, Stream, decode_answer
from .tasks import TaskRunner, failure


class DaemonEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Represents one event; `fields` has the keys that only its type has. `node` is null for a daemon in no cluster.

    Each key can be read as in the events of `list_events`, too: `event["type"]`, `event["to"]`, `event.get("reason")`.
    """

    seq: int
    at: str
    type: str
    agent: str | None = None
    worker: str | None = None
    incarnation: int | None = None
    node: str | None = None
    fields: dict[str, object] = {}

    def __getitem__(self, key: str) -> object:
        if key in self.fields:
            return self.fields[key]
        if key == "fields" or key not in self.__struct_fields__:
            raise KeyError(key)
        return getattr(self, key)

    def get(self, key: str, default: object = None) -> object:
        """Returns the value of a key, or `default` where the event has none."""
        try:
            return self[key]
        except KeyError:
            return default


class CallStream:
    """Holds the connection of one call whose notifications follow: an `async with` begins on entering, and closes it.

    A subclass begins in `open`, which `_begin` serves.
    """

    def __init__(self, daemon: str | Endpoint) -> None:
        self._daemon = daemon
        self._stream: Stream | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> Stream:
        """Makes the call."""
        raise NotImplementedError

    async def close(self) -> None:
        """Ends the stream, and closes its connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.connection.close()

    async def _begin(self, method: str, params: Mapping[str, object]) -> tuple[Stream, dict[str, object]]:
        """Returns the stream of a call, with its answer; a failure leaves no connection."""
        stream = await Stream.open(self._daemon)
        try:
            return stream, as_object(await stream.connection.call(method, params)) or {}
        except BaseException:
            await stream.connection.close()
            raise


class EventStream(CallStream):
    """Iterates over the events of a daemon, or of all nodes of its cluster: those of each in order and without gaps.

    A slow reader delays nobody: unread events stay in the store. When the connection breaks, iteration continues
    at the same position as long as the daemon can be reached. `missing_nodes` names nodes that do not answer now; their
    events come once they are back.
    """

    def __init__(self, daemon: str | Endpoint, filters: Mapping[str, object], since: int | str | None) -> None:
        super().__init__(daemon)
        self._filters = filters
        self._since = since
        self.missing_nodes: list[str] = []
        self._is_closed = False

    async def open(self) -> Stream:
        """Subscribes: events from then on are yielded.

        Raises:
            CorralError: the daemon refuses it, or cannot be reached.
        """
        params = dict(self._filters)
        if self._since is not None:
            params["since"] = self._since
        stream, started = await self._begin("event.follow", params)
        position = started.get("position")
        if isinstance(position, (int, str)):
            self._since = position
        self.missing_nodes = []
        self._stream, self._is_closed = stream, False
        return stream

    async def __aiter__(self) -> AsyncIterator[DaemonEvent]:
        """Yields the events in order.

        Raises:
            Unreachable: the daemon is gone; `data["since"]` is the event number to continue after.
        """
        try:
            while True:
                stream = self._stream or await self.open()
                try:
                    async for notification in stream:
                        if (missing := as_array(notification.params.get("missing_nodes"))) is not None:
                            self.missing_nodes = [str(each) for each in missing]
                        for record in as_array(notification.params.get("events")) or ():
                            event = decode_event(as_object(record) or {})
                            self._since = _place_after(self._since, event)
                            yield event
                except Unreachable:
                    if self._is_closed:
                        return
                    self._stream = None
        except Unreachable as error:
            raise Unreachable(error.message, **{**error.data, "since": self._since}) from error
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the subscription and its iteration, and closes its connection."""
        self._is_closed = True
        await super().close()


class LogStream(CallStream):
    """Iterates over lines of logs: the last ones, then new ones as they come.

    It ends where `follow` is false, or with the task that was asked for. It begins on the first step, or in an
    `async with` on entering. A line that its worker leaves unfinished, such as a prompt, comes within a second with
    `partial`, and its rest as another.
    """

    def __init__(self, daemon: str | Endpoint, params: Mapping[str, object]) -> None:
        super().__init__(daemon)
        self.position: str | None = None
        """The `after` with which another stream goes on behind the lines that this one has yielded."""
        self.missing_nodes: list[str] = []
        """Nodes of the cluster that do not answer now; their lines come once they are back."""
        self._params = params

    async def open(self) -> Stream:
        """Begins to follow.

        Raises:
            CorralError: the daemon refuses it, or cannot be reached.
        """
        self._stream, answer = await self._begin("log.follow", self._params)
        self._move(answer)
        return self._stream

    async def __aiter__(self) -> AsyncIterator[LogLine]:
        """Yields the lines in order.

        Raises:
            Unreachable: the daemon is gone.
            ResourceLimitExceeded: the pattern takes too long.
        """
        joiner = PieceJoiner(waits=self._params.get("follow") is False)
        try:
            async for notification in self._stream or await self.open():
                params = notification.params
                is_end = notification.method == "log.end"
                pieces = [as_object(each) or {} for each in as_array(params.get("records")) or ()]
                for record in (*joiner.join(pieces), *(joiner.flush() if is_end else ())):
                    yield cast("LogLine", record)  # decoded JSON of this very daemon
                self._move(params)
                if (missing := as_array(params.get("missing_nodes"))) is not None:
                    self.missing_nodes = [str(each) for each in missing]
                if is_end:
                    if (error := as_object(params.get("error"))) is not None:
                        raise from_wire(error)
                    return
        except Unreachable:
            for record in joiner.flush():
                yield cast("LogLine", record)
            raise
        finally:
            await self.close()

    def _move(self, params: Mapping[str, object]) -> None:
        position = params.get("position")
        if isinstance(position, str):
            self.position = position


class StatusStream(CallStream):
    """Iterates over the status of a daemon: first the whole, as a key `status`, then what has changed, as a key `change`."""

    async def open(self) -> Stream:
        """Begins to follow.

        Raises:
            CorralError: the daemon refuses it, or cannot be reached.
        """
        self._stream, _ = await self._begin("daemon.follow", {})
        return self._stream

    async def __aiter__(self) -> AsyncIterator[Mapping[str, object]]:
        """Yields the notifications in order.

        Raises:
            Unreachable: the daemon is gone.
        """
        try:
            async for notification in self._stream or await self.open():
                yield notification.params
        finally:
            await self.close()


class TaskCall:
    """Makes a call that ends with a task, on a connection of its own; then `task` is its record."""

    def __init__(self, daemon: str | Endpoint, params: Mapping[str, object]) -> None:
        self._daemon = daemon
        self._params = params
        self._connection: Connection | None = None
        self.task: Task | None = None

    async def _notifications(self, method: str, params: Mapping[str, object]) -> AsyncGenerator[Notification]:
        """Yields the notifications of the call."""
        stream = await Stream.open(self._daemon)
        self._connection = stream.connection
        asking = asyncio.ensure_future(_ask_and_close(stream.connection, method, params))
        try:
            with suppress(Unreachable):  # the stream ends with the answer
                async for notification in stream:
                    yield notification
            self.task = decode_answer(Task, await asking, method)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def close(self) -> None:
        """Ends the stream; the task continues."""
        if self._connection is not None:
            await self._connection.close()


class TaskStream(TaskCall):
    """Iterates over the events of a task and the tasks below it, until it has ended; then `task` is its record.

    The events begin with the present state of each, which has number 0.
    """

    async def __aiter__(self) -> AsyncIterator[DaemonEvent]:
        """Yields the events in order.

        Raises:
            NotFound: there is no such task.
            Timeout: it has not ended within `timeout_s`; it continues.
            Unreachable: the daemon is gone.
        """
        try:
            async with aclosing(self._notifications("task.follow", self._params)) as notifications:
                async for notification in notifications:
                    if notification.method == "task.event":
                        yield decode_event(as_object(notification.params.get("event")) or {})
        finally:
            await self.close()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Represents a part that a task streams; `print(part, end="")` prints its text.

    `number` is that of the newest part in it, since text is merged, and `lost` the number of parts before it that came
    too fast for the reader. Number 0 says that `attempt` begins anew, so that earlier parts are void.
    """

    task: str
    attempt: int
    delivery: int
    number: int
    value: object = msgspec.field(name="part")
    lost: int = 0

    @property
    def is_new_beginning(self) -> bool:
        """Returns True if the task begins anew."""
        return self.number == 0

    def __str__(self) -> str:
        return self.value if isinstance(self.value, str) else encode(self.value).decode()


class PartStream(TaskCall):
    """Iterates over what a task streams, until it has ended; then `task` is its record, and `output` its result.

    A task that it runs itself is cancelled when the iteration is left before, and its failure is raised at the end.
    """

    def __init__(self, daemon: str | Endpoint, params: Mapping[str, object], runner: TaskRunner | None = None) -> None:
        super().__init__(daemon, params)
        self._runner = runner
        self._running: str | None = None  # its id, while it is to be cancelled with the iteration

    @property
    def output(self) -> object:
        """Returns the output of the task; None before it has ended."""
        return None if self.task is None else self.task.output

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Part]:
        """Yields the parts in order.

        Raises:
            CorralError: the task was refused, or has failed: of the class that its record names.
            NotFound: there is no such task.
            Timeout: it has not ended within `timeout_s`; it continues.
            Unreachable: the daemon is gone; `data["task"]` names a task that it has accepted.
        """
        params = {**self._params, "stream": True}
        if self._runner is not None:
            self._running = (await self._runner.submit(self._params)).id
            params = {"task": self._running, "stream": True}
        try:
            async with aclosing(self._notifications("task.wait", params)) as notifications:
                async for notification in notifications:
                    if notification.method == "task.part":
                        yield decode_answer(Part, notification.params, "task.part")
            self._running = None
        except Unreachable as error:
            self._running = None  # it continues when the daemon is back
            raise Unreachable(error.message, **{**error.data, "task": params["task"]}) from error
        finally:
            await self.close()
        if self._runner is not None and self.task is not None and (failed := failure(self.task)) is not None:
            raise failed

    async def close(self) -> None:
        """Ends the stream; a task that it runs itself is cancelled."""
        task, self._running = self._running, None
        if self._runner is not None and task is not None:
            self._runner.cancel_later(task)
        await super().close()


class ExecOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Represents a piece of output; with a terminal all of it is `stdout`."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class ExecStream(CallStream):
    """Iterates over the output of a command, until it has ended; then `code` or `signal` says how.

    It begins on the first step, or in an `async with` on entering; the command ends when that is left.
    """

    def __init__(self, daemon: str | Endpoint, params: Mapping[str, object]) -> None:
        super().__init__(daemon)
        self.exec: str | None = None
        self.worker: str | None = None
        self.pid: int | None = None
        self.code: int | None = None
        self.signal: str | None = None
        self.reason = ""
        """Why the daemon ended it; empty where it ended by itself."""
        self._params = params

    async def open(self) -> Stream:
        """Starts the command.

        Raises:
            Conflict: the worker has no process now, or is frozen.
            SpawnFailed: the command cannot be started.
            CorralError: the daemon refuses it, or cannot be reached.
        """
        self._stream, started = await self._begin("agent.exec", self._params)
        self.exec, self.worker = str(started["exec"]), str(started["worker"])
        self.pid = cast("int", started["pid"])  # the daemon's own answer
        return self._stream

    async def __aiter__(self) -> AsyncIterator[ExecOutput]:
        """Yields the output in order, of each stream.

        Raises:
            Unreachable: the daemon is gone, and the command with it.
        """
        try:
            async for notification in self._stream or await self.open():
                params = notification.params
                if notification.method == "exec.end":
                    self.code = cast("int | None", params["code"])  # of this very daemon
                    self.signal = cast("str | None", params["signal"])
                    self.reason = str(params["reason"])
                    return
                name = cast('Literal["stdout", "stderr"]', params["stream"])
                yield ExecOutput(stream=name, data=base64.b64decode(str(params["data"])))
        finally:
            await self.close()

    async def write(self, data: bytes) -> None:
        """Writes to its stdin, and returns once it is taken; needs `stdin` or `tty`.

        Raises:
            CorralError: it no longer reads its input, or has ended.
        """
        for start in range(0, len(data), 32 * 1024):
            await self._send(data=base64.b64encode(data[start : start + 32 * 1024]).decode())

    async def end_input(self) -> None:
        """Ends its input: it reads the end of the file."""
        await self._send(end=True)

    async def send_signal(self, signal: str) -> None:
        """Sends a signal, by name; KILL reaches all of its processes."""
        await self._send(signal=signal)

    async def resize(self, rows: int, columns: int) -> None:
        """Sets the size of its terminal."""
        await self._send(rows=rows, columns=columns)

    async def _send(self, **params: object) -> None:
        if self._stream is None:
            raise Conflict("cannot write to the command: it does not run", reason="ended")
        await self._stream.connection.call("agent.exec_input", {"exec": self.exec, **params})


def _place_after(since: int | str | None, event: DaemonEvent) -> int | str:
    """Returns the place behind an event: of all nodes, with that of its node moved."""
    if isinstance(since, str) and event.node is not None:
        moved = {event.node: str(event.seq)} if event.seq else {}
        return places_text({**places_of(since), **moved})
    return max(since if isinstance(since, int) else 0, event.seq)


async def _ask_and_close(connection: Connection, method: str, params: Mapping[str, object]) -> object:
    try:
        return await connection.call(method, params)
    finally:
        await connection.close()


def decode_event(record: Mapping[str, object]) -> DaemonEvent:
    """Returns the record of an event; one without a number has number 0."""
    record = {**record, "seq": record.get("seq") or 0}
    names = DaemonEvent.__struct_fields__
    common = {key: value for key, value in record.items() if key in names and key != "fields"}
    fields = {key: value for key, value in record.items() if key not in common}
    return decode_answer(DaemonEvent, {**common, "fields": fields}, "event.follow")
