"""Turns a forked process into a worker between fork and exec, or reports which stage failed and why.

The order of the stages is a contract, and so are their names.  Everything here runs in the child, in plain Python,
which is safe only in a small process with one thread.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import itertools
import json
import os
import pwd
import resource
import signal

from ..linux import landlock, seccomp
from ..linux.kernel import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from signal import SIG_DFL, pthread_sigmask
    from signal import signal as set_handler
    from typing import NoReturn, TypedDict

    from ..linux.network_namespace import MapWriter

    class Confinement(TypedDict, total=False):
        """Holds the optional fields of a request: placement and restrictions, see `process.parent.Launch`."""

        cgroup: str | None
        temporary: str | None
        read_paths: list[str] | None
        write_paths: list[str] | None
        connect_ports: list[int] | None
        scope_signals: bool
        scope_sockets: bool
        scope_limits: bool
        identity: tuple[int, int, list[int]] | None
        sockets: int
        terminal: bool
        sandbox: Sandbox | None

    class Sandbox(TypedDict):
        """Holds how a leader contains its program, see `isolation.levels.Sandbox`."""

        kind: str
        arguments: list[str]
        filter: str
        listen: list[int]
        agent: str
        hosts: list[str]
        unit: str
        pid: int
        pidfd: int

    class Spawn(Confinement):
        """Holds a spawn request of the daemon; its three descriptors, and its sockets, travel beside it."""

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


if not TYPE_CHECKING:
    # The C functions without signal's enumerations.  Each page that is touched between fork and exec has to be copied:
    # this way there are 45 fewer of 330, and a spawn costs a tenth less.
    from _signal import SIG_DFL, pthread_sigmask
    from _signal import signal as set_handler

TIOCSCTTY = 0x540E
"""Number of the ioctl that makes a terminal that of this session, see ioctl_tty(2)."""
PAGE_BYTES = 4096
"""Bytes that fit into any pipe, see pipe(7)."""
ARGUMENTS, FILTER, STATUS = SANDBOX_WORDS = ("@arguments", "@filter", "@status")
"""Words of a sandbox's command line that stand for the numbers of descriptors: its arguments, the seccomp filter, the
report."""
INNER_PID = "2"
"""Pid that a program has in a pid namespace of bubblewrap, whose own process is the first."""
OOM_SCORE_ADDED = 200
"""Number of points by which the kernel's OOM killer prefers a worker to the daemon, see proc(5), oom_score_adj."""


class Refused(Exception):
    """Reports a failed stage: errno, one line that a person can act on, and facts for programs."""

    def __init__(self, number: int, message: str, **facts: str) -> None:
        super().__init__(message)
        self.errno = number
        self.facts = facts


class ChildSetup:
    """Performs the stages from fork to exec in the new process; each is one method that may raise Refused or OSError."""

    def __init__(self, spawn: Spawn, fds: list[int], report: int, launcher: int) -> None:
        self.spawn = spawn
        self.fds = fds
        self.report = report
        self.launcher = launcher
        self.identity = self._look_up_identity()
        sandbox = spawn.get("sandbox")
        self.ports = sandbox["listen"] if sandbox is not None else []
        self.joined = sandbox if sandbox is not None and sandbox["kind"] == "join" else None
        self.map_writer: MapWriter | None = None
        # The daemon takes the sockets of a new network there.
        self.handover = fds.pop() if self.ports else -1

    def _look_up_identity(self) -> tuple[str, int, int, list[int]] | None:
        """Returns name, uid, gid and groups to change to; looks them up here, in the child, since NSS may be slow."""
        user, group = self.spawn["user"], self.spawn["group"]
        if user is None and group is None:
            return None
        uid, gid, groups = self.spawn.get("identity") or identity_of(user, group)
        return user or str(uid), uid, gid, groups

    def _join_cgroup(self) -> None:
        cgroup = self.spawn.get("cgroup")
        if cgroup is None:
            return
        try:
            fd = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")  # ourselves; a buffered write would hide what the kernel says
            finally:
                os.close(fd)
        except OSError as error:
            number = error.errno or errno.EIO
            why = os.strerror(number).lower()
            raise Refused(number, f"cannot join cgroup {quoted(cgroup)}: {why}") from None

    def _enter_session(self) -> None:
        os.setsid()

    def _enter_network(self) -> None:
        """Enters a network of its own with a loopback, and hands the sockets that listen there to the daemon; or joins one."""
        if self.joined is not None:
            from . import sandbox_entry  # noqa: PLC0415 - seldom asked for

            sandbox_entry.join_network(self.joined["pid"], self.joined["pidfd"])
        if not self.ports:
            return
        from ..linux import network_namespace  # noqa: PLC0415 - seldom asked for

        try:
            network_namespace.enter(self.handover, self.ports)
        except network_namespace.Refused as refused:
            if refused.errno != errno.EPERM or os.geteuid() != 0 or not self._is_to_be_another:
                raise _no_network(refused) from None
            assert self.identity is not None, "it is to be another user"
            self.map_writer = network_namespace.MapWriter(*self.identity[1:3])

    @property
    def _is_to_be_another(self) -> bool:
        return self.identity is not None and self.identity[1] != 0

    def _enter_network_as_user(self) -> None:
        """Enters the network as the user of the program, where root lacks the capability."""
        if self.map_writer is None:
            return
        from ..linux import network_namespace  # noqa: PLC0415 - seldom asked for

        try:
            network_namespace.enter(self.handover, self.ports, self.map_writer)
        except network_namespace.Refused as refused:
            raise _no_network(refused) from None

    def _set_limits(self) -> None:
        # The address space comes last: after it, this interpreter may have no room for the others.
        for name, value in sorted(self.spawn["limits"].items(), key=lambda item: item[0] == "AS"):
            kind = getattr(resource, f"RLIMIT_{name}", None)
            if kind is None:
                raise Refused(errno.EINVAL, f"cannot set limit {quoted(name)}: unknown on this machine")
            _soft, ceiling = resource.getrlimit(kind)
            hard = value
            if name == "CPU" and value >= 0 and (ceiling < 0 or value < ceiling):
                hard = value + 1  # the hard limit ends with SIGKILL, the soft one with SIGXCPU
            try:
                resource.setrlimit(kind, (value, hard))
            except (ValueError, OverflowError):
                text = f"cannot set limit {quoted(name)} to {value}: the hard limit is {ceiling}"
                raise Refused(errno.EPERM, text) from None

    def _raise_oom_score(self) -> None:
        # Best effort: a protection of the daemon that no specification asks for.  /proc may be absent, and the score
        # may be at its maximum.  It may always be raised, never lowered again.
        with contextlib.suppress(OSError, ValueError):
            fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            try:
                score = min(int(os.read(fd, 16)) + OOM_SCORE_ADDED, 1000)
                os.pwrite(fd, b"%d" % score, 0)
            finally:
                os.close(fd)

    def _set_nice(self) -> None:
        if self.spawn["nice"]:
            try:
                os.nice(self.spawn["nice"])
            except PermissionError as error:
                text = f'cannot set nice to "{self.spawn["nice"]}": it needs privileges'
                raise Refused(error.errno or errno.EPERM, text) from None
            # Where the kernel makes a group of each session, nice counts within that alone, see sched(7).
            with contextlib.suppress(OSError):
                fd = os.open("/proc/self/autogroup", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, b"%d" % self.spawn["nice"])
                finally:
                    os.close(fd)

    def _make_temporary(self) -> None:
        path = self.spawn.get("temporary")
        if path is None:
            return
        try:
            os.mkdir(path, 0o700)  # and never one that is there: it may be anybody's
            if self.identity is not None:
                os.chown(path, self.identity[1], self.identity[2], follow_symlinks=False)
        except OSError as error:
            number = error.errno or errno.EIO
            why = os.strerror(number).lower()
            raise Refused(number, f"cannot make temporary folder {quoted(path)}: {why}") from None

    def _change_user(self) -> None:
        if self.identity is None:
            return
        name, uid, gid, groups = self.identity
        if (uid, gid) == (os.geteuid(), os.getegid()) and uid != 0:
            return  # already so, and an ordinary user may not repeat the calls
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except PermissionError as error:
            text = f"cannot run as user {quoted(name)}: uid {os.getuid()} may not change its user"
            if self.spawn["user"] is None:
                group = quoted(self.spawn["group"] or "")
                text = f"cannot run as group {group}: uid {os.getuid()} may not change its group"
            raise Refused(error.errno or errno.EPERM, text) from None

    def _die_with_parent(self) -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.launcher:
            os._exit(125)  # the launcher died before PDEATHSIG was set

    def _join_sandbox(self) -> None:
        """Continues inside the sandbox of another unit."""
        if self.joined is None:
            return
        from ..linux import joining  # noqa: PLC0415 - seldom asked for
        from . import sandbox_entry  # noqa: PLC0415 - likewise

        pid, pidfd = self.joined["pid"], self.joined["pidfd"]
        try:
            sandbox_entry.enter(pid, pidfd, self.report, self.launcher)
        except joining.Refused as refused:
            raise self._not_joined(refused) from None

    def _not_joined(self, refused: Exception) -> Refused:
        assert self.joined is not None, "it was to be joined"
        text = f"cannot join the sandbox of {quoted(self.joined['unit'])}: {refused}"
        return Refused(getattr(refused, "errno", errno.EPERM), text)

    def _change_folder(self) -> None:
        cwd = self.spawn["cwd"]
        try:
            os.chdir(cwd)
        except OSError as error:
            number = error.errno or 0
            reasons = {
                errno.ENOENT: "it does not exist",
                errno.ENOTDIR: "it is not a folder",
                errno.EACCES: f"uid {os.getuid()} may not enter it",
            }
            why = reasons.get(number, os.strerror(number).lower())
            raise Refused(number, f"cannot enter working directory {quoted(cwd)}: {why}") from None

    def _set_umask(self) -> None:
        os.umask(self.spawn["umask"])

    def _set_no_new_privs(self) -> None:
        if self.spawn["no_new_privs"]:
            prctl(PR_SET_NO_NEW_PRIVS, 1)

    def _restrict(self) -> None:
        spawn = self.spawn
        paths = spawn.get("read_paths"), spawn.get("write_paths")
        ports, scope_signals = spawn.get("connect_ports"), spawn.get("scope_signals", False)
        scopes = (scope_signals, spawn.get("scope_sockets", False))
        if paths == (None, None) and ports is None and not any(scopes):
            self._scope_limits()
            return
        self._make_room()
        try:
            landlock.restrict(
                read_paths=paths[0],
                write_paths=paths[1],
                connect_ports=ports,
                scope_signals=scope_signals,
                scope_sockets=spawn.get("scope_sockets", False),
                temporary=spawn.get("temporary"),
            )
            if ports is not None:
                seccomp.only_plain_connects()
            self._scope_limits()
        except landlock.Impossible as error:
            path = error.facts.get("path")
            what = error.key if path is None else f"{error.key} {quoted(path)}"
            text = f"cannot hold {what}: {error.why}"
            raise Refused(error.errno, text, key=f"process.{error.key}", **error.facts) from None
        except seccomp.Unknown as error:
            text = f"cannot hold connect_ports: no filter is known for {error}"
            raise Refused(errno.EOPNOTSUPP, text, key="process.connect_ports") from None

    def _scope_limits(self) -> None:
        if self.spawn.get("scope_limits", False):
            seccomp.only_own_limits()

    def _filter_calls(self) -> None:
        if self.joined is not None:  # the first process of another sandbox does it itself
            seccomp.install(bytes.fromhex(self.joined["filter"]))

    def _make_room(self) -> None:
        # The few descriptors that Landlock takes have to fit below the limit: those of the launcher are closed first.
        kept = sorted({0, 1, 2, self.report, *self.fds})
        for below, above in itertools.pairwise((*kept, 2**31 - 1)):
            os.closerange(below + 1, above)

    def _close_files(self) -> None:
        for target, fd in enumerate(self.fds):
            os.dup2(fd, target)
        os.closerange(len(self.fds), self.report)
        os.closerange(self.report + 1, 2**31 - 1)
        if self.spawn.get("terminal"):
            fcntl.ioctl(0, TIOCSCTTY, 0)  # it leads a session by now, which has none

    def _sandbox_words(self, argv: list[str]) -> list[str]:
        """Opens the descriptors that a sandbox takes, and returns its command line with their numbers."""
        sandbox = self.spawn.get("sandbox")
        if sandbox is None or self.joined is not None:
            return argv
        first = len(self.fds)
        numbers = {word: str(first + at) for at, word in enumerate(SANDBOX_WORDS)}
        arguments = [numbers.get(word, word) for word in sandbox["arguments"]]
        text = b"".join(os.fsencode(word) + b"\0" for word in arguments)
        for data in (text, bytes.fromhex(sandbox["filter"])):
            fd = os.memfd_create("corral-sandbox", 0)  # the next free number
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.lseek(fd, 0, os.SEEK_SET)
        os.dup2(self.report, first + 2)  # it stays open: the sandbox reports, too
        end = argv.index("--")
        return [*(numbers.get(word, word) for word in argv[:end]), *argv[end:]]

    def _execute(self) -> None:
        argv, env = self.spawn["argv"], self.spawn["env"]
        if self.spawn.get("sockets"):  # sd_listen_fds(3): only this process, not what it forks
            env["LISTEN_PID"] = INNER_PID if self.spawn.get("sandbox") else str(os.getpid())
        argv = self._sandbox_words(argv)
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
                if "/" in name or os.path.exists(program):  # else it is a folder of PATH that the user may not enter
                    forbidden = forbidden or program
            except OSError as error:
                number = error.errno or 0
                raise Refused(number, _not_executed(program, number)) from None
        if forbidden:
            raise Refused(errno.EACCES, _forbidden(forbidden))
        if "/" in name:
            raise Refused(errno.ENOENT, f"cannot run {quoted(name)}: no such file")
        text = f"cannot run {quoted(name)}: no such program in PATH"
        raise Refused(errno.ENOENT, text, search_path=path)

    # The order is a contract.  The cgroup comes first, since what is forked or counted from then on
    # must be inside; the OOM score and the folder before the user, who may no more; another's sandbox with no more rights
    # than that user has; Landlock after no_new_privs, which it needs.
    STAGES = (
        ("cgroup", _join_cgroup),
        ("session", _enter_session),
        ("network", _enter_network),
        ("oom-score", _raise_oom_score),
        ("temporary", _make_temporary),
        ("limits", _set_limits),
        ("nice", _set_nice),
        ("user", _change_user),
        ("user-network", _enter_network_as_user),
        ("parent", _die_with_parent),
        ("sandbox", _join_sandbox),
        ("chdir", _change_folder),
        ("umask", _set_umask),
        ("no-new-privs", _set_no_new_privs),
        ("landlock", _restrict),
        ("seccomp", _filter_calls),
        ("files", _close_files),
        ("exec", _execute),
    )


def _no_network(refused: Exception) -> Refused:
    number = getattr(refused, "errno", errno.EPERM)
    return Refused(number, f"cannot hold network: {refused}", key="process.network")


def identity_of(user: str | None, group: str | None) -> tuple[int, int, list[int]]:
    """Returns uid, gid and supplementary groups of a user and a group, each a name or a number; None is the current one.

    It may take as long as the databases of users take, see nsswitch.conf(5).
    """
    uid, gid, name = os.getuid(), os.getgid(), None
    if user is not None:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        except KeyError:
            text = f"cannot run as user {quoted(user)}: no such user"
            raise Refused(errno.ENOENT, text) from None
        uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
    if group is not None:
        try:
            found = grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)
        except KeyError:
            text = f"cannot run as group {quoted(group)}: no such group"
            raise Refused(errno.ENOENT, text) from None
        gid = found.gr_gid
    return uid, gid, [gid] if name is None else os.getgrouplist(name, gid)


def _without_interpreter(program: str) -> str:
    """Returns the reason for an ENOENT of a script that exists: its interpreter does not."""
    try:
        with open(program, "rb") as script:
            first = script.readline(256)
    except OSError:
        first = b""
    if not first.startswith(b"#!"):
        return f"cannot run {quoted(program)}: the dynamic loader that it names does not exist"
    words = os.fsdecode(first[2:]).split()
    interpreter = quoted(words[0] if words else "")
    return f"cannot run {quoted(program)}: its interpreter {interpreter} does not exist"


def _not_executed(program: str, number: int) -> str:
    reasons = {
        errno.ENOEXEC: 'it is no program for this machine, and no script that starts with "#!"',
        errno.E2BIG: "its arguments and environment are too large for the kernel",
        errno.ELOOP: "too many symbolic links",
        errno.ETXTBSY: "another process is writing to it",
        errno.EAGAIN: f"uid {os.getuid()} has as many processes as it may have",
        errno.ENOMEM: "there is not enough memory",
    }
    return f"cannot run {quoted(program)}: {reasons.get(number, os.strerror(number).lower())}"


def _forbidden(program: str) -> str:
    if os.path.isdir(program):
        return f"cannot run {quoted(program)}: it is a folder"
    if os.path.exists(program) and not os.access(program, os.X_OK):
        return f"cannot run {quoted(program)}: the file is not executable for uid {os.getuid()}"
    return f"cannot run {quoted(program)}: permission denied to uid {os.getuid()}"


def quoted(value: str) -> str:
    """Returns the value in double quotes, on one line, cut to 200 characters."""
    return json.dumps(value if len(value) <= 200 else value[:199] + "…", ensure_ascii=False)


def encode_failure(stage: str, error: BaseException, unit: str) -> bytes:
    """Encodes a failure report: four lines, together at most PAGE_BYTES, so that a pipe always has room."""
    number = getattr(error, "errno", None) or errno.EINVAL
    facts: dict[str, str] = {}
    if isinstance(error, Refused):
        text, facts = str(error), error.facts
    else:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = f"cannot start {quoted(unit)}: {reason.lower()}".replace("\n", " ")
    data = json.dumps(facts, ensure_ascii=False).encode(errors="replace")
    lines = f"{stage}\n{number}\n{text[:500]}\n".encode(errors="replace")
    return lines + (data if len(data) <= PAGE_BYTES // 2 else b"{}")


def decode_failure(report: bytes) -> tuple[str, int, str, dict[str, str]]:
    """Decodes a failure report to stage, errno, message and facts."""
    stage, number, message, data = report.decode().split("\n")
    return stage, int(number), message, json.loads(data)


def out_of_the_way(fds: list[int], report: int, more: int = 0) -> tuple[list[int], int]:
    """Returns the same descriptors and the report, duplicated where a later dup2 to 0, 1, 2… would overwrite them.

    `more` is the number of descriptors that are opened behind them.
    """
    free = len(fds) + more
    moved = [fd if fd >= free else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for fd in fds]
    if report < free:
        report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, free)
    return moved, report


def become(spawn: Spawn, fds: list[int], report: int, launcher: int, altered: list[int]) -> NoReturn:
    """Performs every stage in the child; a failing one is written to the descriptor `report`, and the child ends."""
    stage = "user"
    try:
        signal.set_wakeup_fd(-1)
        fds, report = out_of_the_way(fds, report, len(SANDBOX_WORDS) if spawn.get("sandbox") else 0)
        for signum in altered:
            set_handler(signum, SIG_DFL)
        pthread_sigmask(signal.SIG_SETMASK, ())
        setup = ChildSetup(spawn, fds, report, launcher)
        for stage, perform in ChildSetup.STAGES:  # noqa: B007 - named below when it fails
            perform(setup)
    except BaseException as error:
        try:
            os.write(report, encode_failure(stage, error, spawn["unit"]))
        except BaseException:
            os._exit(126)
    os._exit(127)
