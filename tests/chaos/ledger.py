"""What a reader has seen of one worker's numbered lines, against the account that the worker kept (see scribe.py).

Nothing here knows corral but for the format of its files, which is CRI's: what Fluent Bit reads is read here.
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from chaos.scribe import RECORD, WIDTH, line

PREFIX_BYTES = 40

OWN = b"2"
"""The last digit of the nanoseconds, in what corral itself wrote."""

STRUCK_LINES = 2 * 64 * 1024 // WIDTH + 2
"""What a daemon that is killed may take with it, of each stream: a read buffer and what the pipe holds."""


@dataclass(frozen=True)
class Life:
    """One record of an account; `struck`: a daemon was killed in its time."""

    first: int
    begun: int
    done: int
    struck: bool = False


def lives_of(account: Path) -> list[Life]:
    """All lives of a worker, the present one last."""
    data = account.read_bytes() if account.exists() else b""
    return [Life(*numbers) for numbers in RECORD.iter_unpack(data)]


@dataclass(frozen=True)
class Jump:
    """Between two neighbours: what is not there, what corral says of that, and a piece of a line."""

    after: int
    before: int
    notes: int = 0
    lines: int = 0
    size_bytes: int = 0
    pieces: tuple[bytes, ...] = ()


@dataclass
class Tally:
    """What became of the lines of one worker or of many; all that is wrong is not zero."""

    lost: int = 0
    cut: int = 0
    repeated: int = 0
    miscounted: int = 0
    """Lines by which a count of corral's was wrong, or whole counts where nothing was lost."""
    swallowed: int = 0
    """Lines that are missing and were counted as lost."""
    struck: int = 0
    """Lines that are missing since a daemon was killed, where the log says so."""
    halved: int = 0
    """Lines of which the worker itself had printed but a part when it was killed."""

    @property
    def wrong(self) -> int:
        """How much no excuse covers."""
        return self.lost + self.cut + self.repeated + self.miscounted

    def __add__(self, other: "Tally") -> "Tally":
        names = self.__dataclass_fields__
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass
class Seen:
    """The lines of one worker, as a reader gave them one after the other."""

    last: int = -1
    count: int = 0
    repeated: int = 0
    jumps: list[Jump] = field(default_factory=list[Jump])
    _notes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    _pieces: list[bytes] = field(default_factory=list[bytes])

    def line(self, text: bytes) -> None:
        """The next line, without its newline."""
        expected = self.last + 1
        if text + b"\n" == line(expected) and not self._notes and not self._pieces:
            self.last = expected
            self.count += 1
            return
        number = int(text[:12]) if text[:12].isdigit() else -1
        if number < 0 or text + b"\n" != line(number):
            self._pieces.append(text)
        elif number <= self.last:
            self.repeated += 1  # or it comes too late
        else:
            self._jump(number)
            self.last = number
            self.count += 1

    def note(self, lines: int, size_bytes: int) -> None:
        """A line of corral's own, that so much is missing here."""
        self._notes.append((lines, size_bytes))

    def tally(self, lives: Sequence[Life], count: int) -> Tally:
        """The verdict, when all that was to come has come."""
        self._jump(count)
        self.last = count
        tally = Tally(repeated=self.repeated)
        for jump in self.jumps:
            tally += _judged(jump, lives)
        return tally

    def _jump(self, number: int) -> None:
        if number > self.last + 1 or self._notes or self._pieces:
            lines = sum(lines for lines, _ in self._notes)
            size_bytes = sum(size_bytes for _, size_bytes in self._notes)
            counts = (len(self._notes), lines, size_bytes)
            self.jumps.append(Jump(self.last, number, *counts, tuple(self._pieces)))
            self._notes, self._pieces = [], []


def _judged(jump: Jump, lives: Sequence[Life]) -> Tally:
    tally = Tally()
    missing = jump.before - jump.after - 1
    open_lines = 0  # of the missing: whether they were printed is not known
    struck = 0  # of the missing: printed shortly before a daemon was killed
    for life in lives:
        open_lines += _common(jump, life.done, life.begun)
        if life.struck and jump.notes:
            struck += _common(jump, max(life.first, life.done - STRUCK_LINES), life.done)
    for piece in jump.pieces:
        is_open = any(life.done <= jump.after + 1 < life.begun for life in lives)
        if is_open and len(jump.pieces) == 1 and line(jump.after + 1).startswith(piece):
            tally.halved += 1
        else:
            tally.cut += 1
    if struck or (jump.notes and any(life.struck for life in lives)):
        tally.struck = min(struck, max(0, missing - open_lines))
        tally.lost = max(0, missing - open_lines - struck)
        return tally
    least, most = missing - open_lines, missing
    if jump.lines < least:
        tally.lost = least - jump.lines
    elif jump.lines > most:
        tally.miscounted = jump.lines - most
    elif not least * WIDTH <= jump.size_bytes <= most * WIDTH:
        tally.miscounted = 1
    tally.swallowed = min(jump.lines, missing)
    return tally


def _common(jump: Jump, first: int, end: int) -> int:
    """How many of the missing numbers are in [first, end)."""
    return max(0, min(end, jump.before) - max(first, jump.after + 1))


def files_of(folder: Path, worker: str) -> list[Path]:
    """The files of a worker, oldest first."""
    found = [
        (int(match[1] or 0), path)
        for path in folder.iterdir()
        if (match := re.fullmatch(rf"{re.escape(worker)}\.log(?:\.(\d+)(?:\.gz)?)?", path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def seen_in_files(folder: Path, worker: str) -> Seen:
    """What the files say, to one who knows nothing but CRI and gzip."""
    seen = Seen()
    for path in files_of(folder, worker):
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        if text and not text.endswith(b"\n"):
            seen.line(b"the file ends inside a line")
        for each in text.split(b"\n")[:-1]:
            if each[38:PREFIX_BYTES] != b"F " or each[29:31] != b"Z ":
                seen.line(each)  # which is no line of ours
            elif each[28:29] == OWN:
                note = msgspec.json.decode(each[PREFIX_BYTES:])
                seen.note(note["lost_lines"], note["lost_bytes"])
            else:
                seen.line(each[PREFIX_BYTES:])
    return seen


class Reader:
    """Takes the records of `corral --json logs`, of many workers."""

    def __init__(self, workers: Sequence[str]) -> None:
        self.seen = {worker: Seen() for worker in workers}
        self.skipped = 0
        """How often it was told that it was too slow."""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Bytes as they come, in any pieces."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for each in lines:
            record = msgspec.json.decode(each)
            seen = self.seen[record["worker"]]
            if "skipped_lines" in record:
                self.skipped += 1
            elif record["stream"] == "corral":
                seen.note(record["lost_lines"], record["lost_bytes"])
            else:
                seen.line(record["text"].encode())
