"""Prepares the state folder: makes what is missing, and refuses by name what cannot be used as it is.

Nothing that may hold data is removed, moved or overwritten: an entry of the wrong kind, of another user, or without its
other half ends the start with one line, and a later start succeeds once that is mended. The link to the package is no
data: where a copy that followed links has left a folder, it is made anew.
"""

import asyncio
import contextlib
import errno
import logging
import os
import pwd
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corral.supervisor.records.store.store import Store
from corral.supervisor.workers.process.sandbox import make_temporary_root
from corral.worker.contract.errors import Conflict, CorralError, PermissionDenied

STORE = "corral.db"
LOG_OF_STORE = f"{STORE}-wal"

FOLDERS = (
    *("backup", "cache", "containers", "cortex", "environments", "installed", "logs", "logs/.alive"),
    *("packages", "sdk", "tenants", "tmp"),
)
"""The folders in the state folder; a link to a folder is one, too."""

LINK = "sdk/corral"
"""The link to the package, which agents with another interpreter import."""

FILES = (STORE, LOG_OF_STORE, f"{STORE}-shm", "http.token")
"""The files in the state folder."""

SLOW_S = 2.0
"""Seconds that the store may take to open until the log says that it does; then twice as long each time."""

EXTENSION_S = 30
"""Seconds by which the service manager is asked, each second, to wait longer for the start."""

logger = logging.getLogger(__name__)


def check_state_folder(root: Path) -> None:
    """Makes the state folder, 0700 (as root 0711), or checks the one that is there, which it does not change then."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_rights(root)
        _check_kinds(root)
        _check_store(root)
        if os.getuid() == 0 and stat.S_IMODE(root.stat().st_mode) != 0o711:
            root.chmod(0o711)  # agents of other users pass through it to what is theirs
    except OSError as error:
        raise _unusable(root, error) from error


@contextlib.contextmanager
def preparing(root: Path) -> Iterator[None]:
    """Reports what keeps an entry from being made as an error that names the state folder."""
    try:
        yield
    except OSError as error:
        raise _unusable(root, error) from error


def make_sdk_folder(root: Path) -> Path:
    """Makes a folder that holds nothing but `corral/`, so that any interpreter can use the SDK from it."""
    with preparing(root):
        folder = root / "sdk"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # agents of other users read it, whatever our umask is
        link = root / LINK
        package = Path(__file__).parents[3]
        if package.name != "corral":  # run from a checkout: the real folder is reached by its symlink
            package = Path(sys.modules["corral"].__path__[0])
        if not link.is_symlink() or link.readlink() != package:
            _clear(root, link)
            link.symlink_to(package)
        return folder


async def open_store(root: Path, is_to_end: asyncio.Event, notify: Callable[[str], None]) -> Store | None:
    """Opens the store on a thread of its own; returns None if the daemon has to end before it is open.

    A slow disk is named in the log, and the service manager asked to wait. An opening that is given up changes nothing:
    it is one transaction.
    """
    path = root / STORE
    if not path.exists() and any((root / "logs").glob("[!.]*")):
        text = '"%s" has logs and no %s: a new store is created (was that left out of a copy?)'
        logger.warning(text, root, STORE, extra={"fields": {"state_dir": str(root)}})
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Store] = loop.create_future()

    def resolve(store: Store | None, error: BaseException | None) -> None:
        if opened.cancelled():
            return
        if store is not None:
            opened.set_result(store)
        elif error is not None:
            opened.set_exception(error)

    def run() -> None:
        store, failure = None, None
        try:
            store = Store.open(path)
        except BaseException as error:  # handed to the loop, which raises it
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon has ended meanwhile
            loop.call_soon_threadsafe(resolve, store, failure)

    # A daemon thread: a disk that does not answer must not keep the process from ending.
    threading.Thread(target=run, name="corral-store-opener", daemon=True).start()
    end = loop.create_task(is_to_end.wait())
    began, slow_s = loop.time(), SLOW_S
    try:
        while True:
            waited: set[asyncio.Future[Any]] = {opened, end}
            await asyncio.wait(waited, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if opened.done():
                return opened.result()
            if end.done():
                return None
            notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}")
            if loop.time() - began >= slow_s:
                slow_s *= 2
                logger.warning('the store "%s" has been opening for %d s: its disk is slow', path, loop.time() - began)
    finally:
        end.cancel()
        opened.cancel()


def _check_rights(root: Path) -> None:
    """Refuses a folder, or a store in it, that is another user's, and one on a read-only file system."""
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        raise _refusal(root, "its file system is read-only", "read-only")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise _foreign(root, root.stat().st_uid)
    for name in (STORE, LOG_OF_STORE):
        with contextlib.suppress(FileNotFoundError):
            owner = (root / name).lstat().st_uid
            if owner != os.getuid() and owner != _new_owner(root):
                raise _foreign(root, owner)


def _new_owner(root: Path) -> int:
    """Returns the owner that a new file gets there: some file systems give all files to one user."""
    import tempfile  # noqa: PLC0415  # start-up time: hardly a start comes here

    with tempfile.TemporaryFile(dir=root) as probe:
        return os.fstat(probe.fileno()).st_uid


def _check_kinds(root: Path) -> None:
    """Refuses a file where a folder has to be, and the reverse."""
    for name in (*FOLDERS, *FILES):
        path = root / name
        with contextlib.suppress(FileNotFoundError):
            is_folder = stat.S_ISDIR(path.stat().st_mode)
            if is_folder != (name in FOLDERS):
                raise _wrong_kind(root, name, is_folder, "a folder" if name in FOLDERS else "a file")
    link = root / LINK
    is_folder = link.is_dir()
    if is_folder and not link.is_symlink() and not _is_package(link):
        raise _wrong_kind(root, LINK, is_folder, "a link")
    if link.is_file() and not link.is_symlink() and link.stat().st_size:
        raise _wrong_kind(root, LINK, is_folder, "a link")


def _is_package(folder: Path) -> bool:
    """Returns whether a folder is a copy of the package, or empty."""
    return (folder / "__init__.py").is_file() or not any(folder.iterdir())


def _wrong_kind(root: Path, name: str, is_folder: bool, needed: str) -> Conflict:
    found = "a folder" if is_folder else "a file"
    text = f'cannot use state folder "{root}": "{name}" in it is {found}, and has to be {needed}: move it away'
    return Conflict(text, path=str(root / name), reason="wrong-kind")


def _check_store(root: Path) -> None:
    """Refuses the log of a store whose file is missing or empty: SQLite would delete it, with the commits that it holds."""
    sizes = [path.stat().st_size if path.exists() else 0 for path in (root / STORE, root / LOG_OF_STORE)]
    if not sizes[0] and sizes[1]:
        text = (
            f'cannot use state folder "{root}": it has "{LOG_OF_STORE}" without its "{STORE}": copy that, too,'
            " or move the log away to begin with an empty store"
        )
        raise Conflict(text, path=str(root / STORE), reason="half-copied")


def _clear(root: Path, link: Path) -> None:
    """Makes room for the link to the package; a copy of the package is removed with the temporary folders."""
    if link.is_dir() and not link.is_symlink():
        link.rename(make_temporary_root(root) / f".sdk-{os.getpid()}")
    else:
        link.unlink(missing_ok=True)


def _foreign(root: Path, uid: int) -> PermissionDenied:
    try:
        owner = f'user "{pwd.getpwuid(uid).pw_name}" (uid {uid})'
    except KeyError:
        owner = f"uid {uid}"
    own = os.getuid()
    if uid == own:
        return _refusal(root, f"its mode does not let its owner, uid {uid}, write to it", "mode")
    return _refusal(root, f"it belongs to {owner}, and this daemon runs as uid {own}", "foreign")


def _refusal(root: Path, why: str, reason: str) -> PermissionDenied:
    return PermissionDenied(f'cannot use state folder "{root}": {why}', path=str(root), reason=reason)


def _unusable(root: Path, error: OSError) -> CorralError:
    """Returns the error for the state folder, or an entry of it, that cannot be made or read."""
    reasons = {
        errno.EROFS: "its file system is read-only",
        errno.ENOSPC: "its disk is full",
        errno.EDQUOT: "its disk is full for this user: the quota is used up",
        errno.EEXIST: "it is a file",
    }
    number = error.errno or errno.EIO
    why = reasons.get(number, os.strerror(number).lower())
    place = error.filename
    if place is not None and Path(os.fsdecode(place)) != root:
        why = f"{why}: {os.fsdecode(place)}"
    return _refusal(root, why, errno.errorcode.get(number, "unreadable"))
