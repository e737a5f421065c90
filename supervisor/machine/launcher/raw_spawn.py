"""Spawns a child without running Python in it: compiles the stages of `child_setup` to system calls of a small stub.

A forked interpreter that runs plain Python before its exec touches some 300 pages, each of which has to be copied, and
those of its parent afterwards: 1 ms of 1.4.  The needs of most workers are known before the fork, so the launcher
writes a plan; the new process makes one system call after the other, and shares no memory of the launcher but the
plan (MADV_DONTFORK).  A plan does what `child_setup` does, or nothing that lasts: where a call does not return the
expected value, the process reports that and ends, and the same start is made again by `child_setup`, which can name
the reason.  A spawn that needs more than a plan can hold, or another machine architecture, goes to `child_setup` at
once.  docs/decisions/0005-machine-code.md has the reasons.  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import select
import signal
import struct
import sys

from ..linux import landlock, seccomp
from ..linux.kernel import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG
from .child_setup import OOM_SCORE_ADDED

TYPE_CHECKING = False  # importing typing would cost 10 ms and 1.5 MB
if TYPE_CHECKING:
    from collections.abc import Sequence
    from signal import pthread_sigmask
    from typing import Any
else:
    from _signal import pthread_sigmask  # the C function without signal's enumerations, as in `child_setup`

PLAN_BYTES = 1 << 18
"""Bytes of a plan, mostly arguments and variables; a longer one is left to `child_setup`."""
TEXT_AT = 1 << 14
"""Bytes from the begin of a plan to its strings, after at most 255 calls."""
STEP_BYTES, WORD_BYTES = 64, 8
NOTHING = (0, 0, 0, 0)
"""The arguments of a call without arguments."""
FAILED = 127
FAILED_EARLY, FAILED_LATE = b"<", b">"
"""The reports of a failed plan: before its temporary folder was made, and after."""

# clone(2) or clone3(2), then the plan, whose steps are eight words: the number of a system call, four arguments, the
# least answer, how far above it an answer may be, and the step that comes instead of the next one when it is another.
CODE = bytes.fromhex(
    "f30f1efa"  # endbr64                 where calls through pointers are tracked
    "53"  # push rbx
    "4889fb"  # mov rbx, rdi              the first step
    "4889f0"  # mov rax, rsi              the call that forks, and its arguments
    "4889d7"  # mov rdi, rdx
    "4889ce"  # mov rsi, rcx
    "31d2 4531d2 4531c0"  # xor edx, edx; r10d, r10d; r8d, r8d
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7402"  # jz step
    "5b"  # pop rbx
    "c3"  # ret                           in the parent: the pid, or an errno below zero
    "488b03"  # step: mov rax, [rbx]
    "488b7b08"  # mov rdi, [rbx + 8]
    "488b7310"  # mov rsi, [rbx + 16]
    "488b5318"  # mov rdx, [rbx + 24]
    "4c8b5320"  # mov r10, [rbx + 32]
    "4531c0"  # xor r8d, r8d
    "0f05"  # syscall
    "482b4328"  # sub rax, [rbx + 40]
    "483b4330"  # cmp rax, [rbx + 48]
    "7706"  # ja other
    "4883c340"  # add rbx, 64
    "ebd8"  # jmp step
    "488b5b38"  # other: mov rbx, [rbx + 56]
    "ebd2"  # jmp step
)
MACHINE = "x86_64"
WRITE, CLOSE, SIGACTION, SIGPROCMASK, ACCESS, DUP2, EXECVE = 1, 3, 13, 14, 21, 33, 59
FCNTL, CHDIR, MKDIR, LCHOWN, UMASK, GETPPID, SETSID = 72, 80, 83, 94, 95, 110, 112
SETGROUPS, SETRESUID, SETRESGID, PRCTL, EXIT_GROUP = 116, 117, 119, 157, 231
OPENAT, PRLIMIT, CLOSE_RANGE = 257, 302, 436
CLONE, CLONE3, CLONE_INTO_CGROUP, CLONE_ARGS_BYTES = 56, 435, 1 << 33, 88
F_SETFD, FD_CLOEXEC, SIG_SETMASK, SIGSET_BYTES = 2, 1, 2, 8

PROT_RW, PROT_RX = 3, 5
MADV_DONTFORK, MADV_DOFORK = 10, 11
MAP_FAILED = (1 << 64) - 1
WORD = (1 << 64) - 1
AT_FDCWD = -100 & WORD
NO_ERROR = (0, (1 << 63) - 1)
WHATEVER = (0, WORD)
REPORT, FIRST_FREE = 3, 4
"""The descriptors of a new process: its own three, the report, and what is opened next."""
EVERY_SIGNAL = tuple(signal.valid_signals())
PROCESS_OWN = ("[heap]", "[stack]", "[anon")
"""Bracketed names in /proc/self/maps that are the process's own; any other is the kernel's, such as its clock."""
TRY_S = 5.0
"""Seconds in which a trial plan has to end."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_size_t
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t) + (ctypes.c_int,) * 3 + (ctypes.c_long,)
_libc.mprotect.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
_libc.pthread_self.restype = ctypes.c_size_t
try:
    RSEQ_OFFSET = ctypes.c_ssize_t.in_dll(_libc, "__rseq_offset").value
except ValueError:  # glibc before 2.35, and others, which do not register
    RSEQ_OFFSET = 0


class Unplanned(Exception):
    """Reports that a spawn cannot be expressed as a plan."""


class Plan:
    """Represents a list of system calls for a new process, to be written at `address`."""

    __slots__ = ("address", "text", "words")

    def __init__(self, address: int) -> None:
        self.address = address
        self.words: list[int] = []
        self.text = bytearray()

    def step(self, call: int, *arguments: int, expected: tuple[int, int] = NO_ERROR, otherwise: int = 0) -> None:
        """Appends a system call; an unexpected return value continues at the address `otherwise`."""
        self.words += (call, *arguments, *NOTHING[len(arguments) :], *expected, otherwise)

    def put(self, data: bytes) -> int:
        """Appends bytes, padded to whole words, and returns their address."""
        found = self.address + TEXT_AT + len(self.text)
        self.text += data
        self.text += bytes(-len(data) % 8)
        return found

    def string(self, data: bytes) -> int:
        """Appends a string and returns its address."""
        if 0 in data:
            raise Unplanned
        return self.put(data + b"\0")

    def vector(self, strings: Sequence[bytes]) -> int:
        """Appends a list of strings as execve(2) takes it, and returns its address."""
        addresses = [self.string(each) for each in strings]
        return self.put(struct.pack(f"={len(addresses) + 1}Q", *addresses, 0))

    def here(self, ahead: int = 0) -> int:
        """Returns the address of the next step, or of the one `ahead` steps later."""
        return self.address + WORD_BYTES * len(self.words) + STEP_BYTES * ahead


class RawSpawner:
    """Starts processes by plans; `launcher` is its own pid, `altered` the signals without default handlers."""

    def __init__(self, launcher: int, altered: Sequence[int]) -> None:
        """Maps the stub and tries a plan."""
        if os.uname().machine != MACHINE or struct.calcsize("P") != 8 or sys.byteorder != "little":
            raise OSError(errno.ENOTSUP, f"this is no {MACHINE}")
        self.launcher = launcher
        self.altered = altered
        self.landlock = landlock.abi()
        with open("/proc/self/oom_score_adj", "rb") as file:
            self.score = b"%d" % min(int(file.read()) + OOM_SCORE_ADDED, 1000)
        self.is_memory_excluded = False
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.code = _libc.mmap(None, mmap.PAGESIZE + PLAN_BYTES, PROT_RW, flags, -1, 0)
        if self.code == MAP_FAILED:
            raise OSError(ctypes.get_errno(), "no memory for a plan")
        self.plan = self.code + mmap.PAGESIZE
        ctypes.memmove(self.code, CODE, len(CODE))
        if _libc.mprotect(self.code, mmap.PAGESIZE, PROT_RX):
            raise OSError(ctypes.get_errno(), "no code may be added to a process here")
        self._fork = ctypes.PYFUNCTYPE(ctypes.c_int, *[ctypes.c_size_t] * 4)(self.code)
        self._advise(MADV_DOFORK)  # memory that cannot be included again is never excluded
        try:
            self._try()
        except BaseException:
            self.include_memory()  # there will be other forks
            raise

    def _try(self) -> None:
        """Runs a plan whose exec must fail, since a folder is no program, and checks its report.

        A filter of system calls may end a process for one of them, which a real start would take for success.
        """
        spawn = {
            "argv": ["."],
            "env": {"PATH": "/:/"},
            "cwd": "/",
            "umask": 0o077,
            "nice": 0,
            "user": None,
            "group": None,
            "no_new_privs": True,
            "limits": {"CORE": 0},
            "scope_signals": self.landlock >= landlock.NEEDED_ABI["scope_signals"],
            "scope_limits": seccomp.can_scope_limits(),
        }
        reader, report = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                pid = self._carry_out(*self._planned(spawn, (report,) * 3, report))
            finally:
                os.close(report)
            received = os.read(reader, 2) if select.select([reader], [], [], TRY_S)[0] else b""
        finally:
            os.close(reader)
        if received != FAILED_LATE:
            os.kill(pid, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != FAILED or received != FAILED_LATE:
            raise OSError(errno.ENOTSUP, "a plan does not work here")

    def start(self, spawn: Any, fds: Sequence[int], report: int) -> int | None:  # Any: JSON
        """Starts a process by a plan and returns its pid, or None where `child_setup` has to do it."""
        try:
            if spawn.get("cgroup") is not None:
                pid = self._start_in_group(spawn, fds, report)
                if pid is not None:
                    return pid
            return self._carry_out(*self._planned(spawn, fds, report))
        except (Unplanned, ValueError, struct.error):  # a value that the kernel does not take, or too many
            return None

    def _start_in_group(self, spawn: Any, fds: Sequence[int], report: int) -> int | None:  # Any: JSON
        """Starts as `start` does, in the cgroup from the first instruction on; None where the kernel refuses that.

        Moving a process takes the kernel 10 to 20 ms, unless another was moved a moment ago: it waits until nothing
        forks or ends anywhere.  For a process that has not begun it does not wait.
        """
        try:
            group = os.open(spawn["cgroup"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None  # its plan moves it there, or reports why not
        try:
            return self._carry_out(*self._planned(spawn, fds, report, moves=False), group)
        except OSError:
            return None  # Linux before 5.7, a filter, a group that takes none
        finally:
            os.close(group)

    def _planned(
        self, spawn: Any, fds: Sequence[int], report: int, *, moves: bool = True
    ) -> tuple[Plan, int]:  # Any: JSON
        """Returns a plan and the address of its first step; without `moves` the process is in its cgroup already."""
        landlocked = ("read_paths", "write_paths", "connect_ports")
        scoped = spawn.get("scope_signals", False)
        identity = spawn.get("identity")
        if spawn["nice"] or spawn.get("sockets"):  # LISTEN_PID is known after the fork alone
            raise Unplanned
        if spawn.get("terminal") or spawn.get("sandbox") is not None:
            raise Unplanned
        if identity is None and (spawn["user"], spawn["group"]) != (None, None):
            raise Unplanned
        if any(spawn.get(name) is not None for name in landlocked):
            raise Unplanned
        if scoped and self.landlock < landlock.NEEDED_ABI["scope_signals"]:
            raise Unplanned
        plan = Plan(self.plan)
        at_once, early, late = self._ends(plan, report)
        first = plan.here()
        # First the calls that cannot fail, and the descriptors: no others stay open while a slow disk holds the process.
        default = plan.put(bytes(32))
        for signum in self.altered:
            plan.step(SIGACTION, signum, default, 0, SIGSET_BYTES, expected=WHATEVER)
        for target, fd in enumerate(fds):
            plan.step(DUP2, fd, target, otherwise=at_once)
        plan.step(DUP2, report, REPORT, otherwise=at_once)
        plan.step(FCNTL, REPORT, F_SETFD, FD_CLOEXEC, otherwise=early)
        plan.step(CLOSE_RANGE, FIRST_FREE, 2**32 - 1, otherwise=early)
        if moves:
            self._plan_group(plan, spawn, early)
        plan.step(SETSID, otherwise=early)
        self._plan_score(plan)
        if spawn.get("temporary") is not None:
            temporary = plan.string(os.fsencode(spawn["temporary"]))
            plan.step(MKDIR, temporary, 0o700, otherwise=early)
            if identity is not None:
                plan.step(LCHOWN, temporary, *identity[:2], otherwise=late)
        self._plan_limits(plan, spawn["limits"], late)
        if identity is not None:
            uid, gid, groups = identity
            self._plan_user(plan, uid, gid, groups, late)
        plan.step(PRCTL, PR_SET_PDEATHSIG, signal.SIGKILL, otherwise=late)
        plan.step(GETPPID, expected=(self.launcher, 0), otherwise=late)
        plan.step(CHDIR, plan.string(os.fsencode(spawn["cwd"])), otherwise=late)
        plan.step(UMASK, spawn["umask"], expected=WHATEVER)
        if spawn["no_new_privs"]:
            plan.step(PRCTL, PR_SET_NO_NEW_PRIVS, 1, otherwise=late)
        if scoped:
            sockets = landlock.SCOPE_ABSTRACT_SOCKET if spawn.get("scope_sockets", False) else 0
            rules = plan.put(struct.pack("=3Q", 0, 0, landlock.SCOPE_SIGNAL | sockets))
            opened = (FIRST_FREE, 0)
            plan.step(landlock.SYS_CREATE_RULESET, rules, 24, 0, expected=opened, otherwise=late)
            plan.step(landlock.SYS_RESTRICT_SELF, FIRST_FREE, 0, otherwise=late)
        if spawn.get("scope_limits", False):
            program = seccomp.limits_program(MACHINE)
            encoded = plan.put(seccomp.header(program, plan.put(program)))
            mode, flags = seccomp.SET_MODE_FILTER, seccomp.SPEC_ALLOW
            plan.step(seccomp.SECCOMP[MACHINE], mode, flags, encoded, otherwise=late)
        plan.step(SIGPROCMASK, SIG_SETMASK, default, 0, SIGSET_BYTES, otherwise=late)
        self._plan_program(plan, spawn, late)
        plan.step(EXIT_GROUP, FAILED)
        return plan, first

    def _ends(self, plan: Plan, report: int) -> tuple[int, int, int]:
        """Returns where a failed plan continues: while `report` is not in its place, before and after the folder."""
        ends: list[int] = []
        for fd, word in ((report, FAILED_EARLY), (REPORT, FAILED_EARLY), (REPORT, FAILED_LATE)):
            ends.append(plan.here())
            plan.step(WRITE, fd, plan.put(word), 1, expected=WHATEVER)
            plan.step(EXIT_GROUP, FAILED)
        return ends[0], ends[1], ends[2]

    def _plan_group(self, plan: Plan, spawn: Any, otherwise: int) -> None:  # Any: JSON
        group = spawn.get("cgroup")
        if group is not None:
            path = plan.string(os.fsencode(f"{group}/cgroup.procs"))
            opened = (FIRST_FREE, 0)
            flags = os.O_WRONLY | os.O_CLOEXEC
            plan.step(OPENAT, AT_FDCWD, path, flags, expected=opened, otherwise=otherwise)
            plan.step(WRITE, FIRST_FREE, plan.put(b"0"), 1, otherwise=otherwise)
            plan.step(CLOSE, FIRST_FREE, otherwise=otherwise)

    def _plan_score(self, plan: Plan) -> None:
        path, score = plan.string(b"/proc/self/oom_score_adj"), plan.put(self.score)
        flags = os.O_WRONLY | os.O_CLOEXEC
        plan.step(OPENAT, AT_FDCWD, path, flags, otherwise=plan.here(3))
        plan.step(WRITE, FIRST_FREE, score, len(self.score), expected=WHATEVER)
        plan.step(CLOSE, FIRST_FREE, expected=WHATEVER)

    def _plan_limits(self, plan: Plan, limits: dict[str, int], otherwise: int) -> None:
        for name, value in sorted(limits.items(), key=lambda item: item[0] == "AS"):
            kind = getattr(resource, f"RLIMIT_{name}", None)
            if kind is None:
                raise Unplanned
            hard = value
            if name == "CPU":
                _soft, ceiling = resource.getrlimit(kind)
                if value >= 0 and (ceiling < 0 or value < ceiling):
                    hard = value + 1  # as in `child_setup`
            pair = plan.put(struct.pack("=2q", value, hard))  # -1 is none, and no more fits in Python's
            plan.step(PRLIMIT, 0, kind, pair, otherwise=otherwise)

    def _plan_user(self, plan: Plan, uid: int, gid: int, groups: list[int], otherwise: int) -> None:
        if (uid, gid) == (os.geteuid(), os.getegid()) and uid != 0:
            return  # as in `child_setup`
        listed = plan.put(struct.pack(f"={len(groups)}I", *groups))
        plan.step(SETGROUPS, len(groups), listed, otherwise=otherwise)
        plan.step(SETRESGID, gid, gid, gid, otherwise=otherwise)
        plan.step(SETRESUID, uid, uid, uid, otherwise=otherwise)

    def _plan_program(self, plan: Plan, spawn: Any, otherwise: int) -> None:  # Any: JSON
        """Plans the exec of the first program that exists; `child_setup` finds out why one cannot be run."""
        argv: list[str] = spawn["argv"]
        env: dict[str, str] = spawn["env"]
        name = argv[0] if argv else ""
        if not name or any(not key or "=" in key for key in env):
            raise Unplanned
        arguments = plan.vector([os.fsencode(word) for word in argv])
        variables = plan.vector([os.fsencode(f"{key}={value}") for key, value in env.items()])
        path = env.get("PATH", os.defpath)
        tries = [name] if "/" in name else [f"{folder or '.'}/{name}" for folder in path.split(":")]
        if len(tries) > 64:
            raise Unplanned
        for program in tries:
            address = plan.string(os.fsencode(program))
            if len(tries) > 1:
                plan.step(ACCESS, address, os.F_OK, otherwise=plan.here(2))
            plan.step(EXECVE, address, arguments, variables, expected=(1, 0), otherwise=otherwise)
        plan.step(GETPPID, expected=(0, 0), otherwise=otherwise)  # in none of the folders

    def _carry_out(self, plan: Plan, first: int, group: int | None = None) -> int:
        how = (CLONE, int(signal.SIGCHLD), 0)
        if group is not None:
            asked = struct.pack("=11Q", CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, *[0] * 5, group)
            how = (CLONE3, plan.put(asked), CLONE_ARGS_BYTES)
        steps = struct.pack(f"={len(plan.words)}Q", *plan.words)
        if len(steps) > TEXT_AT or TEXT_AT + len(plan.text) > PLAN_BYTES:
            raise Unplanned
        ctypes.memmove(plan.address, steps, len(steps))
        text = bytes(plan.text)
        ctypes.memmove(plan.address + TEXT_AT, text, len(text))
        self.exclude_memory()
        # A handler of the launcher would look for memory that the new process does not have.
        before = pthread_sigmask(signal.SIG_SETMASK, EVERY_SIGNAL)
        try:
            pid: int = self._fork(first, *how)
        finally:
            pthread_sigmask(signal.SIG_SETMASK, before)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def exclude_memory(self) -> None:
        """Excludes the launcher's memory from processes that are forked by a plan."""
        if not self.is_memory_excluded:
            self.is_memory_excluded = True
            self._advise(MADV_DONTFORK)

    def include_memory(self) -> None:
        """Includes the launcher's memory again, for a fork that runs Python."""
        if self.is_memory_excluded:
            self._advise(MADV_DOFORK)
            self.is_memory_excluded = False

    def _advise(self, advice: int) -> None:
        """Advises the kernel on all mappings; memory mapped later is forked too, which costs time only."""
        # The kernel writes to the thread's registration for rseq(2), in a new process too.
        thread = _libc.pthread_self()
        kept = (thread, thread + RSEQ_OFFSET)
        end_of_plan = self.plan + PLAN_BYTES
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            lines = [line.split(maxsplit=5) for line in maps]
        number = 0
        for span, *fields in lines:
            begin, end = (int(word, 16) for word in span.split("-"))
            name = fields[4] if len(fields) == 5 else ""
            if self.code <= begin < end_of_plan:
                begin = end_of_plan  # the kernel has joined the neighbouring mapping to it
            is_kernels = name.startswith("[") and not name.startswith(PROCESS_OWN)
            if begin >= end or is_kernels or any(begin <= address < end for address in kept):
                continue
            if _libc.madvise(begin, end - begin, advice):
                # A part that was given back since it was listed is ENOMEM, after all that is there was advised.
                number = 0 if ctypes.get_errno() == errno.ENOMEM else ctypes.get_errno()
        if number and advice == MADV_DOFORK:
            raise OSError(number, os.strerror(number))
