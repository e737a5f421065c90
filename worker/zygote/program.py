"""`python -P -m corral.worker.zygote.program JSON`: imports an agent once, and forks its workers.

JSON is an object: `entrypoint`, MODULE:AGENT, and `preload`, names of modules that are imported before; `anew` says
that sources may have changed a moment ago.
stdin is one end of a SOCK_SEQPACKET pair whose other end the daemon holds; what is said there is the
launcher's protocol, with this much more:

    ← loaded {duration_s, rss_bytes, modules, files, unfit: [{kind, what, module}]}: first of all
    → rename {unit, to}: a spare becomes a worker; reports, too, call it so from then on
    → check {seq}    ← checked {seq, changed: [paths]}: source files that are not as they were imported
    ← changed {paths}: the same, by itself, where it can be seen (see `sources`)

A `spawn` has an `argv` that nobody looks at, and perhaps a fourth descriptor: the open `cgroup.procs` of
the group that the worker joins.

It guarantees what the launcher does: it tells of every death at once, and when the other end of the
channel is closed or the launcher dies, all that is below it dies too. A worker that was forked here finds
what one finds that was started by itself: its signals, descriptors, environment, limits and folder. It
knows no agent but its own, and decides nothing. Standard library alone.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import itertools
import json
import os
import resource
import signal
import socket
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from ...supervisor.launcher.child_setup import ChildSetup, Refused, encode_failure
from ...supervisor.launcher.main_loop import MainLoop
from ...supervisor.launcher.process_tree import Trees
from ...supervisor.launcher.protocol import Channel
from ...supervisor.linux.kernel import (
    MARK,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    prctl,
)
from ..sdk.agent import Agent, load, loading_entrypoint, log_unloadable
from ..sdk.stdio import Pipes, exit_now, ready_streams
from ..sdk.task import Hooks
from . import clone3
from .fork_safety import Inspection, one_line, reopen
from .sources import Sources

if TYPE_CHECKING:
    from collections.abc import Generator
    from signal import SIG_SETMASK, pthread_sigmask
    from signal import signal as set_handler
    from types import FrameType
    from typing import NoReturn

    from ...supervisor.launcher.child_setup import Spawn

if not TYPE_CHECKING:
    # What signal wraps, without its enumerations: a fork would have to copy them.
    from _signal import SIG_SETMASK, pthread_sigmask
    from _signal import signal as set_handler

NAME = "corral-zygote"
NAME_BYTES = 15
"""What the kernel keeps of a process's name."""
STDIO = (0, 1, 2)
REHEARSED = (
    b'{"jsonrpc":"2.0","id":1,"method":"rehearse","params":{}}\n'
    b'{"jsonrpc":"2.0","method":"shutdown","params":{"grace_s":0}}\n'
)
"""What a worker is asked that lives for nobody: a method that it does not have, and to leave."""
NEVER = frozenset((errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP))
"""Why a fork cannot be born in a group, if not by chance: above all, the agent's user may not write to the daemon's groups."""
PATHS_LENGTH = 8192
"""The characters of all paths in one message, at most: in JSON each is six bytes or less."""


def main(arguments: list[str]) -> int:
    """Serves until the other end is closed, and then ends; returns 1 when the agent cannot be loaded, 2 on wrong usage."""
    order: Any = json.loads(arguments[0]) if len(arguments) == 1 else {}  # Any: JSON
    sock = take_end()
    if sock is None or not all(str(order.get("entrypoint", "")).partition(":")):
        usage = "usage: python -P -m corral.worker.zygote.program JSON, with a SOCK_SEQPACKET socket as stdin"
        print(usage, file=sys.stderr)
        return 2
    take_name(NAME)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    ready_streams()
    sys.argv = [order["entrypoint"]]
    sys.path.append(os.getcwd())
    zygote = Zygote(sock)
    try:
        with bytecode_as_it_is(bool(order.get("anew"))):
            agent = zygote.load(order["entrypoint"], order.get("preload", []))
    except Unloadable as unloadable:
        log_unloadable(unloadable.what, unloadable.error)
    else:
        zygote.serve(agent)
    return 1


def take_end() -> socket.socket | None:
    """Our end of the channel, moved from stdin to where nobody looks for it; None when there is none."""
    try:
        if not stat.S_ISSOCK(os.fstat(0).st_mode):
            return None
    except OSError:
        return None
    sock = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if sock.type != socket.SOCK_SEQPACKET:
        return None
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def bytecode_as_it_is(anew: bool) -> Generator[None, None, None]:
    """With `anew` no bytecode is written: what was saved twice in one second, and as long, would pass for the first of them."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, anew or sys.dont_write_bytecode
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


class Unloadable(Exception):
    """`what` cannot be imported, because of `error`."""

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(what)
        self.what = what
        self.error = error


class Surroundings:
    """What this process was given, and what of it the agent's import has changed, as it does in a cold worker too."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        self.limits = {
            name.removeprefix("RLIMIT_"): resource.getrlimit(getattr(resource, name))[0]
            for name in dir(resource)
            if name.startswith("RLIMIT_")
        }
        self.folder = os.getcwd()
        self.umask = mask_of_files()
        self.own_variables: set[str] = set()
        self.has_own_folder = False
        self.has_own_umask = False

    def note(self) -> None:
        """Once everything is imported: what is different now is the agent's own wish."""
        names = self.environ.keys() | os.environ.keys()
        self.own_variables = {
            name for name in names if os.environ.get(name) != self.environ.get(name)
        }
        self.has_own_folder = os.getcwd() != self.folder
        self.has_own_umask = mask_of_files() != self.umask

    def take_environment(self, wanted: dict[str, str]) -> None:
        """Give this process these variables, but for those that the agent has set by itself."""
        given = self.environ
        for name in given.keys() - wanted.keys() - self.own_variables:
            del os.environ[name]
        for name, value in wanted.items():
            if given.get(name) != value and name not in self.own_variables:
                os.environ[name] = value
        os.environ[MARK] = wanted[MARK]


class Zygote:
    """This process: what it was given, what it has imported, and what it serves."""

    def __init__(self, sock: socket.socket) -> None:
        self.started_s = time.monotonic()
        self.pid = os.getpid()
        self.launcher = os.pidfd_open(os.getppid())
        self.channel = Channel(sock)
        self.wake, self.woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.trees = Trees(is_nested=True)
        self.sources = Sources()
        self.surroundings = Surroundings()
        self.inspection = Inspection()
        self.dispositions: dict[int, Any] = {}  # Any: what signal.signal takes
        self.blocked: set[int] = set()  # by the import; a fork begins with all of them
        self.kept: list[int] = []
        self.cradle: clone3.Clone3 | None = None

    def load(self, entrypoint: str, preload: list[str]) -> Agent:
        """Imports everything, and tells what came of it.

        Raises:
            Unloadable: something cannot be imported.
        """
        what = ""
        try:
            with self.sources.importing():
                for name in preload:
                    what = f'preload "{name}"'
                    with loading_entrypoint():
                        importlib.import_module(name)
                    self.inspection.look(name)
                what = f'entrypoint "{entrypoint}"'
                agent = load(entrypoint)
            self.inspection.look(entrypoint.partition(":")[0])
        except BaseException as error:  # an author's module may raise anything, SystemExit included
            raise Unloadable(what, error) from error
        self._settle()
        unfit = self.inspection.judge()
        self.kept = self.inspection.harmless()
        self.cradle = None if unfit else clone3.found()
        self.channel.send(
            op="loaded",
            duration_s=time.monotonic() - self.started_s,
            rss_bytes=resident_bytes(),
            modules=len(sys.modules),
            files=len(self.sources),
            unfit=[each._asdict() for each in unfit],
        )
        return agent

    def _settle(self) -> None:
        """After the last import: all that each fork would have to do by itself."""
        with contextlib.suppress(Exception):  # it only saves time, and what fails will fail again
            rehearse()
        self.surroundings.note()
        self.sources.note()
        tempfile = vars(sys.modules.get("tempfile", sys))
        if tempfile.get("tempdir") == self.surroundings.environ.get("TMPDIR", ""):
            tempfile["tempdir"] = None  # each fork has a folder of its own
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # replaced, or closed
                stream.flush()  # else each fork would say it again
        gc.collect()  # what nobody holds any more need not be judged, or shared

    def serve(self, agent: Agent) -> NoReturn:
        """Serves until nobody is left to serve, and ends this process with all that is below it."""
        self._take_signals()
        main_loop = Forks(
            self.channel,
            self.launcher,
            self.wake,
            lambda spawn, fds, report: self._become(agent, spawn, fds, report),
            self.trees,
        )
        main_loop.attend(self.sources, self.cradle)
        os.write(self.woken, b"\0")  # something may have died before we listened
        gc.freeze()  # what exists now is never collected: a fork shares its pages for longer
        main_loop.run()
        main_loop.end()
        os._exit(0)  # no worker has ended: what the agent does at its exit is not done

    def _take_signals(self) -> None:
        ours: dict[int, Any] = {  # Any: what signal.signal takes
            signal.SIGCHLD: _wake,
            signal.SIGTERM: self._stop,
            signal.SIGINT: signal.SIG_IGN,
            signal.SIGHUP: signal.SIG_IGN,
        }
        for signum, handler in ours.items():
            before = signal.signal(signum, handler)
            # A handler that is not of Python (None) cannot be had back; and a plain number needs no enumeration.
            self.dispositions[signum] = before if callable(before) else int(before or 0)
        signal.set_wakeup_fd(self.woken, warn_on_full_buffer=False)
        self.blocked = set(map(int, signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)))

    def _stop(self, signum: int, _frame: FrameType | None) -> None:
        if os.getpid() == self.pid:
            self.channel.sock.shutdown(socket.SHUT_RD)  # the loop takes it for the end
        else:  # a hook of a fork has let it through: it is the worker who was meant
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _become(self, agent: Agent, spawn: Spawn, fds: list[int], report: int) -> NoReturn:
        """In the new process: makes a worker of it, runs that, and ends."""
        stage = "signals"
        try:
            signal.set_wakeup_fd(-1)
            for signum, handler in self.dispositions.items():
                set_handler(signum, handler)
            pthread_sigmask(SIG_SETMASK, self.blocked)
            birth = Fork(spawn, fds, report, self)
            for stage, perform in Fork.ORDER:  # noqa: B007 - named below when it fails
                perform(birth)
        except BaseException as error:
            with contextlib.suppress(BaseException):  # nobody can be told, then
                os.write(report, encode_failure(stage, error, spawn["unit"]))
            os._exit(126)
        os.close(report)  # which tells that it has become one
        status = 1
        try:
            status = self._live(agent, spawn)
        finally:
            exit_now(status)

    def _live(self, agent: Agent, spawn: Spawn) -> int:
        """A worker's whole life; its exit status."""
        self.surroundings.take_environment(spawn["env"])
        take_name(spawn["unit"].partition("#")[0])
        random = sys.modules.get("numpy.random")
        if random is not None:
            random.seed()  # as Python's own does by itself
        status = 0
        try:
            agent.run()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 1
        # What the interpreter's end would do, but for taking every module apart, which no fork could share.
        threading._shutdown()  # type: ignore[attr-defined]  # pyright: ignore  the one way to wait for them all
        atexit._run_exitfuncs()
        return status


class Fork(ChildSetup):
    """From the fork to the agent's own code: what was not inherited, or is of this worker alone."""

    def __init__(self, spawn: Spawn, fds: list[int], report: int, zygote: Zygote) -> None:
        super().__init__(spawn, fds, report, zygote.pid)
        self.zygote = zygote

    def _look_up_identity(self) -> None:
        return None  # the zygote was started as the agent's user

    def _join_cgroup(self) -> None:
        if len(self.fds) > len(STDIO):
            try:
                os.write(self.fds.pop(), b"0")  # whose opener may do that, and needs to be no more
            except OSError as error:
                number = error.errno or 0
                why = os.strerror(number).lower()
                raise Refused(number, f"cannot join its cgroup: {why}") from None

    def _set_limits(self) -> None:
        limits = self.spawn["limits"]
        brand = limits.pop("RSS", None)
        if brand is not None:  # below the zygote's own, which the launcher goes by
            _soft, hard = resource.getrlimit(resource.RLIMIT_RSS)
            resource.setrlimit(resource.RLIMIT_RSS, (brand, hard))
        given = self.zygote.surroundings.limits
        for name in [name for name, value in limits.items() if given.get(name) == value]:
            del limits[name]
        super()._set_limits()

    def _change_folder(self) -> None:
        if not self.zygote.surroundings.has_own_folder:
            super()._change_folder()  # although we are there: it may have been replaced

    def _set_umask(self) -> None:
        if not self.zygote.surroundings.has_own_umask:
            super()._set_umask()

    def _close_files(self) -> None:
        for target, fd in enumerate(self.fds):
            os.dup2(fd, target)
        self.zygote.channel.sock.detach()
        kept = sorted({*STDIO, self.report, *self.zygote.kept})
        for below, above in itertools.pairwise((*kept, 2**31 - 1)):
            os.closerange(below + 1, above)
        for fd in self.zygote.kept:
            reopen(fd)

    def _make_room(self) -> None:
        """There is room: the files are closed already."""

    def _restrict(self) -> None:
        # The filter of system calls is inherited, and the ports with it; the paths are narrowed to those
        # of this worker's own temporary folder, and its signals to itself.
        self.spawn["connect_ports"] = None
        super()._restrict()

    ORDER = (
        ("cgroup", _join_cgroup),
        ("session", ChildSetup._enter_session),
        ("temporary", ChildSetup._make_temporary),
        ("limits", _set_limits),
        ("parent", ChildSetup._die_with_parent),
        ("chdir", _change_folder),
        ("umask", _set_umask),
        ("no-new-privs", ChildSetup._set_no_new_privs),
        ("files", _close_files),
        ("landlock", _restrict),
    )
    """As far as they make sense again, and in the same order; the files first, since what Landlock leaves
    may not be enough to open them."""


class Forks(MainLoop):
    """The zygote's workers, and the sources that they come from."""

    DESCRIPTORS = (3, 4)

    def attend(self, sources: Sources, into: clone3.Clone3 | None) -> None:
        """Tells of their changes, too, and forks by this cradle, if there is one."""
        self.sources = sources
        self.cradle = into
        if sources.inotify >= 0:
            self.listeners[sources.inotify] = sources.hear

    def _timeout_ms(self) -> float | None:
        timeout_ms, due_s = super()._timeout_ms(), self.sources.due_s
        if due_s is None:
            return timeout_ms
        left_ms = max(0.0, due_s - time.monotonic()) * 1000 + 1
        return left_ms if timeout_ms is None else min(timeout_ms, left_ms)

    def _tidy(self) -> None:
        super()._tidy()
        due_s = self.sources.due_s
        if due_s is not None and due_s <= time.monotonic() and (paths := self.sources.news()):
            self.channel.send(op="changed", paths=few(paths))

    def _fork_process(self, fds: list[int]) -> int:
        if self.cradle is not None and len(fds) > len(STDIO) and clone3.is_alone():
            try:
                group = os.path.dirname(os.readlink(f"/proc/self/fd/{fds[-1]}"))
                folder = os.open(group, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    pid = self.cradle.fork(folder)
                finally:
                    os.close(folder)
            except OSError as error:  # the other way says why, if that does not work either
                if error.errno in NEVER:
                    self.cradle = None
            else:
                if pid == 0:
                    fds.pop()  # it is there
                return pid
        return super()._fork_process(fds)

    def _perform(self, message: Any, fds: list[int]) -> None:  # Any: JSON
        match message["op"]:
            case "rename":
                self._rename(message["unit"], message["to"])
            case "check":
                changed = few(self.sources.changed())
                self.channel.send(op="checked", seq=message["seq"], changed=changed)
            case _:
                super()._perform(message, fds)

    def _rename(self, key: str, to: str) -> None:
        unit = self.trees.units.pop(key, None)
        if unit is None:
            return  # it has just become empty, and `emptied` is on its way
        assert to not in self.trees.units, "a unit's name is never used again"
        unit.key = to
        self.trees.units[to] = unit
        if key in self.sent_roots:
            self.sent_roots[to] = self.sent_roots.pop(key)


def few(paths: list[str]) -> list[str]:
    """As many of the paths as make no long message; each is one line, whatever its name holds."""
    chosen: list[str] = []
    room = PATHS_LENGTH
    for path in map(one_line, paths):
        room -= len(path)
        if room < 0:
            break
        chosen.append(path)
    return chosen or [one_line(path)[:PATHS_LENGTH] for path in paths[:1]]


def rehearse() -> None:
    """Lives a worker's life once, for nobody, so that its forks find what a first time has to make: a fifth of their start.

    Its modules come last, as in a worker that starts cold. It ends without handlers for SIGTERM and SIGINT, which
    are a worker's own in any case.
    """
    import asyncio  # noqa: PLC0415  see above

    from ..sdk import runtime  # noqa: PLC0415  see above

    (reading, saying), (hearing, writing) = os.pipe(), os.pipe()
    try:
        os.write(saying, REHEARSED)
        loop = asyncio.SelectorEventLoop()  # the agent's own choice of a loop is not touched
        loop.run_until_complete(
            runtime.Worker(Hooks(None, (), ""), loop).live(Pipes(reading, writing))
        )
        loop.close()
    finally:
        os.close(saying)
        os.close(hearing)


def mask_of_files() -> int:
    """The umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def resident_bytes() -> int:
    """The memory of this process that is in use now."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def take_name(name: str) -> None:
    """What ps and top call this process from now on, as much as the kernel keeps of it."""
    text = ctypes.create_string_buffer(name.encode()[:NAME_BYTES])
    prctl(PR_SET_NAME, ctypes.addressof(text))


def _wake(_signum: int, _frame: object) -> None:
    """SIGCHLD needs a handler of ours to reach the wake-up descriptor (signal.set_wakeup_fd)."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
