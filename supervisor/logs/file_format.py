"""The files of one worker's log: their format, their names and order, and places in them.

A line has the format that Kubernetes' container runtimes write (CRI, `logs.go` of the kubelet):

    2026-01-01T00:00:00.123456780Z stderr F text

`F` ends a line, `P` is a part of one that is longer than 16 KiB. The prefix has 40 bytes on every line, so that
reading is one slice per field. The last digit of the nanoseconds says who wrote the line: 0 the worker; 1 a `log`
notification, whose text is `{"level":…,"text":…,"fields":…}`; 2 corral itself (lines were lost), in the same shape;
3 and 4 are 0 and 1 in what an incarnation printed first. Shippers take 1, 2 and 4 for JSON on stderr, which they can
parse (on stdout while a line of stderr is in parts: they join those of one stream); nothing that a worker prints is
mistaken for it.

A file is known by the time of its first line, which no other file of its folder has (`LogFolder.stamp`), and found by
its inode, whatever others rename it to: an inode alone is no identity, since its number is used again at once. A file
without a line has no identity, and is no place to be. Nothing here writes.
"""

import asyncio
import base64
import json
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, cast

import msgspec

from . import bgzf
from .bgzf import Archive
from .regex import Pattern

Record: TypeAlias = dict[str, object]

T = TypeVar("T")

Search: TypeAlias = Generator[None, None, T]
"""A search that may take long: it stops after each block, so that whoever goes on with it can let others go first."""

PREFIX_BYTES = 40
HEAD_BYTES = 30  # the time
CAPTURED, NOTIFIED, OWN = b"0", b"1", b"2"
FIRST = {CAPTURED: b"3", NOTIFIED: b"4", OWN: OWN}
"""What stands for a kind in what an incarnation printed first."""

LINE_LIMIT_BYTES = 16 * 1024  # longer lines are stored in parts
PIECE_BYTES = 512 * 1024  # of a message: as JSON one byte may take six
BLOCK_BYTES = 64 * 1024
LOOKBACK_LINES = 1_000

LEVELS = ("debug", "info", "warning", "error", "critical")
_RANKS = {
    **{level: rank for rank, level in enumerate(LEVELS)},
    **{"trace": 0, "notice": 1, "warn": 2, "fatal": 4, "alert": 4, "emergency": 4},
}


@dataclass(frozen=True, slots=True)
class File:
    """A file that this process wrote to, and how many lines it had written before."""

    inode: int
    first_line: int


class Written(Protocol):
    """What a writer knows of its own files."""

    lines: int

    @property
    def files(self) -> Sequence[File]:
        """The files that it wrote to and that should exist, oldest first."""
        ...

    @property
    def is_fresh(self) -> bool:
        """Whether the present incarnation has printed nothing yet."""
        ...


class Library(Protocol):
    """What readers need of whoever keeps the files."""

    directory: Path
    turn: asyncio.Lock

    @property
    def packed(self) -> Mapping[int, int]:
        """Inodes of files that were compressed and are gone -> those of the compressed ones."""
        ...

    def find_writer(self, agent: str, worker: str) -> Written | None:
        """The writer of a worker, if it has one at present."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records somebody asked for; `since` and `until` are unix seconds."""

    names: frozenset[str] = frozenset()
    since: float | None = None
    until: float | None = None
    stream: str | None = None
    level: str | None = None
    pattern: Pattern | None = None
    previous: bool = False
    running: frozenset[str] = frozenset()
    """Workers that have an incarnation now: what counts as their previous one is the one before."""

    @property
    def is_rare(self) -> bool:
        """Whether records have to be read to know if they are wanted."""
        return any(
            each is not None
            for each in (self.level, self.pattern, self.stream, self.since, self.until)
        )

    def select(self, records: Iterable[Record]) -> list[Record]:
        """Those of them that are wanted; those of the stream `corral`, which tell of lost lines, always are.

        Raises:
            ResourceLimitExceeded: the pattern takes too long.
        """
        since = None if self.since is None else instant(self.since)
        until = None if self.until is None else instant(self.until)
        rank = None if self.level is None else _RANKS[self.level]
        chosen = [
            record
            for record in records
            if (since is None or at_of(record) >= since)
            and (until is None or at_of(record) <= until)
            and (
                record["stream"] == "corral"
                or (
                    (self.stream is None or record["stream"] == self.stream)
                    and (rank is None or severity(record["level"]) >= rank)
                )
            )
        ]
        if self.pattern is not None:
            chosen = self.pattern.matching(chosen, _searched)
        return chosen


def _searched(record: Record) -> str | None:
    return None if record["stream"] == "corral" else str(record["text"])


def severity(level: object) -> int:
    """How severe, for comparing; what a worker printed itself has no level, and is less than the least."""
    return -1 if level is None else _RANKS.get(str(level).lower(), _RANKS["info"])


class Place:
    """A file of a worker as it was found in the folder."""

    def __init__(self, path: Path, inode: int, size: int | None, modified_ns: int) -> None:
        """`size` None means that it is compressed."""
        self.path = path
        self.inode = inode
        self.head = b""
        """The time of its first line, once it was opened."""
        self.first_line: int | None = None
        """What its writer said of it when it was found."""
        self._size = size
        self._modified_ns = modified_ns

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing, as far as its own size tells."""
        return self._size == 0

    @property
    def is_ours(self) -> bool:
        """False for a compressed file that somebody else has made, or that is broken: it cannot be read."""
        return not self.path.name.endswith(bgzf.SUFFIX) or self.size > 0

    def refresh(self) -> bool:
        """Look at a plain file's size again; say whether it is still where it was found."""
        with suppress(OSError):
            status = self.path.lstat()
            if status.st_ino == self.inode:
                if self._size is not None:
                    self._size = status.st_size
                return True
        return False

    @contextmanager
    def opened(self, library: Library) -> Generator["OpenFile | None", None, None]:
        """The file, wherever it is now, whole as it was found; None if it is gone."""
        directory, path = self.path.parent, self.path
        with opened(directory, self.inode, library, path, self.head or self._is_same) as file:
            if file is not None and not self.head:
                self.head = file.head
            yield file

    def _is_same(self, file: "OpenFile", library: Library) -> bool:
        # Between two turns of a reader it may have been rotated away, and its number given to a new file.
        match = _NAME.fullmatch(self.path.name)
        writer = library.find_writer(self.path.parent.name, match[1] if match else "")
        first_line = first_line_of(writer, file.inode)
        return first_line == self.first_line and (
            first_line is not None or file.modified_ns == self._modified_ns
        )

    @property
    def size(self) -> int:
        """The bytes of it, or of what was compressed: looked up when somebody asks, since there may be many files."""
        if self._size is None:
            file = _open_inode(self.path, self.inode)
            self._size = 0 if file is None else file.size
            if file is not None:
                file.close()
        return self._size


# -- names


_NAME = re.compile(r"(.+)\.log(?:\.([1-9][0-9]*)(\.gz)?)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Name:
    """What the name of a file says: whose it is, how old (0 is the present one), and whether it is compressed."""

    path: Path
    worker: str
    number: int
    is_packed: bool


def names(directory: Path, worker: str | None = None) -> list[Name]:
    """The names of log files in an agent's folder, of one worker or of all, oldest first."""
    beginning = "" if worker is None else f"{worker}.log"
    found: list[Name] = []
    for name in _listed(directory, files=True):
        match = _NAME.fullmatch(name) if name.startswith(beginning) and name[0] != "." else None
        if match and worker in (None, match[1]):
            found.append(Name(directory / name, match[1], int(match[2] or 0), match[3] is not None))
    found.sort(key=lambda name: name.number, reverse=True)
    return found


def chain(directory: Path, worker: str) -> list[Path]:
    """The paths of a worker's log, oldest first."""
    return _distinct(names(directory, worker))


def _distinct(found: Iterable[Name]) -> list[Path]:
    # A daemon that was killed while it compressed a file may have left both: the plain one is complete.
    by_number: dict[int, Path] = {}
    for name in found:
        if not name.is_packed or name.number not in by_number:
            by_number[name.number] = name.path
    return list(by_number.values())


def known(directory: Path) -> set[str]:
    """The agents and workers that have files."""
    found: set[str] = set()
    for agent in _listed(directory):
        own = {name.worker for name in names(directory / agent)}
        found |= own | {agent} if own else own
    return found


def superfluous(directory: Path, worker: str) -> list[Path]:
    """Copies of files that are still there: of what a killed daemon compressed."""
    found = names(directory, worker)
    plain = {name.number for name in found if not name.is_packed}
    copies = [name.path for name in found if name.is_packed and name.number in plain]
    return [place.path for place in places_of(copies) if place.size]


def workers(directory: Path, wanted: frozenset[str]) -> Iterator[tuple[str, str, list[Place]]]:
    """The wanted agents and workers that have files, and those, oldest first.

    A caller's name is only compared, it never becomes a path.
    """
    for agent in sorted(_listed(directory)):
        found: dict[str, list[Name]] = {}
        for name in names(directory / agent):
            if not wanted or agent in wanted or name.worker in wanted:
                found.setdefault(name.worker, []).append(name)
        # Of all at once: between two turns of a reader names may come to mean other files.
        places = [(worker, places_of(_distinct(own))) for worker, own in sorted(found.items())]
        yield from ((agent, worker, each) for worker, each in places if each)


def _listed(directory: Path, *, files: bool = False) -> list[str]:
    """The names of the folders in a folder, or of its files: whoever may write there can put anything beside them."""
    try:
        with os.scandir(directory) as entries:
            # A name that is no text could not be told to anybody.
            return [
                entry.name
                for entry in entries
                if entry.name.isprintable()
                and (entry.is_file(follow_symlinks=False) if files else entry.is_dir())
            ]
    except OSError:
        return []


# -- files


def places_of(paths: Iterable[Path]) -> list[Place]:
    """The files of these paths that exist."""
    places: list[Place] = []
    for path in paths:
        with suppress(OSError):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                continue
            is_packed = path.name.endswith(bgzf.SUFFIX)
            size = None if is_packed else status.st_size
            places.append(Place(path, status.st_ino, size, status.st_mtime_ns))
    return places


class OpenFile:
    """A file of a log, open for reading; a compressed one looks like the original."""

    def __init__(self, path: Path, fd: int, packed: Archive | None) -> None:
        self.path = path
        self._fd = fd
        self._packed = packed
        status = os.fstat(fd)
        self.inode = status.st_ino
        self.modified_ns = status.st_mtime_ns

    @property
    def size(self) -> int:
        """The bytes of the original."""
        return os.fstat(self._fd).st_size if self._packed is None else self._packed.size

    @property
    def head(self) -> bytes:
        """The time of the first line; b"" if there is none."""
        return self.pread(HEAD_BYTES, 0)

    def pread(self, size: int, offset: int) -> bytes:
        """Bytes of the original; fewer at its end, and where it cannot be read."""
        try:
            if self._packed is None:
                return os.pread(self._fd, size, offset)
            return self._packed.pread(size, offset)
        except OSError:  # a disk that is going, or something that has taken the file's name
            return b""

    def close(self) -> None:
        """Closes it."""
        os.close(self._fd)


def _open(path: Path) -> OpenFile | None:
    """None if it is not a file of ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return OpenFile(path, fd, Archive(fd) if path.name.endswith(bgzf.SUFFIX) else None)
    except (ValueError, OSError):
        os.close(fd)
        return None


Identity: TypeAlias = "bytes | Callable[[OpenFile, Library], bool]"
"""How to know a file: by the time of its first line, or by a question."""


@contextmanager
def opened(
    directory: Path, inode: int, library: Library, hint: Path | None, identity: Identity
) -> Generator[OpenFile | None, None, None]:
    """The file that had that inode, wherever it was renamed to, or what it was compressed to; None if it is gone."""
    file = _found(directory, inode, library, hint, identity)
    try:
        yield file
    finally:
        if file is not None:
            file.close()


def _found(
    directory: Path, inode: int, library: Library, hint: Path | None, identity: Identity
) -> OpenFile | None:
    packed = library.packed.get(inode)
    for number, paths in ((inode, (hint, None)), (packed, (None,))):
        for path in paths if number is not None else ():
            path = path or _find(directory, cast("int", number))  # None was left out above
            file = None if path is None else _open_inode(path, cast("int", number))
            if file is None:
                continue
            is_it = (
                file.head == identity if isinstance(identity, bytes) else identity(file, library)
            )
            if is_it:
                return file
            file.close()
            break  # a new file has its number
    return None


@contextmanager
def entered(directory: Path, worker: str, inode: int) -> Generator[OpenFile | None, None, None]:
    """The file of a worker with that inode, of which no more is known yet; None if there is none."""
    path = _find(directory, inode)
    match = None if path is None else _NAME.fullmatch(path.name)
    # Where ours was deleted, its number may have gone to a file of another worker.
    file = None if path is None or (match and match[1] != worker) else _open_inode(path, inode)
    try:
        yield file
    finally:
        if file is not None:
            file.close()


def first_line_of(writer: Written | None, inode: int) -> int | None:
    """How many lines the writer had written before it began the file that has that inode now, if it knows it."""
    if writer is None:
        return None
    return next((file.first_line for file in writer.files if file.inode == inode), None)


def _open_inode(path: Path, inode: int) -> OpenFile | None:
    file = _open(path)
    if file is not None and file.inode != inode:
        file.close()
        return None
    return file


def _find(directory: Path, inode: int) -> Path | None:
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.inode() == inode and not entry.name.startswith("."):
                return Path(entry.path)
    return None


def last_line(fd: int, size: int) -> tuple[int, bytes]:
    """How many bytes of a cut line end the file (a killed daemon), and the prefix of the last whole line."""
    start = max(0, size - 2 * LINE_LIMIT_BYTES)
    data = os.pread(fd, size - start, start)
    end = data.rfind(b"\n") + 1
    if not end and start:
        return 0, b""  # not our file
    last = data[data.rfind(b"\n", 0, max(end - 1, 0)) + 1 : end]
    return len(data) - end, last[:PREFIX_BYTES]


# -- text


def text_fields(text: bytes) -> Record:
    """`text`, and `bytes` (base64) where it is not UTF-8."""
    try:
        return {"text": text.decode()}
    except UnicodeDecodeError:
        return {"text": text.decode("utf-8", "replace"), "bytes": base64.b64encode(text).decode()}


def messages_of(
    text: bytes, level: str, fields: Mapping[str, object] | None
) -> Iterator[Mapping[str, object]]:
    """A `log` notification as it is stored: in pieces where no reader could be sent the whole.

    Fields that are too long for that become text.
    """
    more: Record = {"fields": fields} if fields else {}
    if fields and len(shown := json_line(fields)) > PIECE_BYTES:
        text, more = text + b" " + shown, {}
    while len(text) > PIECE_BYTES:
        yield {"level": level, **text_fields(text[:PIECE_BYTES]), "partial": True}
        text = text[PIECE_BYTES:]
    yield {"level": level, **text_fields(text), **more}


def shown_of(text: bytes) -> Record:
    """What a line of corral's own shape says."""
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text_fields(text)


def json_line(shown: Mapping[str, object]) -> bytes:
    """The text of a line of corral's own shape."""
    # Readers of JSON refuse a lone surrogate, however it is written.
    return json.dumps(shown, ensure_ascii=False, default=str).encode("utf-8", "replace")


def at_of(record: Record) -> str:
    """What records are merged by."""
    return str(record["at"])


def rfc3339_seconds(seconds: int) -> str:
    """Unix seconds as `2026-01-01T00:00:00`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def instant(at_s: float) -> str:
    """The time as it is written in the files: strings of equal length, ordered like the times."""
    seconds = int(at_s // 1)
    return f"{rfc3339_seconds(seconds)}.{int((at_s - seconds) * 1e9):09d}Z"
