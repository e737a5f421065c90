"""The parent of every worker: starts, signals and reaps them, and leaves none behind.

Run by path, `python -I -S launcher.py FD`, where FD is one end of a SOCK_SEQPACKET pair whose other
end the daemon holds.  One thread and the standard library alone, so that fork is cheap and plain
Python may run between fork and exec.  It guarantees:

- whatever becomes of a worker, its wait status is told at once, and `emptied` when nothing of it is left;
- when the daemon is gone, every descendant is killed until none is left, and then it ends itself;
- no stranger is signalled: a child only before it is reaped, any other process only through a pidfd
  that was opened first and checked afterwards.

It knows units (`echo-0#3`: one life of one worker) and decides nothing about them: no restart, no
grace period, no policy.  `supervisor.process` is the other end; the messages are listed there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import grp
import json
import os
import pwd
import resource
import select
import signal
import socket
import stat
import sys
import time
from collections import deque
from collections.abc import Iterator

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypedDict

    class Spawn(TypedDict):
        """What the daemon asks for; its three descriptors travel beside it."""

        seq: int
        unit: str
        argv: list[str]
        env: dict[str, str]
        cwd: str
        umask: int
        nice: int
        user: str | None
        group: str | None
        no_new_privs: bool
        limits: dict[str, int]


VERSION = 1
MESSAGE_BYTES = 65536
"""A longer message travels as a sealed memfd."""
DESCRIPTORS = 16
"""At most so many come with one message."""
MARK = "CORRAL_WORKER"
"""Environment variable of every worker: its unit."""
RETRYABLE = frozenset(
    (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ETXTBSY)
)
SURVEY_S = 1.0
"""The pace of surveys of the trees while anything runs…"""
SURVEY_SHARE = 0.005
"""…unless they would take more than this share of one core."""
KILL_AGAIN_S = (0.005, 0.25)
"""First and last pause between two rounds of SIGKILL at the same tree."""

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 15, 36, 38
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# A tree that was stopped would not see these before it is continued.
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP))

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
_prctl.restype = ctypes.c_int


def prctl(option: int, value: int) -> None:
    """Set one attribute of this process."""
    if _prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- /proc -------------------------------------------------------------------------------------


class Process:
    """What /proc/PID/stat says: pid and starttime together are an identity."""

    __slots__ = ("group", "parent", "pid", "session", "starttime", "state", "threads")

    def __init__(self, pid: int, line: bytes) -> None:
        fields = line[line.rindex(b")") + 2 :].split(None, 20)
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.threads = int(fields[17])
        self.starttime = int(fields[19])

    @property
    def is_dead(self) -> bool:
        """A zombie: it only waits to be reaped.  One whose main thread alone has ended still runs."""
        return self.state in b"ZX" and self.threads < 2


def read_proc(path: str) -> bytes:
    """The file, or b"" when its process is gone or hidden from us."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
    try:
        return read_fd(fd)
    except (ProcessLookupError, PermissionError):
        return b""
    finally:
        os.close(fd)


def read_fd(fd: int) -> bytes:
    """All of the file from its start."""
    parts: list[bytes] = []
    size = 0
    while part := os.pread(fd, 65536, size):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def look_up(pid: int) -> Process | None:
    """The process that has this pid now, a zombie included."""
    line = read_proc(f"/proc/{pid}/stat")
    return Process(pid, line) if line else None


def children_by_parent(pid: int) -> list[int]:
    """The children of `pid` by reading every process: for kernels without CONFIG_PROC_CHILDREN."""
    others = (look_up(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [other.pid for other in others if other is not None and other.parent == pid]


def children(process: Process) -> list[int]:
    """The pids of its children, zombies included.

    The kernel may skip some while children of that process are being reaped; our own are reaped by
    us alone, so that for the launcher itself the list is exact.
    """
    pid = process.pid
    if not HAS_CHILDREN_FILE:
        return children_by_parent(pid)
    threads = [str(pid)]
    if process.threads != 1:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return []
    lists = (read_proc(f"/proc/{pid}/task/{thread}/children") for thread in threads)
    return [int(child) for child in b" ".join(lists).split()]


def walk(pid: int) -> Iterator[Process]:
    """The process and all its descendants that live, parents first."""
    waiting = [pid]
    seen = {pid}
    while waiting:
        process = look_up(waiting.pop())
        if process is None or process.is_dead:
            continue
        yield process
        fresh = [child for child in children(process) if child not in seen]
        seen.update(fresh)
        waiting += fresh


def mark(pid: int) -> str:
    """The unit that its environment names, or "": a hint, since a process may change that."""
    environ = b"\0" + read_proc(f"/proc/{pid}/environ")
    value = environ.partition(f"\0{MARK}=".encode())[2]
    return os.fsdecode(value.partition(b"\0")[0])


def signal_other(process: Process, signum: int) -> None:
    """Signal exactly this process, or nobody when its pid belongs to another one by now."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = look_up(process.pid)
        if now is not None and now.starttime == process.starttime:
            signal.pidfd_send_signal(fd, signum)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or a set-uid program of somebody else's: the next round looks again
    finally:
        os.close(fd)


OWN_CHILDREN = f"/proc/self/task/{os.getpid()}/children"
HAS_CHILDREN_FILE = os.path.exists(OWN_CHILDREN)


# --- messages ----------------------------------------------------------------------------------


def encode(message: dict[str, object]) -> tuple[bytes, int | None]:
    """The datagram, and the sealed memfd that must travel as its last descriptor, if it is long."""
    message["v"] = VERSION
    data = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(data) <= MESSAGE_BYTES:
        return data, None
    fd = os.memfd_create("corral-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    known = {key: message[key] for key in ("v", "op", "seq", "unit") if key in message}
    return json.dumps({**known, "memfd": True}).encode("ascii"), fd


def receive(sock: socket.socket) -> tuple[Any, list[int]]:  # Any: JSON
    """The next message and its descriptors, which are the caller's to close.

    A long message whose memfd did not arrive (this process is out of descriptors) keeps its
    envelope: `memfd` is still true in it.

    Raises:
        BlockingIOError: there is none now.
        EOFError: the peer has closed its end.
    """
    data, ancillary, _flags, _address = sock.recvmsg(
        MESSAGE_BYTES,
        socket.CMSG_SPACE(4 * DESCRIPTORS),
        socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
    )
    if not data:
        raise EOFError
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(payload) - len(payload) % 4
            fds += memoryview(payload[:whole]).cast("i")
    message = json.loads(data)
    if message.get("memfd") and fds:
        last = fds[-1]
        sealed = stat.S_ISREG(os.fstat(last).st_mode)
        sealed = sealed and fcntl.fcntl(last, fcntl.F_GET_SEALS) & SEALS == SEALS
        if sealed:
            message = json.loads(read_fd(last))
            os.close(fds.pop())
    return message, fds


class Channel:
    """Our end of the socket: never blocks.

    What the daemon does not read waits here.  The queue needs no limit of its own: each unit has at
    most three messages in its life, every other one answers a request, and pongs never queue.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.queue: deque[tuple[bytes, int | None]] = deque()

    def send(self, **message: object) -> None:
        """Send it, or keep it until the daemon reads again."""
        self.queue.append(encode(message))
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the daemon reads."""
        while self.queue:
            data, memfd = self.queue[0]
            try:
                socket.send_fds(self.sock, [data], [] if memfd is None else [memfd])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                pass  # nobody listens any more; the loop sees that by itself
            self.queue.popleft()
            if memfd is not None:
                os.close(memfd)


# --- between fork and exec ---------------------------------------------------------------------


class Refused(Exception):
    """A stage failed, in words that a person can act on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number
        self.message = message


class Birth:
    """The new process, from fork to exec: each stage is one method, and may raise Refused or OSError."""

    def __init__(self, spawn: Spawn, fds: list[int], report: int, launcher: int) -> None:
        self.spawn = spawn
        self.fds = fds
        self.report = report
        self.launcher = launcher
        self.identity = self._look_up_identity()

    def _look_up_identity(self) -> tuple[str, int, int, list[int]] | None:
        """Name, uid, gid and groups to change to; looked up here, in the child, since NSS may be slow."""
        user, group = self.spawn["user"], self.spawn["group"]
        if user is None and group is None:
            return None
        uid, gid, groups = os.getuid(), os.getgid(), None
        if user is not None:
            try:
                entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
            except KeyError:
                raise Refused(errno.ENOENT, f'cannot run as user "{user}": no such user') from None
            uid, gid, groups = entry.pw_uid, entry.pw_gid, entry.pw_name
        if group is not None:
            try:
                found = grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)
            except KeyError:
                text = f'cannot run as group "{group}": no such group'
                raise Refused(errno.ENOENT, text) from None
            gid = found.gr_gid
        others = [gid] if groups is None else os.getgrouplist(groups, gid)
        return user or str(uid), uid, gid, others

    def _enter_session(self) -> None:
        os.setsid()

    def _set_limits(self) -> None:
        # The address space comes last: after it, this interpreter may have no room for the others.
        for name, value in sorted(self.spawn["limits"].items(), key=lambda item: item[0] == "AS"):
            kind = getattr(resource, f"RLIMIT_{name}", None)
            if kind is None:
                raise Refused(errno.EINVAL, f'cannot set limit "{name}": unknown on this machine')
            _soft, ceiling = resource.getrlimit(kind)
            hard = value
            if name == "CPU" and value >= 0 and (ceiling < 0 or value < ceiling):
                hard = value + 1  # the hard limit ends with SIGKILL, the soft one with SIGXCPU
            try:
                resource.setrlimit(kind, (value, hard))
            except (ValueError, OverflowError):
                text = f'cannot set limit "{name}" to {value}: the hard limit is {ceiling}'
                raise Refused(errno.EPERM, text) from None

    def _set_nice(self) -> None:
        if self.spawn["nice"]:
            try:
                os.nice(self.spawn["nice"])
            except PermissionError as error:
                text = f'cannot set nice to "{self.spawn["nice"]}": it needs privileges'
                raise Refused(error.errno or errno.EPERM, text) from None

    def _change_user(self) -> None:
        if self.identity is None:
            return
        name, uid, gid, groups = self.identity
        if (uid, gid) == (os.geteuid(), os.getegid()) and uid != 0:
            return  # already so, and an ordinary user may not even say it again
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except PermissionError as error:
            text = f'cannot run as user "{name}": uid {os.getuid()} may not change its user'
            if self.spawn["user"] is None:
                group = self.spawn["group"]
                text = f'cannot run as group "{group}": uid {os.getuid()} may not change its group'
            raise Refused(error.errno or errno.EPERM, text) from None

    def _die_with_parent(self) -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.launcher:
            os._exit(125)  # it died before we asked to be told

    def _change_folder(self) -> None:
        cwd = self.spawn["cwd"]
        reasons = {
            errno.ENOENT: "it does not exist",
            errno.ENOTDIR: "it is not a folder",
            errno.EACCES: f"uid {os.getuid()} may not enter it",
        }
        try:
            os.chdir(cwd)
        except OSError as error:
            number = error.errno or 0
            why = reasons.get(number, os.strerror(number).lower())
            raise Refused(number, f'cannot enter working directory "{cwd}": {why}') from None

    def _set_umask(self) -> None:
        os.umask(self.spawn["umask"])

    def _renounce_privileges(self) -> None:
        if self.spawn["no_new_privs"]:
            prctl(PR_SET_NO_NEW_PRIVS, 1)

    def _close_files(self) -> None:
        for target, fd in enumerate(self.fds):
            os.dup2(fd, target)
        os.closerange(3, self.report)
        os.closerange(self.report + 1, 2**31 - 1)

    def _execute(self) -> None:
        argv, env = self.spawn["argv"], self.spawn["env"]
        name = argv[0] if argv else ""
        path = env.get("PATH", os.defpath)
        # An empty entry of PATH means the working directory (execvp(3)).
        tries = [name] if "/" in name else [f"{folder or '.'}/{name}" for folder in path.split(":")]
        forbidden = ""
        for program in tries if name else []:
            try:
                os.execve(program, argv, env)
            except (FileNotFoundError, NotADirectoryError):
                if os.path.exists(program):
                    raise Refused(errno.ENOENT, _without_interpreter(program)) from None
            except PermissionError:
                forbidden = forbidden or program
            except OSError as error:
                number = error.errno or 0
                raise Refused(number, _not_executed(program, number)) from None
        if forbidden:
            raise Refused(errno.EACCES, _forbidden(forbidden))
        where = "no such file" if "/" in name else f'no such program in PATH "{path}"'
        raise Refused(errno.ENOENT, f'cannot run "{name}": {where}')

    # The order is a contract.  The cgroup belongs before the session, since whatever is forked
    # after it must be inside; Landlock after no_new_privs, which it needs, and before the files.
    STAGES = (
        ("session", _enter_session),
        ("limits", _set_limits),
        ("nice", _set_nice),
        ("user", _change_user),
        ("parent", _die_with_parent),
        ("chdir", _change_folder),
        ("umask", _set_umask),
        ("no-new-privs", _renounce_privileges),
        ("files", _close_files),
        ("exec", _execute),
    )


def _without_interpreter(program: str) -> str:
    """The kernel says ENOENT for the script when it means what the script's first line names."""
    try:
        with open(program, "rb") as script:
            first = script.readline(256)
    except OSError:
        first = b""
    if not first.startswith(b"#!"):
        return f'cannot run "{program}": the dynamic loader that it names does not exist'
    words = os.fsdecode(first[2:]).split()
    return f'cannot run "{program}": its interpreter "{words[0] if words else ""}" does not exist'


def _not_executed(program: str, number: int) -> str:
    reasons = {
        errno.ENOEXEC: 'it is no program for this machine, and no script that starts with "#!"',
        errno.E2BIG: "its arguments and environment are too large for the kernel",
        errno.ELOOP: "too many symbolic links",
        errno.ETXTBSY: "somebody is writing to it",
        errno.EAGAIN: f"uid {os.getuid()} has as many processes as it may have",
        errno.ENOMEM: "there is not enough memory",
    }
    return f'cannot run "{program}": {reasons.get(number, os.strerror(number).lower())}'


def _forbidden(program: str) -> str:
    if os.path.isdir(program):
        return f'cannot run "{program}": it is a folder'
    if os.path.exists(program) and not os.access(program, os.X_OK):
        return f'cannot run "{program}": the file is not executable for uid {os.getuid()}'
    return f'cannot run "{program}": permission denied to uid {os.getuid()}'


def become(
    spawn: Spawn, fds: list[int], report: int, launcher: int, altered: list[int]
) -> NoReturn:
    """In the child: perform every stage, or tell the failing one through `report`, and end."""
    stage = "user"
    try:
        signal.set_wakeup_fd(-1)
        for signum in altered:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        birth = Birth(spawn, fds, report, launcher)
        for stage, perform in Birth.STAGES:  # noqa: B007 - named below when it fails
            perform(birth)
    except BaseException as error:
        try:
            number = getattr(error, "errno", None) or errno.EINVAL
            text = f"cannot start {json.dumps(spawn['unit'])}: {error}"
            if isinstance(error, Refused):
                text = error.message
            os.write(report, f"{stage}\n{number}\n{text}".encode(errors="replace")[:4096])
        except BaseException:
            os._exit(126)
    os._exit(127)


# --- units -------------------------------------------------------------------------------------


class Unit:
    """One life of one worker: its leader, and whatever else turns out to belong to it."""

    __slots__ = ("again_s", "is_alive", "key", "pause_s", "pid", "report", "seq", "starttime")

    def __init__(self, key: str, pid: int, seq: int, report: int) -> None:
        self.key = key
        self.pid = pid
        self.seq = seq
        self.report = report  # where a failing stage is told; -1 once the exec is confirmed
        process = look_up(pid)
        assert process is not None, "our own child has not been reaped yet"
        self.starttime = process.starttime
        self.is_alive = True
        self.again_s = 0.0  # when it is being killed: the next round
        self.pause_s = KILL_AGAIN_S[0]


class Stray:
    """A child of ours that no spawn made: its parent died, and it came to us, the subreaper."""

    __slots__ = ("candidates", "pid", "unit")

    def __init__(self, pid: int, unit: Unit | None, candidates: list[Unit]) -> None:
        self.pid = pid
        self.unit = unit
        self.candidates = candidates  # units it could belong to, while `unit` is unknown


class Lineage:
    """Who was seen in whose tree: (pid, starttime) and session numbers, from one survey to the next."""

    __slots__ = ("processes", "sessions")

    def __init__(self) -> None:
        self.processes: dict[int, tuple[int, Unit]] = {}
        self.sessions: dict[int, Unit] = {}


class Trees:
    """The processes of every unit.

    Every descendant hangs below a child of ours: below a leader, or below a stray.  So a unit is
    empty when its leader is reaped and no stray is its own, and only strays need to be attributed.
    """

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}
        self.leaders: dict[int, Unit] = {}
        self.strays: dict[int, Stray] = {}
        self.failed: set[int] = set()  # forked, but a stage failed: only to be reaped
        self.now, self.before = Lineage(), Lineage()
        # Kept open, so that the list can be read when descriptors have run out.
        self.list_fd = (
            os.open(OWN_CHILDREN, os.O_RDONLY | os.O_CLOEXEC) if HAS_CHILDREN_FILE else -1
        )

    def own_children(self) -> list[int]:
        """The pids of our children, exactly: see `children`."""
        if self.list_fd < 0:
            return children_by_parent(os.getpid())
        return [int(pid) for pid in read_fd(self.list_fd).split()]

    def adopt(self) -> None:
        """Find what has become our child, and whose it is.

        Raises:
            OSError: no descriptor or memory to look at them; nothing may be concluded now.
        """
        for stray in self.unknown():  # in the middle of an exec, for one, its mark cannot be read
            process = look_up(stray.pid)
            stray.unit = None if process is None else self.owner(process)
        for pid in self.own_children():
            if pid in self.leaders or pid in self.strays or pid in self.failed:
                continue
            process = look_up(pid)
            if process is None or process.is_dead:
                continue  # reaped at the next SIGCHLD
            unit = self.owner(process)
            candidates = [u for u in self.units.values() if u.starttime <= process.starttime]
            if unit is None and len(candidates) == 1:
                unit = candidates[0]
            self.strays[pid] = Stray(pid, unit, candidates)

    def owner(self, process: Process) -> Unit | None:
        """The unit that an escaped process belongs to: by lineage, by session, by its mark.

        A process group lies within one session, so that the session answers for both.
        """
        for lineage in (self.now, self.before):
            starttime, unit = lineage.processes.get(process.pid, (0, None))
            if unit is not None and starttime == process.starttime and self.has(unit):
                return unit
        for unit in self.units.values():
            if unit.pid == process.session:
                return unit
        for lineage in (self.now, self.before):
            unit = lineage.sessions.get(process.session)
            if unit is not None and self.has(unit):
                return unit
        return self.units.get(mark(process.pid))

    def has(self, unit: Unit) -> bool:
        """It has not become empty yet."""
        return self.units.get(unit.key) is unit

    def roots(self, unit: Unit) -> list[int]:
        """Those of our children below which the unit's processes hang."""
        strays = [stray.pid for stray in self.strays.values() if stray.unit is unit]
        return [unit.pid, *strays] if unit.is_alive else strays

    def members(self, unit: Unit) -> list[Process]:
        """All living processes of the unit that can be found, noted for the time when they escape."""
        found = [process for root in self.roots(unit) for process in walk(root)]
        for process in found:
            self.now.processes[process.pid] = (process.starttime, unit)
            self.now.sessions[process.session] = unit
        return found

    def survey(self) -> None:
        """Note the lineage of everything; what two surveys did not see is forgotten."""
        self.adopt()
        self.before, self.now = self.now, Lineage()
        for unit in self.units.values():
            self.members(unit)

    def unknown(self) -> list[Stray]:
        """The strays that could be of several units, or of none that is left."""
        return [stray for stray in self.strays.values() if stray.unit is None]

    def is_empty(self, unit: Unit) -> bool:
        """Nothing is left that belongs to the unit, or that could."""
        return not unit.is_alive and not any(
            stray.unit is unit or (stray.unit is None and unit in stray.candidates)
            for stray in self.strays.values()
        )


# --- the loop ----------------------------------------------------------------------------------


class Launcher:
    """The main loop: the daemon's requests, the reports of new processes, the deaths of all."""

    def __init__(self, channel: Channel, daemon: int, wake: int, altered: list[int]) -> None:
        self.channel = channel
        self.daemon = daemon  # a pidfd
        self.wake = wake
        self.altered = altered
        self.pid = os.getpid()
        self.poller = select.poll()
        self.trees = Trees()
        self.reports: dict[int, Unit] = {}
        self.killed: set[Unit] = set()
        self.dead: deque[tuple[Unit, int, resource.struct_rusage]] = deque()
        self.is_settled = True
        self.survey_due_s = 0.0

    def run(self) -> None:
        """Serve until the daemon is gone."""
        sock = self.channel.sock.fileno()
        for fd in (sock, self.daemon, self.wake):
            self.poller.register(fd, select.POLLIN)
        while True:
            self.poller.modify(sock, select.POLLIN | (select.POLLOUT if self.channel.queue else 0))
            events = dict(self.poller.poll(self._timeout_ms()))
            for unit in [self.reports[fd] for fd in events if fd in self.reports]:
                self._confirm(unit)
            if self.wake in events:
                drain(self.wake)
                self._reap()
            self.channel.flush()
            if self.daemon in events or (
                events.get(sock, 0) & ~select.POLLOUT and not self._serve()
            ):
                return
            try:
                self._tidy()
            except OSError as error:
                self._put_off(error)

    def _timeout_ms(self) -> float | None:
        now = time.monotonic()
        due = [unit.again_s for unit in self.killed]
        if self.trees.units:
            due.append(self.survey_due_s)
        if not self.is_settled:
            due.append(now + KILL_AGAIN_S[1])
        return max(0.0, min(due) - now) * 1000 + 1 if due else None

    def _put_off(self, error: OSError) -> None:
        """Out of descriptors or memory: nothing was concluded, and soon we look again."""
        if error.errno not in RETRYABLE:
            raise error
        self.is_settled = False

    def _serve(self) -> bool:
        """Do what one message asks for; False when the daemon has closed its end."""
        try:
            message, fds = receive(self.channel.sock)
        except BlockingIOError:
            return True
        except (EOFError, ConnectionResetError):
            return False
        try:
            match message["op"]:
                case "spawn":
                    self._spawn(message, fds)
                case "signal":
                    self._signal(message["unit"], message["signal"], message["scope"])
                case "kill":
                    self._kill(message["unit"])
                case "ping":
                    if not self.channel.queue:  # else what waits there is sign of life enough
                        self.channel.send(op="pong", seq=message["seq"])
                case "list":
                    self._tell_units(message["seq"])
                case other:
                    raise AssertionError(f"the daemon is of our version, yet asks for {other!r}")
        except OSError as error:
            self._put_off(error)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _spawn(self, message: Any, fds: list[int]) -> None:  # Any: JSON
        seq, key = message["seq"], message["unit"]
        stage = "descriptors"
        try:
            if len(fds) != 3 or "argv" not in message:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if key in self.trees.units:
                raise OSError(errno.EEXIST, "this unit lives already")
            report, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stage = "fork"
            message["env"][MARK] = key
            try:
                pid = os.fork()
                if pid == 0:
                    become(message, fds, told, self.pid, self.altered)
            except BaseException:
                os.close(report)
                raise
            finally:
                os.close(told)
        except OSError as error:
            text = f"cannot start {json.dumps(key)}: {str(error.strerror).lower()}"
            self._refuse(seq, key, stage, error.errno or 0, text)
            return
        if not self.trees.units:
            self.survey_due_s = time.monotonic() + SURVEY_S
        unit = Unit(key, pid, seq, report)
        self.trees.units[key] = self.trees.leaders[pid] = self.reports[report] = unit
        self.poller.register(report, select.POLLIN)

    def _refuse(self, seq: int, unit: str, stage: str, number: int, message: str) -> None:
        self.channel.send(
            op="failed",
            seq=seq,
            unit=unit,
            stage=stage,
            errno=number,
            message=message,
            retryable=number in RETRYABLE,
        )

    def _confirm(self, unit: Unit) -> None:
        """Read what the new process has to tell: nothing but the end of the file is success."""
        told = os.read(unit.report, 4096)
        self.poller.unregister(unit.report)
        del self.reports[unit.report]
        os.close(unit.report)
        unit.report = -1
        if not told:
            starttime = unit.starttime
            self.channel.send(
                op="spawned", seq=unit.seq, unit=unit.key, pid=unit.pid, starttime=starttime
            )
            return
        del self.trees.units[unit.key], self.trees.leaders[unit.pid]
        self.killed.discard(unit)
        self.trees.failed.add(unit.pid)
        stage, number, message = told.decode(errors="replace").split("\n", 2)
        self._refuse(unit.seq, unit.key, stage, int(number), message)

    def _reap(self) -> None:
        """Reap every dead child; its pid may be another's from then on."""
        self.is_settled = False
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            unit = self.trees.leaders.get(pid)
            if unit is not None and unit.report >= 0:
                self._confirm(unit)  # its only writer is dead, so that all has been said
            if self.trees.leaders.pop(pid, None) is not None:
                assert unit is not None, "what was popped is what was got"
                unit.is_alive = False
                self.dead.append((unit, status, usage))
            self.trees.strays.pop(pid, None)
            self.trees.failed.discard(pid)

    def _tidy(self) -> None:
        """What follows from deaths and from time: reports, further rounds of SIGKILL, the survey."""
        if not self.is_settled:
            self._settle()
        for unit in [unit for unit in self.killed if unit.again_s <= time.monotonic()]:
            unit.again_s = time.monotonic() + unit.pause_s
            unit.pause_s = min(2 * unit.pause_s, KILL_AGAIN_S[1])
            self._signal_tree(unit, signal.SIGKILL)
        started = time.monotonic()
        if self.trees.units and self.survey_due_s <= started:
            self.survey_due_s = started + SURVEY_S
            self.trees.survey()
            cost = time.monotonic() - started
            self.survey_due_s = started + max(SURVEY_S, cost / SURVEY_SHARE)
            self._settle()

    def _settle(self) -> None:
        """Tell the deaths of leaders and which units are empty; end what is nobody's."""
        trees = self.trees
        trees.adopt()
        while self.dead:
            unit, status, usage = self.dead[0]
            left = len(trees.members(unit))
            self.dead.popleft()
            self.channel.send(
                op="exited",
                unit=unit.key,
                pid=unit.pid,
                status=status,
                rusage={
                    "utime_s": usage.ru_utime,
                    "stime_s": usage.ru_stime,
                    "maxrss_bytes": usage.ru_maxrss * 1024,
                },
                left=left,
            )
        for stray in trees.unknown():
            stray.candidates = [unit for unit in stray.candidates if trees.has(unit)]
            if not all(unit.is_alive for unit in stray.candidates) or not stray.candidates:
                kill_below(stray.pid)
        for unit in [unit for unit in trees.units.values() if trees.is_empty(unit)]:
            del trees.units[unit.key]
            self.killed.discard(unit)
            self.channel.send(op="emptied", unit=unit.key)
        for unit in self.killed:
            if not unit.is_alive:
                unit.again_s = 0.0  # something of it has just escaped from a dead parent
        self.is_settled = True

    def _signal(self, key: str, signum: int, scope: str) -> None:
        unit = self.trees.units.get(key)
        if unit is None:
            return  # it has just become empty, and `emptied` is on its way
        if scope == "tree":
            self._signal_tree(unit, signum)
        elif unit.is_alive:
            signal_child(unit.pid, signum)

    def _kill(self, key: str) -> None:
        unit = self.trees.units.get(key)
        if unit is not None:
            unit.again_s = 0.0
            self.killed.add(unit)

    def _signal_tree(self, unit: Unit, signum: int) -> None:
        """Signal the leader's group at once and every other process of the unit one by one."""
        members: list[Process] = []
        try:
            self.trees.adopt()
            members = self.trees.members(unit)
        finally:
            if unit.is_alive:
                signal_child(-unit.pid, signum)
                if unit.report >= 0:
                    signal_child(unit.pid, signum)  # perhaps not yet in a session of its own
        for process in members:
            if not (unit.is_alive and process.group == unit.pid):
                self._signal_one(process, signum)
        if signum in ENDING:
            for process in members:
                if process.state == b"T":
                    self._signal_one(process, signal.SIGCONT)

    def _signal_one(self, process: Process, signum: int) -> None:
        if process.pid in self.trees.leaders or process.pid in self.trees.strays:
            signal_child(process.pid, signum)
        else:
            signal_other(process, signum)

    def _tell_units(self, seq: int) -> None:
        self.trees.adopt()
        units = [
            {
                "unit": unit.key,
                "pid": unit.pid,
                "starttime": unit.starttime,
                "processes": [process.pid for process in self.trees.members(unit)],
            }
            for unit in self.trees.units.values()
        ]
        unknown = [stray.pid for stray in self.trees.unknown()]
        self.channel.send(op="listed", seq=seq, units=units, unknown=unknown)

    def end(self) -> None:
        """Kill everything below us, again and again, until nothing is left."""
        pause_s = KILL_AGAIN_S[0]
        while True:
            try:
                while os.wait4(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            for pid in self.trees.own_children():
                kill_below(pid)
            select.select([self.wake], [], [], pause_s)
            drain(self.wake)
            pause_s = min(2 * pause_s, KILL_AGAIN_S[1])


def signal_child(pid: int, signum: int) -> None:
    """Signal a child, or with -pid its group; it has not been reaped, so that the number is its own."""
    # No such group yet, or a set-uid program of somebody else's: not an error.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)


def kill_below(pid: int) -> None:
    """SIGKILL a child of ours with all its descendants; those that were missed become ours then."""
    try:
        for process in walk(pid):
            if process.pid != pid:
                signal_other(process, signal.SIGKILL)
    except OSError as error:
        if error.errno not in RETRYABLE:
            raise
    signal_child(pid, signal.SIGKILL)


def drain(fd: int) -> None:
    """Empty a non-blocking pipe."""
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass


def _wake(_signum: int, _frame: object) -> None:
    """SIGCHLD needs a handler of ours to reach the wake-up descriptor (signal.set_wakeup_fd)."""


def main() -> None:
    """Serve the daemon on the other end of the descriptor that the command line names."""
    fd, daemon_pid = int(sys.argv[1]), os.getppid()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    os.closerange(3, fd)
    os.closerange(fd + 1, 2**31 - 1)
    os.set_inheritable(fd, False)
    daemon = os.pidfd_open(daemon_pid)
    if os.getppid() != daemon_pid:
        return  # it died, and this may be the pidfd of a stranger
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, _wake)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    # Python ignores SIGPIPE and SIGXFSZ, and our own starter may have left us more.
    altered = [int(s) for s in signal.valid_signals() if signal.getsignal(s) != signal.SIG_DFL]
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    name = ctypes.create_string_buffer(b"corral-launcher")
    prctl(PR_SET_NAME, ctypes.addressof(name))
    os.chdir("/")
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    channel = Channel(sock)
    gc.freeze()  # what exists now is never collected: a fork shares its pages for longer
    launcher = Launcher(channel, daemon, wake, altered)
    launcher.run()
    launcher.end()


if __name__ == "__main__":
    main()
