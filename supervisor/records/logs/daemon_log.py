"""Writes the daemon's own log: to the system's journal where stderr is the journal, else to stderr, as text or JSON.

Callers use `logging` and give facts for programs by `extra={"fields": {…}}`; those of a CorralError that is logged come
by themselves. Nothing here ever waits for a reader: an entry that cannot be written now waits in a bounded queue, one that
does not fit is counted, and the log reports that when it can be written again. A stderr that is closed costs its entries
and nothing else.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Literal, TypeVar

from corral.worker.contract.errors import CorralError

from .journald import PRIORITIES, SOCKET, Fields, Journal, Outcome, field_name, is_stream_to_journal

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["text", "json"]

QUEUE_ENTRIES = 10_000
"""Number of entries that wait."""
QUEUE_BYTES = 1024 * 1024
"""Bytes of the entries that wait."""
TEXT_LIMIT = 16 * 1024
"""Characters of a whole entry, without its traceback."""
VALUE_LIMIT = 4 * 1024
"""Characters of one fact."""
DATA_LIMIT = 32
"""Number of facts that an error may bring."""
NAME_LIMIT = 64
"""Characters of the name of a fact."""
TRACEBACK_LIMIT = 32 * 1024
"""Characters of a traceback; of a longer one the middle is left out."""
CLOSE_S = 1.0
"""Seconds that writing the last entries may take."""
BEHIND_S, IDLE_S = 0.05, 1.0
"""Seconds between two attempts to write waiting entries, and between two looks whether any wait."""
STDERR = 2

T = TypeVar("T")

_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]|^$")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class DaemonLog:
    """Writes the log of this process; there is one at a time."""

    def __init__(
        self,
        level: Level = "info",
        form: Form = "text",
        *,
        journal_stream: str = "",
        journal_path: str = SOCKET,
        fd: int = STDERR,
        place: str = "",
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        """Takes over the root logger."""
        self._on_idle = on_idle
        self.journal_stream = journal_stream
        is_journal = is_stream_to_journal(fd, journal_stream)
        journal = Journal(journal_path)
        sink: _Sink
        if is_journal and journal.is_reachable:
            self.where = "the journal"
            sink = _JournalSink(journal)
        else:
            self.where = f"{place or 'stderr'}, as {form}"
            sink = _StderrSink(_SharedDescriptor(fd), form, with_priority=is_journal and form == "text")
        self._handler = Handler(sink)
        self._root = logging.getLogger()
        self._root.addHandler(self._handler)
        self.set_level(level)

    def set_level(self, level: Level) -> None:
        """Sets the least severe level that is written, until the next restart."""
        self.level: Level = level
        self._root.setLevel(level.upper())

    @property
    def lost(self) -> int:
        """Returns the number of entries that were not written, because nothing read them or stderr was closed."""
        return self._handler.lost

    def flush(self) -> None:
        """Writes the waiting entries, as far as that is possible now."""
        self._handler.flush()

    async def keep_up(self) -> None:
        """Writes waiting entries as soon as the reader reads, without end, also where nothing new comes."""
        while True:
            self.flush()
            if self._on_idle is not None:
                self._on_idle()
            # Not by writability: uvloop would set O_NONBLOCK on a descriptor that other processes share.
            await asyncio.sleep(BEHIND_S if self._handler.is_behind else IDLE_S)

    def close(self) -> None:
        """Writes the waiting entries, within CLOSE_S, and takes no more."""
        self._root.removeHandler(self._handler)
        self._handler.drain(CLOSE_S)
        self._handler.close()


async def log_outcome(logger: logging.Logger, what: str, facts: Mapping[str, object], doing: Awaitable[T]) -> T:
    """Awaits `doing` and returns its result; logs at DEBUG how it ended and after how long."""
    began_s = time.perf_counter()
    result = "ok"
    try:
        return await doing
    except BaseException as error:
        result = error.name if isinstance(error, CorralError) else type(error).__name__
        facts = {**facts, "message": str(error)}
        raise
    finally:
        taken_ms = round((time.perf_counter() - began_s) * 1000, 3)
        logger.debug(what, extra={"fields": {**facts, "result": result, "ms": taken_ms}})


class Handler(logging.Handler):
    """Queues entries before a sink, bounded; `logging` holds its lock around `emit`, this class around the rest."""

    def __init__(self, sink: "_Sink") -> None:
        super().__init__()
        self.lost = 0
        self._unreported = 0
        self._sink = sink
        self._queue: deque[tuple[object, int, int]] = deque()
        """Entries, their sizes, and the number of lost ones that they report."""
        self._queued_bytes = 0

    @property
    def is_behind(self) -> bool:
        """Returns whether entries wait."""
        return bool(self._queue)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes an entry, or keeps it until it can be written, or counts it."""
        try:
            entry, size = self._sink.render(record)
        except Exception as error:  # a wrong format string is no reason to fail the caller
            broken = f"cannot write an entry of {record.pathname}:{record.lineno}: {error!r}"
            entry, size = self._sink.render(_record("error", broken))
        if len(self._queue) >= QUEUE_ENTRIES or self._queued_bytes + size > QUEUE_BYTES:
            self._pump()
            if self._queue:
                self.lost += 1
                self._unreported += 1
                return
        self._put(entry, size)
        self._pump()

    def flush(self) -> None:
        """Writes the waiting entries, as far as that is possible now."""
        with self.lock or contextlib.nullcontext():
            self._pump()

    def drain(self, within_s: float) -> None:
        """Writes the waiting entries, and waits for that, `within_s` at most."""
        end_s = time.monotonic() + within_s
        self.flush()
        while self._queue and (left_s := end_s - time.monotonic()) > 0:
            self._sink.wait(left_s)
            self.flush()

    def close(self) -> None:
        """Drops the waiting entries."""
        self._queue.clear()
        self._unreported = 0
        self._sink.close()
        super().close()

    def _put(self, entry: object, size: int, reported: int = 0) -> None:
        self._queue.append((entry, size, reported))
        self._queued_bytes += size

    def _pump(self) -> None:
        is_broken = False
        while self._queue or (self._unreported and not is_broken):
            if not self._queue:
                count, self._unreported = self._unreported, 0
                text = f"{count} entries of this log were lost: they could not be written"
                self._put(*self._sink.render(_record("warning", text)), count)
            entry, size, reported = self._queue[0]
            try:
                left = self._sink.write(entry)
            except OSError:
                left = None
                is_broken = True
                self.lost += not reported
                self._unreported += reported or 1
            if left is not None:
                self._queue[0] = left, size, reported
                return
            self._queue.popleft()
            self._queued_bytes -= size


def _record(level: str, text: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.getLevelNamesMapping()[level.upper()], __file__, 0, text, None, None)


# -- stderr


class _StderrSink:
    def __init__(self, outlet: "_SharedDescriptor", form: Form, *, with_priority: bool) -> None:
        self._outlet = outlet
        self._form = form
        self._with_priority = with_priority
        self._is_at_start = True
        """Whether the next byte begins a line."""
        self._has_rest = False
        """Whether the next entry is the rest of one."""

    def render(self, record: logging.LogRecord) -> tuple[object, int]:
        line = json_line(record) if self._form == "json" else text_lines(record)
        if self._with_priority:  # sd-daemon(3): the stream's reader takes it off again
            mark = f"<{PRIORITIES[_level_of(record)]}>"
            line = "\n".join(mark + each for each in line.split("\n"))
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        return data, len(data)

    def write(self, entry: object) -> object | None:
        assert isinstance(entry, bytes), "render has made it"
        if not (self._is_at_start or self._has_rest):
            entry = b"\n" + entry  # only a part of the one before could be written
        self._has_rest = False
        while entry:
            try:
                count = self._outlet.write(entry)
            except BlockingIOError:
                self._has_rest = True
                return entry
            self._is_at_start = entry[count - 1 : count] == b"\n"
            entry = entry[count:]
        return None

    def wait(self, timeout_s: float) -> None:
        self._outlet.wait(timeout_s)

    def close(self) -> None:
        self._outlet.close()


class _SharedDescriptor:
    """Writes to a descriptor that other processes share, without ever blocking and without changing its flags."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._own_fd = -1
        self._socket: socket.socket | None = None
        self._is_file = True
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            self._fd = -1  # its number may become that of another file
            return
        self._is_file = stat.S_ISREG(mode)
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif not self._is_file:
            # O_NONBLOCK belongs to the open file, which our parent and the launcher share: so another one of our own.
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._own_fd = os.open(f"/proc/self/fd/{fd}", flags)

    def write(self, data: bytes) -> int:
        """Writes as much as it can now; returns the number of bytes written."""
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._own_fd >= 0:
            return os.write(self._own_fd, data)
        if not self._is_file:  # a pipe of another user: as much as poll(2) promises to take
            if not self._poll(0):
                raise BlockingIOError
            data = data[: select.PIPE_BUF]
        return os.write(self._fd, data)

    def wait(self, timeout_s: float) -> None:
        """Waits until something can be written."""
        self._poll(timeout_s)

    def _poll(self, timeout_s: float) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return bool(poller.poll(timeout_s * 1000))

    def close(self) -> None:
        """Closes the descriptors that were opened here."""
        if self._socket is not None:
            self._socket.close()
        if self._own_fd >= 0:
            os.close(self._own_fd)
            self._own_fd = -1


# -- the journal


class _JournalSink:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def render(self, record: logging.LogRecord) -> tuple[object, int]:
        facts = facts_of(record)
        message = _words(record, facts)
        if traceback := traceback_of(record):
            message = f"{message}\n{traceback}"
        fields = {field_name(key): _plain(value) for key, value in facts.items() if value is not None}
        return {
            **fields,
            "MESSAGE": message,
            "PRIORITY": PRIORITIES[_level_of(record)],
            "SYSLOG_IDENTIFIER": "corrald",
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName or "",
            "CORRAL_LEVEL": _level_of(record),
            "CORRAL_LOGGER": record.name,
        }, len(message) + sum(len(value) for value in fields.values())

    def write(self, entry: object) -> object | None:
        assert isinstance(entry, dict), "render has made it"
        fields: Fields = entry
        outcome = self._journal.send(fields)
        if outcome is Outcome.REFUSED:
            raise OSError
        return None if outcome is Outcome.SENT else entry

    def wait(self, timeout_s: float) -> None:
        fd = self._journal.fd
        if fd is None:
            time.sleep(min(timeout_s, CLOSE_S / 10))
            return
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        poller.poll(timeout_s * 1000)

    def close(self) -> None:
        self._journal.close()


_Sink = _StderrSink | _JournalSink
"""Renders entries and tells their sizes, and writes them without waiting: what cannot be written now is returned."""


# -- entries


def text_lines(record: logging.LogRecord) -> str:
    """Returns `2026-01-01T00:00:00.123Z info    text key=value …`, and the traceback indented below it."""
    line = f"{_at(record)} {_level_of(record):7} {_words(record, facts_of(record))}"
    traceback = traceback_of(record).replace("\n", "\n  ")
    return f"{line}\n  {traceback}" if traceback else line


def json_line(record: logging.LogRecord) -> str:
    """Formats an entry as one JSON object, in the shape of a log record of `corral logs --json`: `{"at", "level", "text", "fields", …}`."""
    entry: dict[str, object] = {
        "at": _at(record),
        "level": _level_of(record),
        "text": _text(record),
        "fields": {key: _limited(value) for key, value in facts_of(record).items()},
        "logger": record.name,
    }
    if traceback := traceback_of(record):
        entry["traceback"] = traceback
    line = json.dumps(entry, ensure_ascii=False, default=str)
    return line.encode("utf-8", "replace").decode()  # a lone surrogate is no JSON


def facts_of(record: logging.LogRecord) -> dict[str, object]:
    """Returns the facts of the caller, and the data of the errors that the entry is about."""
    facts: dict[str, object] = {}
    errors: list[object] = list(record.args) if isinstance(record.args, tuple) else []
    if record.exc_info:
        errors.append(record.exc_info[1])
    for error in errors:
        if isinstance(error, CorralError):
            # The data of errors that a worker or a server has answered may be anything.
            for key in islice(error.data, DATA_LIMIT):
                facts[_NO_NAME.sub("_", key[:NAME_LIMIT])] = error.data[key]
            facts |= {"error": error.name, "code": error.code}
    given: object = getattr(record, "fields", None)
    if isinstance(given, Mapping):
        facts |= {str(key): value for key, value in given.items()}
    return facts


def traceback_of(record: logging.LogRecord) -> str:
    """Returns the traceback, if there is one, without other control characters than its newlines."""
    if not record.exc_info:
        return ""
    text = logging.Formatter().formatException(record.exc_info)
    if len(text) > TRACEBACK_LIMIT:
        text = f"{text[: TRACEBACK_LIMIT // 2]}…\n…{text[-TRACEBACK_LIMIT // 2 :]}"
    return "\n".join(line.translate(_CONTROL) for line in text.split("\n"))


def _at(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.created % 1 * 1000):03d}Z"


def _level_of(record: logging.LogRecord) -> str:
    for number, name in ((50, "critical"), (40, "error"), (30, "warning"), (20, "info")):
        if record.levelno >= number:
            return name
    return "debug"


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"


def _words(record: logging.LogRecord, facts: Mapping[str, object]) -> str:
    """Formats an entry as one line: the text, then the facts as logfmt."""
    words = [_text(record).translate(_CONTROL)]
    words += (f"{key}={_quoted(_plain(value))}" for key, value in facts.items())
    line = " ".join(words)
    return line if len(line) <= 2 * TEXT_LIMIT else f"{line[: 2 * TEXT_LIMIT]}…"


def _plain(value: object) -> str:
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))
    return value if len(value) <= VALUE_LIMIT else f"{value[:VALUE_LIMIT]}…"


def _limited(value: object) -> object:
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = _plain(value)
    return text if isinstance(value, str) or text.endswith("…") else value


def _quoted(text: str) -> str:
    is_plain = text and not any(character in text for character in ' ="') and text.isprintable()
    return text if is_plain else json.dumps(text, ensure_ascii=False).translate(_CONTROL)
