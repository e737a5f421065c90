"""Defines the files of one worker's log: their format, their names and order, and how a file is found again.

A line has the format that Kubernetes' container runtimes write (CRI, `logs.go` of the kubelet):

    2026-01-01T00:00:00.123456780Z stderr F text

`F` ends a line, `P` is a part of one that is longer than 16 KiB. The prefix has 40 bytes on every line, so that
reading is one slice per field. The last digit of the nanoseconds is the origin of the line: 0 the worker; 1 a `log`
notification, whose text is `{"level":…,"text":…,"fields":…}`; 2 corral itself (lines were lost), in the same shape;
3 and 4 are 0 and 1 in the first output of an incarnation. Shippers take 1, 2 and 4 for JSON on stderr, which they can
parse (on stdout while a line of stderr is in parts: they join those of one stream); nothing that a worker prints is
mistaken for it.

Files have an order and an identity by the number that their writer gives them (`File.number`), from a counter that never goes back, so that a
reader moves only forward. Files of an earlier daemon have the order of their names. On the disk a file is found by its inode, also after a
rename by another program, and told from another with the same inode, whose number is used again at once, by the time of its first
line, which stays when it is compressed. A file without a line has no identity, and is no place to be. Nothing here writes.
"""

import asyncio
import base64
import json
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Protocol, TypeAlias, TypeVar, cast

import msgspec

from corral.worker.contract.names import is_tenant_name, local_name, qualified, tenant_of

from . import bgzf
from .bgzf import Archive
from .regex import SLICE_S, Pattern

Record: TypeAlias = dict[str, object]

T = TypeVar("T")

Search: TypeAlias = Generator[None, None, T]
"""A search that may take long: it yields after each block, so that its caller can let other tasks run."""

PREFIX_BYTES = 40
"""Bytes of a line before its text."""

HEAD_BYTES = 30
"""Bytes of the time, with which a line begins."""

CAPTURED, NOTIFIED, OWN = b"0", b"1", b"2"
FIRST = {CAPTURED: b"3", NOTIFIED: b"4", OWN: OWN}
"""Kinds -> the digits that stand for them in the first output of an incarnation."""

LINE_LIMIT_BYTES = 16 * 1024
"""Bytes of the text of a line; longer lines are stored in parts."""

PIECE_BYTES = 512 * 1024
"""Bytes of a message in one line: as JSON one byte may take six."""

BLOCK_BYTES = 64 * 1024
"""Bytes that are read at a time."""

LOOKBACK_LINES = 1_000
"""Number of lines within which the parts of a line are looked for."""

LEVELS = ("debug", "info", "warning", "error", "critical")
_RANKS = {
    **{level: rank for rank, level in enumerate(LEVELS)},
    **{"trace": 0, "notice": 1, "warn": 2, "fatal": 4, "alert": 4, "emergency": 4},
}


@dataclass(frozen=True, slots=True)
class File:
    """Represents a file that this process wrote to."""

    number: int
    """Counts the files of the folder: no other file that this process has written ever had it."""
    inode: int
    first_line: int
    """Number of lines that were written before it."""
    previous: int = 0
    """The number of the file before it; 0 if this process has written none."""


class WriterState(Protocol):
    """Defines what readers need of the writer of a worker."""

    lines: int

    @property
    def files(self) -> Sequence[File]:
        """Returns the files that it wrote to and that should exist, oldest first."""
        ...

    @property
    def is_fresh(self) -> bool:
        """Returns whether the present incarnation has printed nothing yet."""
        ...


class LogSource(Protocol):
    """Defines what readers need of the folder of all logs."""

    directory: Path
    turn: asyncio.Lock

    @property
    def compressed(self) -> Mapping[int, int]:
        """Returns inodes of files that were compressed and are gone -> those of the compressed ones."""
        ...

    def newest(self) -> str:
        """Returns the present time as records have it: not before that of any line that is written."""
        ...

    def find_writer(self, agent: str, worker: str) -> WriterState | None:
        """Returns the writer of a worker, if it has one at present."""
        ...


class Selection(Protocol):
    """Defines a choice of records that may change while they are followed."""

    def takes(self, record: Record) -> bool:
        """Returns whether a record is selected."""
        ...


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Selects records by worker, time, stream, level and pattern; `since` and `until` are unix seconds."""

    names: frozenset[str] = frozenset()
    since: float | None = None
    until: float | None = None
    stream: str | None = None
    level: str | None = None
    pattern: Pattern | None = None
    previous: bool = False
    task: Selection | None = None
    """Selects the lines of one task."""
    running: frozenset[str] = frozenset()
    """Workers that have an incarnation now: their previous one is the one before it."""

    @property
    def is_rare(self) -> bool:
        """Returns whether a record has to be read to know if it is selected."""
        return any(
            each is not None for each in (self.level, self.pattern, self.stream, self.since, self.until, self.task)
        )

    def is_of(self, agent: str, worker: str) -> bool:
        """Returns whether the log of a worker is selected."""
        return not self.names or not self.names.isdisjoint((agent, worker))

    def select(self, records: Iterable[Record]) -> list[Record]:
        """Returns the records that are selected but for the pattern; those of the stream `corral`, which report lost lines, always are."""
        since = None if self.since is None else timestamp(self.since)
        until = None if self.until is None else timestamp(self.until)
        rank = None if self.level is None else _RANKS[self.level]
        return [
            record
            for record in records
            if (since is None or time_of(record) >= since)
            and (until is None or time_of(record) <= until)
            and (self.task is None or self.task.takes(record))
            and (
                record["stream"] == "corral"
                or (
                    (self.stream is None or record["stream"] == self.stream)
                    and (rank is None or severity(record["level"]) >= rank)
                )
            )
        ]

    async def selected(self, records: Iterable[Record]) -> list[Record]:
        """Returns the records that are selected, after a turn of the loop.

        Where a search takes long, others have the loop for as long as it took.
        """
        chosen = self.select(records)
        if self.pattern is None:
            await asyncio.sleep(0)
            return chosen
        found: list[Record] = []
        begun = perf_counter()
        for some in self.pattern.matching(chosen, _searched):
            found += some
            took_s = perf_counter() - begun
            await asyncio.sleep(took_s if took_s >= SLICE_S else 0)
            begun = perf_counter()
        return found


def _searched(record: Record) -> str | None:
    return None if record["stream"] == "corral" else str(record["text"])


def severity(level: object) -> int:
    """Returns a rank of the level, for comparing; printed lines have no level, and rank below all."""
    return -1 if level is None else _RANKS.get(str(level).lower(), _RANKS["info"])


class FoundFile:
    """Represents a file of a worker as it was found in the folder."""

    def __init__(self, path: Path, inode: int, size: int | None, modified_ns: int) -> None:
        """Notes the file; `size` None means that it is compressed."""
        self.path = path
        self.inode = inode
        self.head = b""
        """The time of its first line, once it was opened."""
        self.number: int | None = None
        """The number that its writer has given it, as far as it knew it when the file was found."""
        self._size = size
        self._modified_ns = modified_ns

    @property
    def is_empty(self) -> bool:
        """Returns whether the file itself is empty; of a compressed one False."""
        return self._size == 0

    @property
    def is_ours(self) -> bool:
        """Returns False for a compressed file that another program has made, or that is broken: it cannot be read."""
        return not self.path.name.endswith(bgzf.SUFFIX) or self.size > 0

    def refresh(self) -> bool:
        """Reads a plain file's size again; returns whether it is still where it was found."""
        with suppress(OSError):
            status = self.path.lstat()
            if status.st_ino == self.inode:
                if self._size is not None:
                    self._size = status.st_size
                return True
        return False

    @contextmanager
    def opened(self, source: LogSource) -> Generator["OpenFile | None", None, None]:
        """Yields the open file, also after a rename, whole as it was found; None if it is gone."""
        directory, path = self.path.parent, self.path
        with opened(directory, self.inode, source, path, self.head or self._is_same) as file:
            if file is not None and not self.head:
                self.head = file.head
            yield file

    def _is_same(self, file: "OpenFile", source: LogSource) -> bool:
        # Between two turns of a reader it may have been rotated away, and its number given to a new file.
        directory, match = self.path.parent, _NAME.fullmatch(self.path.name)
        agent = str(directory.relative_to(source.directory))
        writer = source.find_writer(agent, qualified(match[1], tenant_of(agent)) if match else "")
        number = number_of(writer, file.inode)
        return number == self.number and (number is not None or file.modified_ns == self._modified_ns)

    @property
    def size(self) -> int:
        """Returns the bytes of the file, of a compressed one those of the original: looked up late, since files may be many."""
        if self._size is None:
            file = _open_inode(self.path, self.inode)
            self._size = 0 if file is None else file.size
            if file is not None:
                file.close()
        return self._size


# -- names


_NAME = re.compile(r"(.+)\.log(?:\.([1-9][0-9]*)(\.gz)?)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FileName:
    """Represents the name of a file: the worker, the age (0 is the present file), and whether it is compressed."""

    path: Path
    worker: str
    number: int
    is_compressed: bool


def names(directory: Path, worker: str | None = None) -> list[FileName]:
    """Returns the names of log files in an agent's folder, of one worker or of all, oldest first.

    Of all workers they have the ids without the tenant, which stands in the folder's path.
    """
    local = None if worker is None else local_name(worker)
    beginning = "" if local is None else f"{local}.log"
    found: list[FileName] = []
    for name in _listed(directory, files=True):
        match = _NAME.fullmatch(name) if name.startswith(beginning) and name[0] != "." else None
        if match and local in (None, match[1]):
            found.append(FileName(directory / name, worker or match[1], int(match[2] or 0), match[3] is not None))
    found.sort(key=lambda name: name.number, reverse=True)
    return found


def log_paths(directory: Path, worker: str) -> list[Path]:
    """Returns the paths of a worker's log, oldest first."""
    return _distinct(names(directory, worker))


def _distinct(found: Iterable[FileName]) -> list[Path]:
    # A daemon that was killed while it compressed a file may have left both: the plain one is complete.
    by_number: dict[int, Path] = {}
    for name in found:
        if not name.is_compressed or name.number not in by_number:
            by_number[name.number] = name.path
    return list(by_number.values())


def agents(directory: Path) -> list[str]:
    """Returns the names of all folders of agents: those of a tenant's agents are in a folder of the tenant."""
    found = _listed(directory)
    tenants = [name for name in found if is_tenant_name(name)]
    return found + [qualified(name, each) for each in tenants for name in _listed(directory / each)]


def known_names(directory: Path) -> set[str]:
    """Returns the agents and workers that have files."""
    found: set[str] = set()
    for agent in agents(directory):
        own = {qualified(name.worker, tenant_of(agent)) for name in names(directory / agent)}
        found |= own | {agent} if own else own
    return found


def duplicates(directory: Path, worker: str) -> list[Path]:
    """Returns compressed copies whose originals are still there: a daemon was killed while it compressed them."""
    found = names(directory, worker)
    plain = {name.number for name in found if not name.is_compressed}
    copies = [name.path for name in found if name.is_compressed and name.number in plain]
    return [entry.path for entry in files_at(copies) if entry.size]


def workers(directory: Path, wanted: frozenset[str]) -> Iterator[tuple[str, str, list[FoundFile]]]:
    """Yields agent, worker and files, oldest first, of those named in `wanted`; of all where it is empty.

    A caller's name is only compared, it never becomes a path.
    """
    for agent in sorted(agents(directory)):
        found: dict[str, list[FileName]] = {}
        for name in names(directory / agent):
            worker = qualified(name.worker, tenant_of(agent))
            if not wanted or agent in wanted or worker in wanted:
                found.setdefault(worker, []).append(name)
        # Of all at once: between two turns of a reader names may come to mean other files.
        entries = [(worker, files_at(_distinct(own))) for worker, own in sorted(found.items())]
        yield from ((agent, worker, each) for worker, each in entries if each)


def _listed(directory: Path, *, files: bool = False) -> list[str]:
    """Returns the names of the folders in a folder, or of its files; other programs may have put anything beside them."""
    try:
        with os.scandir(directory) as entries:
            # A name that is no text could not be sent to a client.
            return [
                entry.name
                for entry in entries
                if entry.name.isprintable() and (entry.is_file(follow_symlinks=False) if files else entry.is_dir())
            ]
    except OSError:
        return []


# -- files


def files_at(paths: Iterable[Path]) -> list[FoundFile]:
    """Returns the files of these paths that exist."""
    entries: list[FoundFile] = []
    for path in paths:
        with suppress(OSError):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                continue
            is_compressed = path.name.endswith(bgzf.SUFFIX)
            size = None if is_compressed else status.st_size
            entries.append(FoundFile(path, status.st_ino, size, status.st_mtime_ns))
    return entries


class OpenFile:
    """Represents a file of a log, open for reading; a compressed one reads like the original."""

    def __init__(self, path: Path, fd: int, compressed: Archive | None) -> None:
        self.path = path
        self._fd = fd
        self._compressed = compressed
        status = os.fstat(fd)
        self.inode = status.st_ino
        self.modified_ns = status.st_mtime_ns

    @property
    def size(self) -> int:
        """Returns the bytes of the original."""
        return os.fstat(self._fd).st_size if self._compressed is None else self._compressed.size

    @property
    def head(self) -> bytes:
        """Returns the time of the first line; b"" if there is none."""
        return self.pread(HEAD_BYTES, 0)

    def pread(self, size: int, offset: int) -> bytes:
        """Returns `size` bytes of the original from `offset` on; fewer at its end, and where it cannot be read."""
        try:
            if self._compressed is None:
                return os.pread(self._fd, size, offset)
            return self._compressed.pread(size, offset)
        except OSError:  # a failing disk, or a foreign file of this name
            return b""

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def _open(path: Path) -> OpenFile | None:
    """Opens a file; returns None if it is not a file of this format."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return OpenFile(path, fd, Archive(fd) if path.name.endswith(bgzf.SUFFIX) else None)
    except (ValueError, OSError):
        os.close(fd)
        return None


Identity: TypeAlias = "bytes | Callable[[OpenFile, LogSource], bool]"
"""Identifies one file of a log: `OpenFile.head` (the time of its first line), or a predicate of the file."""


def opened(
    directory: Path, inode: int, source: LogSource, hint: Path | None, identity: Identity
) -> AbstractContextManager[OpenFile | None]:
    """Yields the file that had that inode, also after a rename or compression; None if it is gone."""
    return _held(_found(directory, inode, source, hint, identity))


@contextmanager
def _held(file: OpenFile | None) -> Generator[OpenFile | None, None, None]:
    try:
        yield file
    finally:
        if file is not None:
            file.close()


def _found(directory: Path, inode: int, source: LogSource, hint: Path | None, identity: Identity) -> OpenFile | None:
    for number, paths in ((inode, (hint, None)), (source.compressed.get(inode), (None,))):
        for path in paths if number is not None else ():
            path = path or _find(directory, cast("int", number))  # None was left out above
            file = None if path is None else _open_inode(path, cast("int", number))
            if file is None:
                continue
            is_it = file.head == identity if isinstance(identity, bytes) else identity(file, source)
            if is_it:
                return file
            file.close()
            break  # a new file has its number
    return None


def opened_by_inode(directory: Path, worker: str, inode: int) -> AbstractContextManager[OpenFile | None]:
    """Yields the file of a worker with that inode, with no more known yet; None if there is none."""
    path = _find(directory, inode)
    match = None if path is None else _NAME.fullmatch(path.name)
    # Where ours was deleted, its number may have gone to a file of another worker.
    is_another = match is not None and match[1] != local_name(worker)
    return _held(None if path is None or is_another else _open_inode(path, inode))


def opened_by_head(directory: Path, worker: str, head: bytes) -> AbstractContextManager[OpenFile | None]:
    """Yields the file of a worker that begins at that time; None if there is none."""
    for path in log_paths(directory, worker):
        file = _open(path)
        if file is not None and file.head == head:
            return _held(file)
        if file is not None:
            file.close()
    return _held(None)


def number_of(writer: WriterState | None, inode: int) -> int | None:
    """Returns the number that the writer has given the file with that inode, if it knows it."""
    if writer is None:
        return None
    return next((file.number for file in writer.files if file.inode == inode), None)


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


def inodes(directory: Path, worker: str) -> set[int]:
    """Returns the inodes of a worker's files."""
    return {entry.inode for entry in files_at(name.path for name in names(directory, worker))}


def last_line(fd: int, size: int) -> tuple[int, bytes]:
    """Returns the number of bytes of a torn line at the end (a killed daemon), and the prefix of the last whole line."""
    start = max(0, size - 2 * LINE_LIMIT_BYTES)
    data = os.pread(fd, size - start, start)
    end = data.rfind(b"\n") + 1
    if not end and start:
        return 0, b""  # not our file
    last = data[data.rfind(b"\n", 0, max(end - 1, 0)) + 1 : end]
    return len(data) - end, last[:PREFIX_BYTES]


# -- text


def text_fields(text: bytes) -> Record:
    """Returns `text`, and `bytes` (base64) where it is not UTF-8."""
    try:
        return {"text": text.decode()}
    except UnicodeDecodeError:
        return {"text": text.decode("utf-8", "replace"), "bytes": base64.b64encode(text).decode()}


def messages_of(
    text: bytes, level: str, fields: Mapping[str, object] | None, task: str | None = None
) -> Iterator[Mapping[str, object]]:
    """Yields a `log` notification as it is stored: in pieces where the whole would exceed a message to a reader.

    Fields that are too long for that become text.
    """
    whose: Record = {} if task is None else {"task": task}
    more: Record = {"fields": fields} if fields else {}
    if fields and len(shown := json_line(fields)) > PIECE_BYTES:
        text, more = text + b" " + shown, {}
    while len(text) > PIECE_BYTES:
        yield {"level": level, **text_fields(text[:PIECE_BYTES]), **whose, "partial": True}
        text = text[PIECE_BYTES:]
    yield {"level": level, **text_fields(text), **whose, **more}


def decode_message(text: bytes) -> Record:
    """Decodes a line of corral's own shape."""
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text_fields(text)


def json_line(shown: Mapping[str, object]) -> bytes:
    """Returns the text of a line of corral's own shape."""
    # Readers of JSON refuse a lone surrogate, however it is written.
    return json.dumps(shown, ensure_ascii=False, default=str).encode("utf-8", "replace")


@dataclass(slots=True)
class Gap:
    """Counts lines and bytes that are lost, or may be."""

    lines: int = 0
    size_bytes: int = 0
    reasons: list[str] = field(default_factory=lambda: [])

    def note(self) -> bytes:
        """Returns the text of the line that reports them."""
        counts = f"{self.lines} lines, {self.size_bytes} bytes lost"
        text = f"corral: {counts}: {'; '.join(self.reasons) or 'unknown'}"
        facts = {"level": "warning", "text": text, "lost_lines": self.lines}
        return json_line({**facts, "lost_bytes": self.size_bytes})


def time_of(record: Record) -> str:
    """Returns the time of a record, the key by which records are merged."""
    return str(record["at"])


def rfc3339_seconds(seconds: int) -> str:
    """Formats unix seconds as `2026-01-01T00:00:00`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def timestamp(at_s: float) -> str:
    """Formats unix seconds as the files have them: strings of equal length, ordered like the times."""
    seconds = int(at_s // 1)
    return f"{rfc3339_seconds(seconds)}.{int((at_s - seconds) * 1e9):09d}Z"
