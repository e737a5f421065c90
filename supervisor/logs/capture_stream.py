"""One stream of one life of a worker: bytes in as they were printed, whole lines out to the worker's file.

Nothing is done per line. A line that is longer than a part is written in parts; one of which a part is lost is lost to
its end, and counted. Where lines go, and whether they get there, is the writer's to say.
"""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias

from .file_format import CAPTURED, NOTIFIED, messages_of

StreamName: TypeAlias = Literal["stdout", "stderr", "log"]


class Writer(Protocol):
    """What a stream needs of who writes the files of its worker."""

    incarnation: int

    @property
    def keeps(self) -> bool:
        """Whether what is printed goes into files."""
        ...

    @property
    def read_bytes(self) -> int:
        """How much to read from a pipe at a time."""
        ...

    @property
    def flood_bytes(self) -> int:
        """How much to read at a time from a pipe that is always full."""
        ...

    @property
    def part_bytes(self) -> int:
        """The longest part of a line that is kept or written at once."""
        ...

    def hold(self) -> None:
        """One more pipe of a living process leads here."""
        ...

    def let_go(self) -> None:
        """One pipe fewer."""
        ...

    def will_flush(self, stream: "LogStream") -> bool:
        """Whether the stream's lines will be asked for: not where no loop runs."""
        ...

    def remember(self, stream: StreamName, chunk: bytes) -> None:
        """Keep the end of what a stream printed."""
        ...

    def append(
        self,
        data: bytes | memoryview,
        stream: bytes,
        kind: bytes,
        *,
        part: bool = False,
        incarnation: int = 0,
    ) -> bool:
        """Write whole lines, or one part of a line; say whether all of it is in the file."""
        ...

    def append_json(self, shown: Mapping[str, object], kind: bytes) -> None:
        """Write one line of corral's own shape, behind those that came before it."""
        ...

    def lose(self, lines: int, size_bytes: int, reason: str | None = None) -> None:
        """Count what will not be in the file."""
        ...


class LogStream:
    """One stream of one incarnation: bytes in, whole lines out to the writer's file."""

    __slots__ = (
        "_closed",
        "_cut",
        "_gathered",
        "_gathered_bytes",
        "_incarnation",
        "_rest",
        "_tag",
        "_writer",
        "name",
        "tap",
    )

    def __init__(self, writer: Writer, name: StreamName) -> None:
        self._writer = writer
        self.name: StreamName = name
        self._tag = b"stdout" if name == "stdout" else b"stderr"  # CRI knows no third
        self._incarnation = writer.incarnation
        self.tap: Callable[[bytes], None] | None = None
        """Takes what is written, too, while somebody waits for a line of it."""
        self._gathered: list[bytes] | None = (
            None  # lines that came one by one, for one write of all
        )
        self._gathered_bytes = 0
        self._rest = b""  # the beginning of a line, at most as long as one part
        self._cut = False  # a part of the present line was lost: so is what follows of it
        self._closed = False

    @property
    def read_bytes(self) -> int:
        """How much to read from a pipe at a time."""
        return self._writer.read_bytes

    @property
    def flood_bytes(self) -> int:
        """How much to read at a time from a pipe that is always full."""
        return self._writer.flood_bytes

    def hold(self) -> None:
        """A pipe of a living process leads here."""
        self._writer.hold()

    def let_go(self) -> None:
        """Its process is dead, and the pipe was read to its end or given up."""
        self._writer.let_go()

    def write(self, chunk: bytes) -> None:
        """Take bytes as they were printed. Never raises for the disk; after `close` it does nothing."""
        if self._closed or not chunk:
            return
        if self.tap is not None:
            self.tap(chunk)
        self._writer.remember(self.name, chunk)
        if self._writer.keeps:
            self._rest = self._lines(self._rest + chunk if self._rest else chunk)

    def line(
        self,
        text: bytes,
        level: str | None = None,
        fields: Mapping[str, object] | None = None,
        *,
        ended: bool = True,
        cut_bytes: int = 0,
    ) -> None:
        """Take one line: without `level` as if it had been printed, with it as a `log` notification.

        The former are written together, at the end of this turn of the loop. One may come in pieces, `ended` with the
        last one; so many bytes of it as are `cut_bytes` come never.
        """
        if level is None:
            if self._gathered is None:
                self._gathered = []
            self._gathered.append(text + b"\n" if ended else text)
            self._gathered_bytes += len(text) + 1
            is_full = self._gathered_bytes > self.read_bytes
            if is_full or cut_bytes or not self._writer.will_flush(self):
                self.flush()
            if cut_bytes and self._writer.keeps and not self._closed:
                self._writer.lose(1, cut_bytes, "a line that began like a message was too long")
        elif not self._closed:
            self._writer.remember(self.name, text + b"\n")
            if self._writer.keeps:
                for shown in messages_of(text, level, fields):
                    self._writer.append_json(shown, NOTIFIED)

    def flush(self) -> None:
        """Write the lines that came one by one."""
        if self._gathered:
            lines, self._gathered, self._gathered_bytes = self._gathered, None, 0
            self.write(b"".join(lines))

    def close(self) -> None:
        """Keep a last line that has no newline, then take no more."""
        if self._closed:
            return
        self.flush()
        if self._cut:
            self._writer.lose(1, 0)
        elif self._rest:
            self._append(self._rest + b"\n")
        self._rest = b""
        self._closed = True

    def _lines(self, data: bytes) -> bytes:
        """Write all that can be written; return the beginning of a line that is left."""
        limit = self._writer.part_bytes
        view = memoryview(data)
        start = position = 0
        while True:
            if self._cut:
                end = data.find(b"\n", position) + 1
                self._writer.lose(1 if end else 0, (end or len(data)) - position)
                if not end:
                    return b""
                self._cut = False
                start = position = end
            # The last newline that a line of legal length can reach: no work per line.
            newline = data.rfind(b"\n", position, position + limit + 1)
            if newline >= 0:
                position = newline + 1
                continue
            if len(data) - position <= limit:
                break
            if position > start:
                self._append(view[start:position])
            start = position + limit
            self._cut = not self._append(view[position:start], part=True)
            position = start
        if position > start:
            self._append(view[start:position])
        return data[position:]

    def _append(self, data: bytes | memoryview, *, part: bool = False) -> bool:
        tag, number = self._tag, self._incarnation
        return self._writer.append(data, tag, CAPTURED, part=part, incarnation=number)
