"""`python -P -m corral.worker.zygote.program JSON`: imports an agent once, and forks its workers.

JSON is an object: `entrypoint`, MODULE:AGENT, and `preload`, names of modules to import before it; `anew` is true if
sources may have changed a moment ago. With an empty `entrypoint` it imports `preload` alone, and forks the zygotes of agents.
stdin is one end of a SOCK_SEQPACKET pair whose other end the daemon holds. The messages are the launcher's protocol
(`supervisor.machine.launcher.protocol`), with these in addition:

    ← loaded {duration_s, rss_bytes, modules, files, unfit: [{kind, what, module}]}: the first message
    → rename {unit, to}: a spare becomes a worker; later messages use the new name
    → check {seq}    ← checked {seq, changed: [paths]}: source files that differ from the imported ones
    ← changed {paths}: the same without a request, where changes can be watched (see `sources`)

The last word of the `argv` of a `spawn` is such an object for a zygote, with its channel as stdin; for a worker it is empty. A fourth descriptor, if there is one, is the open `cgroup.procs` of the worker's group.

It guarantees the same as the launcher: every exit is sent at once, and when the other end of the channel is closed or
the launcher dies, every process below it dies too. A forked worker finds the same signals, descriptors, environment,
limits and folder as one that was started by exec. It knows no agent but its own, and decides nothing. Standard library
alone.
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

from corral.supervisor.machine.launcher.child_setup import ChildSetup, Refused, encode_failure
from corral.supervisor.machine.launcher.main_loop import MainLoop
from corral.supervisor.machine.launcher.process_tree import Trees
from corral.supervisor.machine.launcher.protocol import Channel
from corral.supervisor.machine.linux.kernel import MARK, PR_SET_CHILD_SUBREAPER, PR_SET_NAME, prctl

from ..adapters.recognition import adapt
from ..sdk.agent import Agent, loading_entrypoint
from ..sdk.entrypoint import load, log_unloadable
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

    from corral.supervisor.machine.launcher.child_setup import Spawn
    from corral.supervisor.machine.launcher.main_loop import Become

if not TYPE_CHECKING:
    # The C functions without signal's enumerations: a fork would have to copy those.
    from _signal import SIG_SETMASK, pthread_sigmask
    from _signal import signal as set_handler

NAME = "corral-zygote"
NAME_BYTES = 15
"""Bytes that the kernel keeps of a process's name, see prctl(2), PR_SET_NAME."""
STDIO = (0, 1, 2)
REHEARSED = (
    b'{"jsonrpc":"2.0","id":1,"method":"rehearse","params":{}}\n'
    b'{"jsonrpc":"2.0","method":"shutdown","params":{"grace_s":0}}\n'
)
"""The requests to the rehearsed worker: a method that it does not have, and shutdown."""
NEVER = frozenset((errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP))
"""Lasting reasons why no fork can begin in a group: as a rule the agent's user may not write to the daemon's groups."""
PATHS_LENGTH = 8192
"""Characters of all paths in one message: in JSON each takes six bytes or less."""


def main(arguments: list[str]) -> int:
    """Serves until the other end is closed, and then ends; returns 1 when the agent cannot be loaded, 2 on wrong usage."""
    order: Any = json.loads(arguments[0]) if len(arguments) == 1 else {}  # Any: JSON
    sock = take_channel()
    entrypoint = str(order.get("entrypoint", ""))
    is_order = bool(order.get("preload")) if not entrypoint else all(entrypoint.partition(":"))
    if sock is None or not is_order:
        usage = "usage: python -P -m corral.worker.zygote.program JSON, with a SOCK_SEQPACKET socket as stdin"
        print(usage, file=sys.stderr)
        return 2
    sys.path.append(os.getcwd())
    return run(Zygote(sock), order)


def run(zygote: Zygote, order: Any) -> int:  # Any: JSON
    """Loads and serves; returns 1 when something cannot be loaded."""
    set_process_name(NAME)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    ready_streams()
    sys.argv = [order["entrypoint"]]
    try:
        with bytecode_as_it_is(bool(order.get("anew"))):
            agent = zygote.load(order["entrypoint"], order.get("preload", []))
    except Unloadable as unloadable:
        log_unloadable(unloadable.what, unloadable.error)
    else:
        zygote.serve(agent)
    return 1


def take_channel() -> socket.socket | None:
    """Moves the channel from stdin to another descriptor, and returns it; None if stdin is no such socket."""
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
    """Writes no bytecode while `anew`: a source saved twice within one second, at the same length, would pass for the first."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, anew or sys.dont_write_bytecode
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


class Unloadable(Exception):
    """Reports that `what` cannot be imported, because of `error`."""

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(what)
        self.what = what
        self.error = error


class Inherited:
    """Holds the environment, limits, folder and umask that this process inherited, and notes which the import changed."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        self.limits = {
            name.removeprefix("RLIMIT_"): resource.getrlimit(getattr(resource, name))[0]
            for name in dir(resource)
            if name.startswith("RLIMIT_")
        }
        self.folder = os.getcwd()
        self.umask = current_umask()
        self.own_variables: set[str] = set()
        self.has_own_folder = False
        self.has_own_umask = False

    def note(self) -> None:
        """Notes, after the import, which variables, folder and umask differ: the agent set those itself."""
        names = self.environ.keys() | os.environ.keys()
        self.own_variables = {name for name in names if os.environ.get(name) != self.environ.get(name)}
        self.has_own_folder = os.getcwd() != self.folder
        self.has_own_umask = current_umask() != self.umask

    def take_environment(self, wanted: dict[str, str]) -> None:
        """Sets these variables, except those that the agent has set itself."""
        given = self.environ
        for name in given.keys() - wanted.keys() - self.own_variables:
            del os.environ[name]
        for name, value in wanted.items():
            if given.get(name) != value and name not in self.own_variables:
                os.environ[name] = value
        os.environ[MARK] = wanted[MARK]


class Zygote:
    """Imports an agent in this process and serves the daemon's requests for workers of it.

    With `shared` it is a fork of that one, whose imports it has.
    """

    def __init__(self, sock: socket.socket, shared: Zygote | None = None) -> None:
        self.started_s = time.monotonic()
        self.pid = os.getpid()
        self.launcher = os.pidfd_open(os.getppid())
        self.channel = Channel(sock)
        self.wake, self.woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # Another brand than that of the one above, which tells its zygotes apart by it.
        self.trees = Trees(state=0 if shared is None else 1, is_nested=True)
        self.sources = Sources(0 if shared is None else shared.modules)
        self.modules: int = 0
        """Number of modules after the last import."""
        self.is_rehearsed = shared is not None
        self.inherited = Inherited()
        self.inspection = Inspection()
        self.dispositions: dict[int, Any] = {}  # Any: the handlers of signal.signal
        self.blocked: set[int] = set()  # signals blocked by the import; a fork begins with all of them
        self.kept_before = [] if shared is None else shared.kept
        self.kept: list[int] = []
        self.cloner: clone3.Clone3 | None = None

    def load(self, entrypoint: str, preload: list[str]) -> Agent | None:
        """Imports everything, and sends the result; returns the agent, None without an entrypoint."""
        what = ""
        agent = None
        try:
            with self.sources.importing():
                for name in preload:
                    what = f'preload "{name}"'
                    with loading_entrypoint():
                        importlib.import_module(name)
                    self.inspection.look(name)
                if entrypoint:
                    what = f'entrypoint "{entrypoint}"'
                    agent = load(entrypoint, adapt)
                    self.inspection.look(entrypoint.partition(":")[0])
        except BaseException as error:  # an author's module may raise anything, SystemExit included
            raise Unloadable(what, error) from error
        self._settle()
        unfit = self.inspection.judge()
        self.kept = [*self.kept_before, *self.inspection.harmless()]
        self.cloner = None if unfit else clone3.found()
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
        """Prepares the process after the last import, so that forks need not repeat the work."""
        if not self.is_rehearsed:
            with contextlib.suppress(Exception):  # it only saves time, and what fails will fail again
                rehearse()
        self.inherited.note()
        self.sources.note()
        self.modules = len(sys.modules)
        tempfile = vars(sys.modules.get("tempfile", sys))
        if tempfile.get("tempdir") == self.inherited.environ.get("TMPDIR", ""):
            tempfile["tempdir"] = None  # each fork has a folder of its own
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # replaced, or closed
                stream.flush()  # else each fork would write it again
        gc.collect()  # garbage need not be inspected or shared

    def serve(self, agent: Agent | None) -> NoReturn:
        """Serves until the channel is closed, and ends this process with everything below it."""
        self._take_signals()
        main_loop = Forks(
            self.channel,
            self.launcher,
            self.wake,
            lambda spawn, fds, report: self._become(agent, spawn, fds, report),
            self.trees,
            self.sources,
            self.cloner,
        )
        os.write(self.woken, b"\0")  # a child may have died before SIGCHLD had a handler
        gc.freeze()  # what exists now is never collected: a fork shares its pages for longer
        main_loop.run()
        main_loop.end()
        os._exit(0)  # no worker has ended here: the agent's exit handlers do not run

    def _take_signals(self) -> None:
        ours: dict[int, Any] = {  # Any: the handlers of signal.signal
            signal.SIGCHLD: _wake,
            signal.SIGTERM: self._stop,
            signal.SIGINT: signal.SIG_IGN,
            signal.SIGHUP: signal.SIG_IGN,
        }
        for signum, handler in ours.items():
            before = signal.signal(signum, handler)
            # A handler that was not set by Python (None) cannot be restored; a plain number needs no enumeration.
            self.dispositions[signum] = before if callable(before) else int(before or 0)
        signal.set_wakeup_fd(self.woken, warn_on_full_buffer=False)
        self.blocked = set(map(int, signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)))

    def _stop(self, signum: int, _frame: FrameType | None) -> None:
        if os.getpid() == self.pid:
            self.channel.sock.shutdown(socket.SHUT_RD)  # the loop reads it as the end
        else:  # delivered in a fork, during a hook: the signal is for the worker
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _become(self, agent: Agent | None, spawn: Spawn, fds: list[int], report: int) -> NoReturn:
        """Turns the new process into a worker, or a zygote, runs it, and ends."""
        stage = "signals"
        try:
            signal.set_wakeup_fd(-1)
            for signum, handler in self.dispositions.items():
                set_handler(signum, handler)
            pthread_sigmask(SIG_SETMASK, self.blocked)
            setup = Fork(spawn, fds, report, self)
            for stage, perform in Fork.ORDER:  # noqa: B007 - named below when it fails
                perform(setup)
        except BaseException as error:
            with contextlib.suppress(BaseException):  # then there is no way to report it
                os.write(report, encode_failure(stage, error, spawn["unit"]))
            os._exit(126)
        os.close(report)  # the end of the file reports success
        status = 1
        try:
            status = self._serve_agent(spawn) if agent is None else self._live(agent, spawn)
        finally:
            exit_now(status)

    def _serve_agent(self, spawn: Spawn) -> int:
        """Runs the zygote of an agent, with the imports of this one, until its end."""
        self.inherited.take_environment(spawn["env"])
        sock = take_channel()
        assert sock is not None, "the daemon gives it a channel"
        return run(Zygote(sock, self), json.loads(spawn["argv"][-1]))

    def _live(self, agent: Agent, spawn: Spawn) -> int:
        """Runs the worker until its end; returns its exit status."""
        self.inherited.take_environment(spawn["env"])
        set_process_name(spawn["unit"].partition("#")[0])
        random = sys.modules.get("numpy.random")
        if random is not None:
            random.seed()  # Python's own generator is reseeded by os.register_at_fork
        status = 0
        try:
            agent.run()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 1
        # The work of the interpreter's end, without clearing every module, which would copy all shared pages.
        threading._shutdown()  # type: ignore[attr-defined]  # pyright: ignore  the one way to wait for them all
        atexit._run_exitfuncs()
        return status


class Fork(ChildSetup):
    """Performs the stages from the fork to the agent's code that are not inherited, or are specific to this worker."""

    def __init__(self, spawn: Spawn, fds: list[int], report: int, zygote: Zygote) -> None:
        super().__init__(spawn, fds, report, zygote.pid)
        self.zygote = zygote

    def _look_up_identity(self) -> None:
        return None  # the zygote was started as the agent's user

    def _join_cgroup(self) -> None:
        if len(self.fds) > len(STDIO):
            try:
                os.write(self.fds.pop(), b"0")  # opened by the daemon, whose rights count here
            except OSError as error:
                number = error.errno or 0
                why = os.strerror(number).lower()
                raise Refused(number, f"cannot join its cgroup: {why}") from None

    def _set_limits(self) -> None:
        limits = self.spawn["limits"]
        brand = limits.pop("RSS", None)
        if brand is not None:  # the soft limit, below the zygote's brand, which the launcher reads
            _soft, hard = resource.getrlimit(resource.RLIMIT_RSS)
            resource.setrlimit(resource.RLIMIT_RSS, (brand, hard))
        given = self.zygote.inherited.limits
        for name in [name for name, value in limits.items() if given.get(name) == value]:
            del limits[name]
        super()._set_limits()

    def _change_folder(self) -> None:
        if not self.zygote.inherited.has_own_folder:
            super()._change_folder()  # even to the same path: the folder may have been replaced

    def _set_umask(self) -> None:
        if not self.zygote.inherited.has_own_umask:
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
        """Skips the stage: the files are closed already."""

    def _restrict(self) -> None:
        # The filters of system calls are inherited, the ports and limits with them; the paths are narrowed
        # to those of this worker's own temporary folder, and its signals to itself.
        self.spawn["connect_ports"] = None
        self.spawn["scope_limits"] = False
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
    """The stages that a fork repeats, in the launcher's order; the files first, since Landlock may not allow to open them."""


class Forks(MainLoop):
    """Runs the launcher's loop for the zygote's workers, watches their sources, and forks into groups where possible."""

    DESCRIPTORS = (3, 4)

    def __init__(
        self,
        channel: Channel,
        daemon: int,
        wake: int,
        become: Become,
        trees: Trees,
        sources: Sources,
        cloner: clone3.Clone3 | None,
    ) -> None:
        super().__init__(channel, daemon, wake, become, trees)
        self.sources = sources
        self.cloner = cloner
        if sources.inotify >= 0:
            self.listeners[sources.inotify] = sources.read_events

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
        if self.cloner is not None and len(fds) > len(STDIO) and clone3.is_alone():
            try:
                group = os.path.dirname(os.readlink(f"/proc/self/fd/{fds[-1]}"))
                folder = os.open(group, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    pid = self.cloner.fork(folder)
                finally:
                    os.close(folder)
            except OSError as error:  # the ordinary fork reports the reason, if it fails too
                if error.errno in NEVER:
                    self.cloner = None
            else:
                if pid == 0:
                    fds.pop()  # the process is in the group already
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
    """Returns as many of the paths as fit into a short message, each on one line."""
    chosen: list[str] = []
    room = PATHS_LENGTH
    for path in map(one_line, paths):
        room -= len(path)
        if room < 0:
            break
        chosen.append(path)
    return chosen or [one_line(path)[:PATHS_LENGTH] for path in paths[:1]]


def rehearse() -> None:
    """Runs a worker once without a task, so that forks share all that a first run has to make: a fifth of their start.

    Its modules are imported last, as in a worker that starts cold. It leaves no handlers for SIGTERM and SIGINT, which
    every worker sets itself.
    """
    import asyncio  # noqa: PLC0415  see above

    from ..sdk import runtime  # noqa: PLC0415  see above

    (reading, requests), (answers, writing) = os.pipe(), os.pipe()
    try:
        os.write(requests, REHEARSED)
        loop = asyncio.SelectorEventLoop()  # the agent's own choice of a loop is not touched
        loop.run_until_complete(runtime.Worker(Hooks(None, (), ""), loop).live(Pipes(reading, writing)))
        loop.close()
    finally:
        os.close(requests)
        os.close(answers)


def current_umask() -> int:
    """Returns the umask, which can only be read by setting it, see umask(2)."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def resident_bytes() -> int:
    """Returns the resident memory of this process in bytes."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def set_process_name(name: str) -> None:
    """Sets the name that ps and top show for this process, cut to NAME_BYTES."""
    text = ctypes.create_string_buffer(name.encode()[:NAME_BYTES])
    prctl(PR_SET_NAME, ctypes.addressof(text))


def _wake(_signum: int, _frame: object) -> None:
    """Handles SIGCHLD by returning: only a signal with a handler reaches the wake-up descriptor (signal.set_wakeup_fd)."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
