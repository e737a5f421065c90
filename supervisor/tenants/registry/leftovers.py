"""Ends the processes and erases the files and the shared memory that a tenant's uid has left.

The content of its folder may be hostile: it is removed as that of a temporary folder is, without following links. Shared
memory, semaphores and message queues of System V have no path: they are found by their owner.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from corral.supervisor.workers.process.sandbox import remove_temporary
from corral.worker.contract.errors import Overloaded, Timeout

REMOVAL_S = 600.0
"""Seconds that the removal of one folder may take."""
END_S = 30.0
"""Seconds in which processes that were killed have to be gone."""
CHECK_S = 0.02
"""Seconds between two looks for processes of a uid."""
IPC_RMID = 0
IPC = (("shm", "shmid"), ("sem", "semid"), ("msg", "msqid"))
"""Files of /proc/sysvipc, each with the column of its number."""
SHARED = ("/dev/shm", "/dev/mqueue")
"""Folders in which programs of all users keep shared memory and queues."""


async def erase_folders(paths: Sequence[Path]) -> int:
    """Removes folders with their content; returns how many there were."""
    count = 0
    for path in paths:
        if not os.path.lexists(path):
            continue
        count += 1
        if not await asyncio.to_thread(remove_temporary, str(path), REMOVAL_S):
            raise Overloaded(
                f'cannot remove "{path}": a part of it is left', path=str(path), reason="files", retry_after_s=1.0
            )
    return count


async def end_processes(uid: int) -> int:
    """Kills every process of a uid that no other may have, until none is left; returns how many were found at first."""
    found = await asyncio.to_thread(_processes, uid)
    count, left = len(found), found
    try:
        async with asyncio.timeout(END_S):
            while left:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(CHECK_S)
                left = await asyncio.to_thread(_processes, uid)
    except TimeoutError:
        raise Timeout(f"cannot end processes of uid {uid}: they survive SIGKILL", pids=left) from None
    return count


def erase_shared(uid: int) -> int:
    """Removes the shared memory, semaphores and queues of a uid; returns how many there were."""
    count = 0
    library = ctypes.CDLL(None, use_errno=True)
    for kind, number in _ipc(uid):
        if kind == "sem":
            removed = library.semctl(number, 0, IPC_RMID)
        else:
            removed = getattr(library, f"{kind}ctl")(number, IPC_RMID, None)
        count += removed == 0
    for folder in SHARED:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == uid:
                        os.unlink(entry.path)
                        count += 1
    return count


def _ipc(uid: int) -> Iterator[tuple[str, int]]:
    """Yields the kind and the number of each object of System V that a uid owns or has made."""
    for kind, column in IPC:
        try:
            lines = Path("/proc/sysvipc", kind).read_text("ascii").splitlines()
        except OSError:
            continue
        head = lines[0].split()
        for line in lines[1:]:
            row = dict(zip(head, line.split(), strict=False))
            if str(uid) in (row.get("uid"), row.get("cuid")):
                yield kind, int(row[column])


def _processes(uid: int) -> list[int]:
    """Returns the processes that run as a uid; those that have ended and wait for their parent are none."""
    import psutil  # noqa: PLC0415  # it costs 1 MB: only who removes a tenant pays

    return [
        process.pid
        for process in psutil.process_iter(["uids", "status"])
        if process.info["uids"] is not None
        and uid in process.info["uids"]
        and process.info["status"] not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    ]
