"""What a worker is kept in: its temporary folder, and the files that its program cannot run without.

`read_paths` names what an agent may read, and no program runs on that alone: it needs its interpreter,
the libraries of the system, the certificates of the network.  Here that is found out, as little as
possible: never a home, never /etc as a whole, never the working directory.  Landlock itself is
`landlock`'s; a path that begins with "-" is skipped there where it does not exist.
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

from ..linux import landlock

REMOVAL_S = 5.0
"""How long the removal of one temporary folder may take; what is left then goes at the next start."""
HOPS = 40
"""Symbolic links that the kernel follows in one path (path_resolution(7))."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FIRST_LINE_BYTES = 256
"""What the kernel reads of a script (execve(2))."""

logger = logging.getLogger(__name__)

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload"),
    *("/etc/localtime", "/etc/timezone"),
)
"""Programs and libraries, how they are found, and the time zone."""
NETWORK = (
    *("/etc/resolv.conf", "/run/systemd/resolve", "/run/resolvconf", "/etc/hosts"),
    *("/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols"),
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/ca-certificates"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf"),
    *("/etc/pki/ca-trust/extracted", "/etc/crypto-policies"),
)
"""Names, and whom to trust: public in every system. Private keys lie elsewhere."""
MACHINE = (
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems"),
    *("/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu"),
    *("/dev/random", "/dev/urandom"),
)
"""What runtimes size themselves by; /proc as a whole would show everybody's command lines."""
PARTS = ("bin", "lib", "lib64", "libexec", "include", "ssl", "pyvenv.cfg")
"""What an installation consists of. ~/.local is one too, and has more in it than programs."""
SINKS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")
"""Devices that hold nothing: to be read and written."""


def landlock_abi() -> int:
    """The version of Landlock that this kernel gives us; 0: none."""
    return landlock.abi()


@cache
def scopes_signals() -> bool:
    """Whether a worker can be kept from signalling anybody but what it has started itself."""
    return landlock_abi() >= landlock.NEEDED_ABI["scope_signals"]


def readable(
    paths: Sequence[str],
    argv: Sequence[str],
    env: Mapping[str, str],
    folder: str,
    sdk: Sequence[str],
) -> list[str]:
    """`paths`, and what the program `argv` needs in order to run in `folder`, each behind a "-".

    `sdk` are the folders of the SDK.  It looks at files, and may block as long as their disk does.
    """
    needed = [*SYSTEM, *_distribution(), *NETWORK, *MACHINE, *SINKS, *sdk]
    needed += _program(argv, env, folder)
    return [*paths, *(f"-{path}" for path in dict.fromkeys(needed))]


def writable(paths: Sequence[str]) -> list[str]:
    """`paths`, and the devices into which everybody writes."""
    return [*paths, *(f"-{path}" for path in SINKS)]


def sdk_folders(sdk_path: Path) -> list[str]:
    """Where `import corral` looks: `sdk_path`, the package that it links to, and the real folders of its parts.

    In a checkout the parts are links again, and the package is found by the folder that it is in. A
    site-packages as a whole is no part of the SDK.
    """
    package = Path(os.path.realpath(sdk_path / "corral"))
    folders = [sdk_path, package, *(entry for entry in package.iterdir() if entry.is_symlink())]
    if package.parent.name not in {"site-packages", "dist-packages"}:
        folders.append(package.parent)
    return [os.path.realpath(folder) for folder in folders]


@cache
def _distribution() -> tuple[str, ...]:
    """Where Debian keeps a part of every Python's library."""
    return tuple(glob("/etc/python3*"))


def _program(argv: Sequence[str], env: Mapping[str, str], folder: str) -> list[str]:
    """The files of the program, of its interpreters and their installations, and its file arguments."""
    found: list[str] = []
    words = list(argv)
    for _ in range(4):  # a script's interpreter may be a script again, which the kernel bounds too
        program = _in_path(words[0], env, folder) if words else None
        if program is None:
            break
        found.append(os.path.realpath(program))
        found += _installations(program)
        words = _interpreter(program)
    arguments = (os.path.join(folder, word) for word in argv[1:])
    return [*found, *(os.path.realpath(path) for path in arguments if _is_file(path))]


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a NUL, with which the start fails
        return False


def _in_path(name: str, env: Mapping[str, str], folder: str) -> str | None:
    """The program that execvp(3) would run, without symbolic links resolved."""
    path = env.get("PATH", os.defpath)
    places = [""] if "/" in name else path.split(":")
    for place in places:
        program = os.path.join(folder, place, name)
        if _is_file(program) and os.access(program, os.X_OK):
            return program
    return None


def _interpreter(program: str) -> list[str]:
    """What the first line of a script runs: the program that env(1) would find where it says so."""
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
    """What is installed with the program, by its own place and by every link on the way to its file."""
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
    """Whether it is recognisably a Python, a virtual environment or a node, and nobody's home."""
    if prefix == "/" or prefix in SYSTEM or _is_home(prefix):
        return False
    patterns = ("pyvenv.cfg", "lib*/python3*", "lib/node_modules")
    return any(glob(f"{escape(prefix)}/{pattern}") for pattern in patterns)


def _base_of(prefix: str) -> str | None:
    """What a virtual environment was made from: the folder above the `home` of its pyvenv.cfg."""
    with contextlib.suppress(OSError, UnicodeError):
        for line in Path(prefix, "pyvenv.cfg").read_text("utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip().lower() == "home":
                return os.path.dirname(os.path.realpath(value.strip()))
    return None


def _is_home(path: str) -> bool:
    """Whether it is our home or that of its owner."""
    with contextlib.suppress(OSError, KeyError):
        homes = (os.path.expanduser("~"), pwd.getpwuid(os.stat(path).st_uid).pw_dir)
        return path in [os.path.realpath(home) for home in homes]
    return False


# --- temporary folders ----------------------------------------------------------------------------


def make_temporary_root(state_dir: Path) -> Path:
    """The folder in which every worker has its own; others pass through it, and list nothing."""
    root = state_dir / "tmp"
    root.mkdir(mode=0o700, exist_ok=True)
    root.chmod(0o711 if os.getuid() == 0 else 0o700)
    return root


def temporary_of(root: Path, unit: str) -> str:
    """The temporary folder of one life of a worker; no other has ever had it, or will."""
    return f"{root}/{unit.replace('#', '.')}"


def leftovers(root: Path | None) -> list[str]:
    """The temporary folders of an earlier daemon's workers; to be asked before a worker is started."""
    return [] if root is None else [str(path) for path in root.iterdir()]


def remove_temporary(path: str, bound_s: float = REMOVAL_S) -> bool:
    """Remove the folder with all that is in it; False when something is left. It never raises.

    Its owner may have left anything: folders that deny everything, a million files, folders as deep as
    the disk allows, links out of it, mount points. Links are removed, never followed. Every folder is
    moved onto one heap of ours before it is emptied: no depth is walked, and a mount point does not move.
    """
    try:
        if _remove_at_once(path):
            return True
        return _Heap(os.path.dirname(path), time.monotonic() + bound_s).remove(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        why = error.strerror or f"it took more than {bound_s:g} s"
        logger.warning('cannot remove temporary folder "%s": %s', path, why)
        return False


def remove_empty(paths: Sequence[str]) -> list[str]:
    """Remove those of the folders in which nothing is; the others. It never raises."""
    left: list[str] = []
    for path in paths:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            left.append(path)
    return left


def remove_leftovers(paths: Sequence[str], bound_s: float = REMOVAL_S) -> None:
    """Remove what an earlier daemon's workers left, for at most so long altogether."""
    deadline = time.monotonic() + bound_s
    for path in paths:
        remove_temporary(path, max(0.0, deadline - time.monotonic()))


def _remove_at_once(path: str) -> bool:
    """Whether it was empty, as most are, or no folder at all."""
    try:
        os.rmdir(path)
    except NotADirectoryError:
        os.unlink(path)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


class _Heap:
    """A folder of ours beside the one to remove, in which that and all that were in it lie by numbers."""

    def __init__(self, root: str, deadline: float) -> None:
        import tempfile  # noqa: PLC0415 - start-up time: most folders are empty and need no heap

        self.deadline = deadline
        self.path = tempfile.mkdtemp(prefix=".", dir=root)
        self.taken = 0

    def remove(self, path: str) -> bool:
        """Whether nothing is left of the folder.

        Raises:
            OSError: it cannot be taken, or the time is over.
        """
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
        with contextlib.suppress(OSError):  # somebody else's: what can go goes
            self._unlock(name, self.fd)
            folder = os.open(name, FOLDER, dir_fd=self.fd)
            try:
                while self._clear(folder):
                    pass  # what is removed while it is listed may hide what comes after it
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=self.fd)

    def _clear(self, folder: int) -> int:
        """How many entries could be removed or taken, in the time that is left."""
        gone = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                if self._is_late():
                    return 0
                with contextlib.suppress(OSError):  # a mount point, or somebody else's
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
        except PermissionError:  # to move a folder means to write its ".."
            self._unlock(name, folder)
            os.rename(name, taken, src_dir_fd=folder, dst_dir_fd=self.fd)
        self.taken += 1

    def _unlock(self, name: str, folder: int | None) -> None:
        held = os.open(name, os.O_PATH | FOLDER, dir_fd=folder)
        try:
            if os.fstat(held).st_dev == os.fstat(self.fd).st_dev:  # not what is mounted there
                # By the descriptor: a link that takes the folder's place would be followed.
                os.chmod(f"/proc/self/fd/{held}", 0o700)
        finally:
            os.close(held)


DELAY_S = 0.02
"""Between the first end and the removal."""


class Removals:
    """What is to be removed; for use in one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    def add(self, path: str) -> None:
        """Has a folder removed, with all that is in it."""
        self._waiting.append(path)
        if self._timer is None:
            self._timer = self._loop.call_later(DELAY_S, self._begin)

    async def finish(self) -> None:
        """Returns when all that was added is removed, or has turned out not to be removable; each removal is bounded."""
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
        # Most are empty; whose removal lasts must not hold up the others.
        for path in await asyncio.to_thread(remove_empty, paths):
            self._do(asyncio.to_thread(remove_temporary, path))

    def _do(self, work: Coroutine[None, None, object]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
