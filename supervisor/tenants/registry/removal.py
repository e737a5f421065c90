"""Erases a tenant whose processes are stopped: rows, files, shared memory, and its record last.

The tables are those that the store has: one that comes later needs no entry here, as long as its columns have the names
below. The audit is left alone: its chain of hashes has no hole, and its records end by their own retention. The content of a
folder may be hostile: it is removed as that of a temporary folder is, without following links. Shared memory, semaphores and
message queues of System V have no path: they are found by their owner.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from corral.supervisor.records.store.store import Params, Statement, Store
from corral.supervisor.workers.process.sandbox import remove_temporary
from corral.worker.contract.errors import CorralError, Overloaded, Timeout

from .tenants import Tenants

FLAT = ("tmp", "secrets.d", "tokens.d", "installed", "environments", "cache")
"""Folders with entries of all owners; those of a tenant are named TENANT+..."""

logger = logging.getLogger(__name__)


def folders_of(state_dir: Path, name: str) -> list[Path]:
    """Returns the folders, and the files of secrets and tokens, that a tenant has in the state folder."""
    flat = (path for part in FLAT for path in (state_dir / part).glob(f"{name}+*"))
    aside = (path for part in FLAT for path in (state_dir / part).glob(f".{name}+*"))
    logs, packages = state_dir / "logs", state_dir / "packages" / name
    own = [state_dir / "tenants" / name, logs / name, logs / ".alive" / name, packages]
    return [*own, *sorted(flat), *sorted(aside)]


async def erase(store: Store, tenants: Tenants, state_dir: Path, name: str) -> dict[str, int]:
    """Erases all that the store and the disk have of a tenant; returns the counts by kind.

    Its uid is free for another tenant when this returns, and not before.
    """
    found: dict[str, int] = {}
    uid = tenants.kept(name).uid
    if uid is not None:
        found["processes"] = await end_processes(uid)
    found["rows"] = sum((await erase_rows(store, name)).values())
    found["folders"] = await erase_folders(folders_of(state_dir, name))
    if uid is not None:
        found["shared"] = await asyncio.to_thread(erase_shared, uid)
    await tenants.forget(name)
    return {kind: count for kind, count in found.items() if count}


async def take_up(store: Store, tenants: Tenants, state_dir: Path) -> None:
    """Finishes the removals that an earlier daemon had begun, before anything of those tenants is loaded."""
    for name in tenants.kept_names():
        if not tenants.kept(name).removing:
            continue
        try:
            fields = {"tenant": name, **await erase(store, tenants, state_dir, name)}
            logger.info("the removal of tenant %s is finished", name, extra={"fields": fields})
        except CorralError as error:
            logger.error('the removal of tenant "%s" is not finished: %s', name, error)


OWNED = frozenset({"agent", "name", "server", "subject", "worker"})
"""Columns that hold a full name, the id of a worker, or what begins with one."""

KEPT = frozenset({"audit", "audit_chain", "tenant"})
"""Tables that are left alone; that of the tenants is the last to go, when all else is erased."""

CHILDREN = (
    ("task_call", "task", "SELECT id FROM task WHERE agent GLOB ?"),
    ("session_turn", "session_id", "SELECT id FROM session WHERE agent GLOB ?"),
)
"""Tables whose rows belong to rows of another one: table, column, and the numbers of those."""


async def erase_rows(store: Store, tenant: str) -> dict[str, int]:
    """Deletes all rows of a tenant in one transaction; returns their counts by table, without those that had none."""
    statements = list(_statements(tenant, await _columns(store)))
    counts = await store.write(*(statement for _, statement in statements))
    found: dict[str, int] = {}
    for (table, _), count in zip(statements, counts, strict=True):
        if count:
            found[table] = found.get(table, 0) + count
    return found


async def _columns(store: Store) -> dict[str, list[str]]:
    """Returns the columns of each table that hold names."""
    sql = (
        "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, c.cid"
    )
    found: dict[str, list[str]] = {}
    for table, column in await store.read(sql):
        if column in OWNED and table not in KEPT:
            found.setdefault(str(table), []).append(str(column))
    return found


def _statements(tenant: str, columns: dict[str, list[str]]) -> Iterator[tuple[str, Statement]]:
    names = f"{tenant}/*"  # the name of a tenant has no character that GLOB would take for another
    for table, column, numbers in CHILDREN:
        yield table, (f"DELETE FROM {table} WHERE {column} IN ({numbers})", (names,))
    for table, found in columns.items():
        where = " OR ".join(f"{column} GLOB ?" for column in found)
        params: Params = (names,) * len(found)
        yield table, (f"DELETE FROM {table} WHERE {where}", params)
    # Events of the daemon that name the tenant, or something of it, in their data.
    data = "instr(data, CAST(? AS BLOB)) OR instr(data, CAST(? AS BLOB))"
    where = f"{data} OR (type GLOB 'tenant.*' AND instr(data, CAST(? AS BLOB)))"
    yield ("event", (f"DELETE FROM event WHERE {where}", (f'"{tenant}/', f":{tenant}/", f'"{tenant}"')))
    record = "DELETE FROM schedule WHERE instr(record, CAST(? AS BLOB))"
    yield "schedule", (record, (f'"{tenant}/',))
    yield "meta", ("DELETE FROM meta WHERE key GLOB ?", (f"*:{names}",))


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
