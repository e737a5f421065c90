"""Compresses log files that were rotated a while ago: one at a time, in one thread, with bounded memory.

The newest of the rotated files stays as it is, for shippers that are not done with it, and so does what may be
rotated away before it would pay. A kill leaves a temporary file, which the next start removes, or both the file and its
copy, of which the file counts (`file_format.names`): nothing is lost or repeated.
"""

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from corral.worker.contract.names import local_name, qualified, tenant_of

from . import bgzf
from .file_format import agents, names

COMPRESS_AFTER_S = 5.0
"""Seconds since the last write to a rotated file: under a flood it would be gone before."""

KEPT_PLAIN = 1
"""Number of the newest rotated files that are not compressed: `.1` to this."""

RETRY_S = 60.0
"""Seconds until the next attempt after an error of the disk."""

COPIES_KEPT = 4_096
"""Number of compressed files whose former inodes are remembered for readers."""

SWEEP_S = 0.005
"""Seconds that the search for files of an earlier daemon may take at a time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    agent: str
    worker: str
    source: int
    target: int
    temporary: Path
    done: Future[bool]


class Compressor:
    """Compresses the rotated files of all workers, one after the other. All calls are on one thread."""

    def __init__(self, directory: Path, after_s: float = COMPRESS_AFTER_S) -> None:
        self.compressed: OrderedDict[int, int] = OrderedDict()
        """Inodes of files that are gone -> those of their copies; of the last COPIES_KEPT."""
        self._directory = directory
        self._after_s = after_s
        self._due: deque[tuple[float, str, str]] = deque()
        self._queued: set[tuple[str, str]] = set()
        self._job: _Job | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._is_stopped = threading.Event()
        self._sweep: Iterator[None] | None = self._sweep_folders()

    def rotated(self, agent: str, worker: str, delay_s: float | None = None) -> None:
        """Queues the rotated files of a worker."""
        if (agent, worker) not in self._queued:
            self._queued.add((agent, worker))
            wait_s = self._after_s if delay_s is None else delay_s
            self._due.append((time.monotonic() + wait_s, agent, worker))

    def step(self, replaced: Callable[[str, str, int, int], None]) -> None:
        """Finishes a file and begins the next; due about once a second.

        `replaced` is called with agent, worker, the inode of the original, and that of the copy.
        """
        if self._sweep is not None:
            self._resume_sweep(self._sweep)
        if self._job is not None:
            if not self._job.done.done():
                return
            self._finish(self._job, replaced)
            self._job = None
        for _ in range(len(self._due)):
            due, agent, worker = self._due.popleft()
            if due > time.monotonic():
                self._due.append((due, agent, worker))
                continue
            self._queued.discard((agent, worker))
            try:
                self._job = self._begin(agent, worker)
            except OSError as error:
                logger.debug("cannot compress a log of %s: %s", worker, error)
                self.rotated(agent, worker, RETRY_S)
            if self._job is not None:
                break

    def close(self) -> None:
        """Gives up the file that is being compressed."""
        self._is_stopped.set()
        if self._threads is not None:
            self._threads.shutdown()
        if self._job is not None:
            self._discard(self._job)
            self._job = None

    def _begin(self, agent: str, worker: str) -> _Job | None:
        found = names(self._directory / agent, worker)
        plain = [name for name in found if not name.is_compressed and name.number > KEPT_PLAIN]
        if not plain:
            return None
        status = plain[0].path.lstat()
        if abs(time.time() - status.st_mtime) < self._after_s:
            self.rotated(agent, worker)
            return None
        source = os.open(plain[0].path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        temporary = plain[0].path.with_name(f".{local_name(worker)}.log.{status.st_ino}.tmp")
        target = -1
        try:
            temporary.unlink(missing_ok=True)
            target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if self._threads is None:
                self._threads = ThreadPoolExecutor(1, "corral-pack")
            done = self._threads.submit(bgzf.compress, source, target, self._is_stopped.is_set)
        except BaseException:
            os.close(source)
            if target >= 0:
                os.close(target)
            raise
        self.rotated(agent, worker, 0)  # there may be more
        return _Job(agent, worker, source, target, temporary, done)

    def _finish(self, job: _Job, replaced: Callable[[str, str, int, int], None]) -> None:
        try:
            source, target = os.fstat(job.source), os.fstat(job.target)
            path = self._path_of(job, source.st_ino)
            if job.done.result() and path is not None:
                os.utime(job.temporary, ns=(source.st_atime_ns, source.st_mtime_ns))
                job.temporary.rename(f"{path}{bgzf.SUFFIX}")
                path.unlink()
                self.compressed[source.st_ino] = target.st_ino
                if len(self.compressed) > COPIES_KEPT:
                    self.compressed.popitem(last=False)
                replaced(job.agent, job.worker, source.st_ino, target.st_ino)
        except OSError as error:
            logger.debug("cannot compress a log of %s: %s", job.worker, error)
        finally:
            self._discard(job)

    def _path_of(self, job: _Job, inode: int) -> Path | None:
        """Returns where the file is now; None if it was rotated away."""
        for name in names(self._directory / job.agent, job.worker):
            with suppress(OSError):
                if name.number and not name.is_compressed and name.path.lstat().st_ino == inode:
                    return name.path
        return None

    @staticmethod
    def _discard(job: _Job) -> None:
        with suppress(OSError):
            job.temporary.unlink(missing_ok=True)
        os.close(job.source)
        os.close(job.target)

    # -- files of an earlier daemon

    def _resume_sweep(self, sweep: Iterator[None]) -> None:
        until = time.monotonic() + SWEEP_S
        for _ in sweep:
            if time.monotonic() > until:
                return
        self._sweep = None

    def _sweep_folders(self) -> Iterator[None]:
        with suppress(OSError):
            for agent in sorted(agents(self._directory)):
                for left in (self._directory / agent).glob(".*.tmp"):
                    if self._job is None or left != self._job.temporary:
                        left.unlink(missing_ok=True)
                for name in names(self._directory / agent):
                    if name.number > KEPT_PLAIN and not name.is_compressed:
                        self.rotated(agent, qualified(name.worker, tenant_of(agent)), 0)
                yield
