"""Determines the files that a restricted worker needs in order to run, and manages its temporary folder.

`read_paths` lists the paths that an agent may read, and no program runs on those alone: it needs its interpreter, the
libraries of the system, the certificates of the network.  This module finds the least set of those: never a home, never
/etc as a whole, never the working directory.  `linux.landlock` enforces it, and skips a missing path that begins with
"-".
"""

import asyncio
import contextlib
import logging
import os
import pwd
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from functools import cache
from glob import escape, glob
from pathlib import Path

from corral.supervisor.machine.linux import landlock, seccomp

from ..containers import files as container_files

REMOVAL_S = 5.0
"""Seconds that the removal of one temporary folder may take; remaining files are removed at the next start."""
HOPS = 40
"""Number of symbolic links that the kernel follows in one path, see path_resolution(7)."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FIRST_LINE_BYTES = 256
"""Bytes of a script that the kernel reads to find its interpreter, see execve(2)."""

logger = logging.getLogger(__name__)

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload"),
    *("/etc/localtime", "/etc/timezone"),
)
"""Programs and libraries, the configuration of their search, and the time zone."""
NETWORK = (
    *("/etc/resolv.conf", "/run/systemd/resolve", "/run/resolvconf", "/etc/hosts"),
    *("/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols"),
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/ca-certificates"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf"),
    *("/etc/pki/ca-trust/extracted", "/etc/crypto-policies"),
)
"""Name resolution and trusted certificates: public in every system. Private keys lie elsewhere."""
MACHINE = (
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems"),
    *("/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu"),
    *("/dev/random", "/dev/urandom"),
)
"""The files by which runtimes size themselves; all of /proc would show every process's command line."""
PARTS = ("bin", "lib", "lib64", "libexec", "include", "ssl", "pyvenv.cfg")
"""The parts of an installation. ~/.local is one too, and holds more than programs."""
SINKS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")
"""Devices that store nothing: readable and writable for all."""


def landlock_abi() -> int:
    """Returns the kernel's Landlock ABI version; 0 for none."""
    return landlock.abi()


@cache
def scopes_signals() -> bool:
    """Returns True if a worker can be kept from signalling any process but its own descendants."""
    return landlock_abi() >= landlock.NEEDED_ABI["scope_signals"]


@cache
def scopes_limits() -> bool:
    """Returns True if a worker can be kept from setting the resource limits of any process but itself."""
    return seccomp.can_scope_limits()


def readable(
    paths: Sequence[str], argv: Sequence[str], env: Mapping[str, str], folder: str, sdk: Sequence[str]
) -> list[str]:
    """Returns `paths` and the paths that the program `argv` needs to run in `folder`, the latter prefixed with "-".

    `sdk` are the folders of the SDK.  It reads files, and may block as long as their disk does.
    """
    needed = [*SYSTEM, *_distribution(), *NETWORK, *MACHINE, *SINKS, *sdk]
    needed += _program(argv, env, folder)
    return [*paths, *(f"-{path}" for path in dict.fromkeys(needed))]


def writable(paths: Sequence[str]) -> list[str]:
    """Returns `paths` and the devices that every program may write to."""
    return [*paths, *(f"-{path}" for path in SINKS)]


def sdk_folders(sdk_path: Path) -> list[str]:
    """Returns the folders that `import corral` reads: `sdk_path`, the package it links to, the real folders of its parts.

    In a checkout the parts are links again, and the package is found through its parent folder. A site-packages as a
    whole is not included.
    """
    package = Path(os.path.realpath(sdk_path / "corral"))
    folders = [sdk_path, package, *(entry for entry in package.iterdir() if entry.is_symlink())]
    if package.parent.name not in {"site-packages", "dist-packages"}:
        folders.append(package.parent)
    return [os.path.realpath(folder) for folder in folders]


@cache
def _distribution() -> tuple[str, ...]:
    """Returns the folders in which Debian keeps a part of each Python's library."""
    return tuple(glob("/etc/python3*"))


def named(argv: Sequence[str], env: Mapping[str, str], folder: str) -> list[str]:
    """Returns the paths by which a program, its interpreters and its file arguments are named, links unresolved.

    A file system of its own needs the links, too. The paths are prefixed with "-".
    """
    found: list[str] = []
    for program in _programs(argv, env, folder):
        found += [program, _home_of_environment(program)]
    found += _file_arguments(argv, folder)
    return [f"-{path}" for path in dict.fromkeys(found) if path]


def _program(argv: Sequence[str], env: Mapping[str, str], folder: str) -> list[str]:
    """Returns the files of the program, its interpreters and their installations, and its file arguments."""
    found: list[str] = []
    for program in _programs(argv, env, folder):
        found.append(os.path.realpath(program))
        found += _installations(program)
    return [*found, *map(os.path.realpath, _file_arguments(argv, folder))]


def _programs(argv: Sequence[str], env: Mapping[str, str], folder: str) -> Iterator[str]:
    """Yields the path of the program, of its interpreter, and of that one's."""
    words = list(argv)
    for _ in range(4):  # a script's interpreter may be a script again, which the kernel bounds too
        program = _in_path(words[0], env, folder) if words else None
        if program is None:
            return
        yield program
        words = _interpreter(program)


def _file_arguments(argv: Sequence[str], folder: str) -> list[str]:
    paths = (os.path.join(folder, word) for word in argv[1:])
    return [path for path in paths if _is_file(path)]


def _home_of_environment(program: str) -> str:
    """Returns the `home` of the virtual environment that a program lies in, as it is written; "" without one."""
    return _written_home(os.path.dirname(os.path.dirname(program)))


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a NUL, with which the start fails
        return False


def _in_path(name: str, env: Mapping[str, str], folder: str) -> str | None:
    """Returns the program that execvp(3) would run, without resolving symbolic links."""
    path = env.get("PATH", os.defpath)
    places = [""] if "/" in name else path.split(":")
    for place in places:
        program = os.path.join(folder, place, name)
        if _is_file(program) and os.access(program, os.X_OK):
            return program
    return None


def _interpreter(program: str) -> list[str]:
    """Returns the interpreter in the first line of a script; after env(1), the program that env would run."""
    try:
        with open(program, "rb") as script:
            first = script.readline(FIRST_LINE_BYTES)
    except OSError:
        return []
    if not first.startswith(b"#!"):
        return []
    words = os.fsdecode(first[2:]).split()
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return words[:1]


def _installations(program: str) -> Iterator[str]:
    """Yields the parts of the installations that a program belongs to, at its own path and at each link's target."""
    for _ in range(HOPS):
        place, name = os.path.split(program)
        place = os.path.realpath(place)
        prefix, last = os.path.split(place)
        if last == "bin" and _is_installation(prefix):
            yield from (f"{prefix}/{part}" for part in PARTS)
            base = _base_of(prefix)
            if base is not None and _is_installation(base):
                yield from (f"{base}/{part}" for part in PARTS)
        program = os.path.join(place, name)
        try:
            program = os.path.join(place, os.readlink(program))
        except OSError:
            return


def _is_installation(prefix: str) -> bool:
    """Returns True if the folder looks like a Python, a virtual environment or a node, and is no home."""
    if prefix == "/" or prefix in SYSTEM or _is_home(prefix):
        return False
    patterns = ("pyvenv.cfg", "lib*/python3*", "lib/node_modules")
    return any(glob(f"{escape(prefix)}/{pattern}") for pattern in patterns)


def _base_of(prefix: str) -> str | None:
    """Returns the base installation of a virtual environment: the folder above the `home` of its pyvenv.cfg."""
    home = _written_home(prefix)
    return os.path.dirname(os.path.realpath(home)) if home else None


def _written_home(prefix: str) -> str:
    with contextlib.suppress(OSError, UnicodeError):
        for line in Path(prefix, "pyvenv.cfg").read_text("utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip().lower() == "home":
                return value.strip()
    return ""


def _is_home(path: str) -> bool:
    """Returns True if the path is the home of this process's user or of the path's owner."""
    with contextlib.suppress(OSError, KeyError):
        homes = (os.path.expanduser("~"), pwd.getpwuid(os.stat(path).st_uid).pw_dir)
        return path in [os.path.realpath(home) for home in homes]
    return False


# --- temporary folders ----------------------------------------------------------------------------


def make_temporary_root(state_dir: Path) -> Path:
    """Makes the folder that holds all temporary folders; other users can pass through it but not list it."""
    root = state_dir / "tmp"
    root.mkdir(mode=0o700, exist_ok=True)
    root.chmod(0o711 if os.getuid() == 0 else 0o700)
    return root


def temporary_of(root: Path, unit: str) -> str:
    """Returns the path of the temporary folder of one incarnation, which no other incarnation ever uses."""
    return f"{root}/{unit.replace('#', '.').replace('/', '+')}"  # flat, and no : as in PATH


def leftovers(root: Path | None) -> list[str]:
    """Returns the temporary folders of an earlier daemon's workers; to be called before a worker is started."""
    return [] if root is None else [str(path) for path in root.iterdir()]


def remove_temporary(path: str, bound_s: float = REMOVAL_S) -> bool:
    """Removes a folder with its content; returns False if a part is left. It never raises.

    The content may be hostile: folders without permissions, a million files, folders as deep as the disk allows, links
    out of it, mount points. Links are removed, never followed. Every folder is first moved into one flat folder: no
    depth is walked, and a mount point cannot be moved.
    """
    try:
        if _remove_at_once(path):
            return True
        return _Removal(os.path.dirname(path), time.monotonic() + bound_s).remove(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        why = error.strerror or f"it took more than {bound_s:g} s"
        logger.warning('cannot remove temporary folder "%s": %s', path, why)
        return False


def remove_empty(paths: Sequence[str]) -> list[str]:
    """Removes the empty ones of the folders, and returns the others. It never raises."""
    left: list[str] = []
    for path in paths:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            left.append(path)
    return left


def remove_containers(folders: Sequence[str]) -> None:
    """Removes containers and then their folders, see `containers.files`."""
    for folder in folders:
        container_files.remove(folder)
        remove_temporary(folder)


def remove_leftovers(paths: Sequence[str], bound_s: float = REMOVAL_S) -> None:
    """Removes the temporary folders of an earlier daemon's workers, within `bound_s` seconds altogether."""
    deadline = time.monotonic() + bound_s
    for path in paths:
        remove_temporary(path, max(0.0, deadline - time.monotonic()))


def _remove_at_once(path: str) -> bool:
    """Removes the path if it is an empty folder, as most are, or not a folder; returns whether it did."""
    try:
        os.rmdir(path)
    except NotADirectoryError:
        os.unlink(path)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


class _Removal:
    """Removes a folder by way of a flat one beside it, into which it and its subfolders are moved under numbers."""

    def __init__(self, root: str, deadline: float) -> None:
        import tempfile  # noqa: PLC0415 - start-up time: most folders are empty and do not come here

        self.deadline = deadline
        self.path = tempfile.mkdtemp(prefix=".", dir=root)
        self.taken = 0

    def remove(self, path: str) -> bool:
        """Removes the folder; returns True if no part of it is left."""
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._take(path)
            emptied = 0
            while emptied < self.taken:
                self._empty(str(emptied))
                if self._is_late():
                    raise TimeoutError
                emptied += 1
        finally:
            os.close(self.fd)
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
        return not os.path.lexists(self.path)

    def _is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def _empty(self, name: str) -> None:
        with contextlib.suppress(OSError):  # owned by another user: remove as much as possible
            self._unlock(name, self.fd)
            folder = os.open(name, FOLDER, dir_fd=self.fd)
            try:
                while self._clear(folder):
                    pass  # a removal during the listing may hide later entries
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=self.fd)

    def _clear(self, folder: int) -> int:
        """Removes or moves the entries of a folder in the remaining time, and returns their number."""
        gone = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                if self._is_late():
                    return 0
                with contextlib.suppress(OSError):  # a mount point, or owned by another user
                    if entry.is_dir(follow_symlinks=False):
                        self._take(entry.name, folder)
                    else:
                        os.unlink(entry.name, dir_fd=folder)
                    gone += 1
        return gone

    def _take(self, name: str, folder: int | None = None) -> None:
        taken = str(self.taken)
        try:
            os.rename(name, taken, src_dir_fd=folder, dst_dir_fd=self.fd)
        except PermissionError:  # moving a folder writes its ".."
            self._unlock(name, folder)
            os.rename(name, taken, src_dir_fd=folder, dst_dir_fd=self.fd)
        self.taken += 1

    def _unlock(self, name: str, folder: int | None) -> None:
        held = os.open(name, os.O_PATH | FOLDER, dir_fd=folder)
        try:
            if os.fstat(held).st_dev == os.fstat(self.fd).st_dev:  # not a mounted file system
                # By the descriptor: a link that takes the folder's place would be followed.
                os.chmod(f"/proc/self/fd/{held}", 0o700)
        finally:
            os.close(held)


DELAY_S = 0.02
"""Seconds between the first end of a worker and the removal of folders."""


class Removals:
    """Removes the temporary folders of ended workers in threads, soon, several at a time; for use in one event loop.

    An ended incarnation is often followed by another at once: the delay lets that one start first, and a thread is woken
    once for all of a thousand workers that end together.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    def add(self, path: str) -> None:
        """Schedules the removal of a folder with its content."""
        self._waiting.append(path)
        if self._timer is None:
            self._timer = self._loop.call_later(DELAY_S, self._begin)

    def add_container(self, folder: str) -> None:
        """Removes the container of a folder, where it is still there, and then the folder."""
        self._do(asyncio.to_thread(remove_containers, [folder]))

    async def finish(self) -> None:
        """Waits until every added folder is removed or has failed to be; each removal is bounded."""
        if self._timer is not None:
            self._timer.cancel()
            self._begin()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self) -> None:
        paths, self._waiting = self._waiting, []
        self._timer = None
        self._do(self._remove(paths))

    async def _remove(self, paths: list[str]) -> None:
        # Most are empty; a long removal must not delay the others.
        for path in await asyncio.to_thread(remove_empty, paths):
            self._do(asyncio.to_thread(remove_temporary, path))

    def _do(self, work: Coroutine[None, None, object]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
