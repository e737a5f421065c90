"""Spawns, signals and kills processes through the launcher, and reports their exits: the daemon's side of it.

It guarantees that every spawned unit is reported once as exited and once as empty, even when the launcher itself is
killed or hangs: then every process below it is killed and reaped here, and a new launcher is started.  It never blocks
the loop.  It knows processes, not agents.

The messages, in both directions JSON objects over SOCK_SEQPACKET (see `launcher.protocol`):

    → spawn {seq, unit, argv, env, cwd, umask, nice, user, group, identity, no_new_privs, limits,
        memory_bytes, cpu_percent, processes, temporary, read_paths, write_paths, connect_ports, scope_signals, scope_sockets,
        scope_limits, sockets, sandbox, lease} + 3 descriptors, and the listening sockets
    → signal {unit, signal, scope: leader|tree}    → kill {unit}    → freeze {unit}    → thaw {unit}
    → ping {seq}    → list {seq}
    → lease {token, kill_at}: kills the units of this lease at that time of CLOCK_BOOTTIME, and those of others now
    ← spawned {seq, unit, pid, starttime, inner}: inner is the pid of the program in a sandbox, else 0
    ← failed {seq, unit, stage, errno, message, retryable, data}
    ← exited {unit, pid, status, rusage {utime_s, stime_s, maxrss_bytes}, oom}
    ← emptied {unit}    ← roots {unit, pids}: its escaped processes, whenever they change
    ← moved {pid}, refused {errno, message}: at the start, where a PID namespace was requested
    ← unplanned {reason}: at the start, where plans of system calls do not work (see `launcher.raw_spawn`)
    ← pong {seq}    ← listed {seq, units: [{unit, pid, starttime, processes}], unknown: [pids]}
"""

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from corral.supervisor.machine.isolation.levels import Sandbox
from corral.supervisor.machine.linux import cgroup, kernel, pid_namespace
from corral.supervisor.machine.linux.cgroup import Groups
from corral.worker.contract.errors import ShuttingDown, SpawnFailed, Timeout

from ..usage.limits import oom_of
from . import containment, orphans
from .containment import Containment, Subtree, Wanted
from .launcher_link import Link, close_all
from .parent import Child, Exit, Launch, ParentClient, Scope, UnitHandover, UnitOwner, failed

__all__ = ["Child", "Exit", "Launch", "Launcher", "Listed", "Scope", "UnitOwner"]

SILENCE_S = 5.0
"""Seconds of silence after which a launcher is replaced."""
START_S = 10.0
"""Seconds within which a new launcher has to answer."""
CLOSE_S = 5.0
"""Seconds that `close` waits for each of: the last units, the launcher's own end, the last orphan."""
RETRY_S = (0.1, 5.0)
"""Seconds of the first and of the longest pause between two attempts to start a new launcher."""
LIST_S = 5.0

log = logging.getLogger(__name__)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """Lists a unit and all of its living processes, as the launcher sees them now."""

    unit: str
    pid: int
    starttime: int
    processes: list[int]


class LauncherHandover(msgspec.Struct, frozen=True, kw_only=True):
    """Holds what the next program goes on from: the process, the descriptor of its socket, and the units.

    A launcher outlives the programs that use it, so its messages are a contract between neighbouring versions.
    """

    pid: int
    socket_fd: int
    is_inside: bool
    seq: int
    unplanned: str
    units: tuple[UnitHandover, ...]

    @property
    def descriptors(self) -> list[int]:
        """Returns the descriptors that are handed over."""
        return [self.socket_fd]


class Door(Protocol):
    """Serves the workers that have a network of their own at one port in it."""

    def open(self, unit: str, sandbox: Sandbox, listener_fd: int) -> None:
        """Serves a worker at a socket in its network, which belongs to this object from now on."""
        ...

    def close(self, unit: str) -> None:
        """Ends the serving of a unit that is gone; units without a socket are ignored."""
        ...


class Launcher(ParentClient):
    """Represents the launcher process and its units; for use in one event loop.

    The owner of a unit is told of its end, see `ParentClient`.  `on_lost` is called when the launcher has died and its
    units have been reported; a new launcher starts by itself.  Each listening socket in a worker's own network is given
    to the door of its port.

    A dead launcher's processes are reparented to this process.  Where other parts of it have children too, only those
    are killed that are known to be the launcher's: by pid, session, mark or parents.  `sole_parent` promises that there
    are no others.
    """

    def __init__(
        self,
        *,
        on_lost: Callable[[], None] = lambda: None,
        python: str = sys.executable,
        sole_parent: bool = False,
        silence_s: float = SILENCE_S,
        state_dir: Path | None = None,
        tier: Wanted = "auto",
        pid_namespace: bool = False,
    ) -> None:
        super().__init__("the launcher")
        self._on_lost = on_lost
        self._doors: dict[int, Door] = {}
        self._python = python
        self._sole_parent = sole_parent
        self._silence_s = silence_s
        self._state_dir = state_dir
        self._tier: Wanted = tier
        self._pid_namespace = pid_namespace
        self._state = secrets.randbits(kernel.BRAND_BITS) if state_dir is None else containment.state_number(state_dir)
        self._subtree: Subtree | None = None
        self._containment = Containment()
        self.unplanned = ""
        """The launcher's reason for spawning without plans (see `launcher.raw_spawn`); empty where it uses them."""
        self._lists: dict[int, asyncio.Future[list[Listed]]] = {}
        self._guests: dict[str, tuple[str, ...]] = {}
        self._lease: tuple[int, float] | None = None
        self._pid = 0
        self._link: Link | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()  # the launcher answers, or `close` was called
        self._closing = asyncio.Event()

    @property
    def pid(self) -> int:
        """Returns the pid of the launcher that runs now."""
        return self._pid

    @property
    def containment(self) -> Containment:
        """Returns how the units' processes are contained; known once the launcher has started."""
        return self._containment

    @property
    def groups(self) -> Groups | None:
        """Returns the parent of the units' cgroups; None without cgroups."""
        return None if self._subtree is None else self._subtree.groups

    def cgroup_of(self, unit: str) -> Path | None:
        """Returns the folder of a living unit's cgroup; None if it has none."""
        if self._subtree is None or unit not in self._units:
            return None
        return self._subtree.unit(unit)

    def slice_of(self, tenant: str) -> Path | None:
        """Returns the folder of the group above a tenant's units, whether it exists or not; None without cgroups."""
        if self._subtree is None:
            return None
        return Path(cgroup.slice_of(str(self._subtree.path), tenant))

    async def start(self, left: LauncherHandover | None = None) -> None:
        """Kills processes that an earlier daemon left, starts the launcher, and returns when it answers.

        With `state_dir`, every process of an earlier Launcher of that folder is killed: the caller makes sure that the
        earlier daemon is dead.  Below a delegated cgroup this process moves to a leaf.  With what another program of this
        process has `left`, nothing is killed or started: `take_up` follows, before which nothing is spawned.
        """
        assert self._supervisor is None, "a Launcher starts once"
        await self._prepare(is_empty=left is None)
        orphans.become_subreaper()
        if left is not None:
            return
        try:
            await self._begin()
        except BaseException:
            orphans.undo_subreaper()
            if self._subtree is not None:
                self._subtree.remove()
            raise
        self._watch()

    def _watch(self) -> None:
        self._supervisor = asyncio.create_task(self._supervise(), name="launcher-supervisor")
        self._supervisor.add_done_callback(_complain)

    # --- from one program of this process to the next -----------------------------------------

    @property
    def units(self) -> Sequence[str]:
        """Returns the units that have processes, or are about to."""
        return list(self._units)

    @property
    def is_settled(self) -> bool:
        """Returns whether the launcher answers, and has been sent all that it was asked."""
        return self._ready.is_set() and self._link is not None and not len(self._link.channel) and not self._is_starting

    def hand_over(self) -> LauncherHandover:
        """Returns what the next program goes on from; for one that `is_settled`."""
        if self._link is None:
            raise failed("launcher", "launcher", errno.EAGAIN, "it is being replaced")
        units = tuple(unit.hand_over() for unit in self._units.values())
        return LauncherHandover(
            pid=self._pid,
            socket_fd=self._link.channel.fd,
            is_inside=self._link.is_inside,
            seq=self._seq,
            unplanned=self.unplanned,
            units=units,
        )

    def hold(self) -> None:
        """Reads nothing more of what the launcher sends: it stays in the socket for the next program."""
        assert self._link is not None, "it is settled"
        self._ready.clear()  # what is to be started from now on is started by the next program
        self._link.hold()

    def take_up(self, left: LauncherHandover, owners: Mapping[str, UnitOwner]) -> None:
        """Goes on from what the program before has left; a unit without an owner is killed."""
        self._seq, self.unplanned = left.seq, left.unplanned
        process = left.pid, os.pidfd_open(left.pid), socket.socket(fileno=left.socket_fd)
        self._link = Link(process, self._on_message, self._silence_s, is_inside=left.is_inside)
        self._pid, self._channel = left.pid, self._link.channel
        self._link.watch()
        self._ready.set()
        self._take_up_units(left.units, owners)
        self._watch()

    def serve(self, port: int, door: Door) -> None:
        """Gives `door` the sockets at which the workers' own networks listen on a port, before the first of them starts."""
        self._doors[port] = door

    async def spawn(
        self,
        launch: Launch,
        owner: UnitOwner,
        *,
        pipe_stdin: bool = True,
        pipe_stdout: bool = True,
        stdin_fd: int | None = None,
        sockets: Sequence[int] = (),
    ) -> Child:
        """Starts a process, and returns when its exec has been confirmed.

        Without a pipe the child has /dev/null there, or as its stdin `stdin_fd`.  It inherits `sockets` as descriptors 3,
        4…: as many as `launch` says.  All of these are closed here in any case.  A spawn that is cancelled leaves no
        process, and no callback follows it.
        """
        try:
            await self._ready.wait()
            if self._closing.is_set():
                raise ShuttingDown(f'cannot start "{launch.unit}": the launcher is closing')
            assert self._channel is not None, "it is there while the launcher is ready"
        except BaseException:
            close_all([*([] if stdin_fd is None else [stdin_fd]), *sockets])
            raise
        stdin = pipe_stdin if stdin_fd is None else stdin_fd
        if launch.sandbox is None or not launch.sandbox.listen:
            return await self._spawn(
                launch, self._unit(launch.unit, owner), stdin=stdin, pipe_stdout=pipe_stdout, more=sockets
            )
        ours, theirs = socket.socketpair()
        with ours:
            more = (*sockets, theirs.detach())
            unit = self._unit(launch.unit, owner)
            child = await self._spawn(launch, unit, stdin=stdin, pipe_stdout=pipe_stdout, more=more)
            # The program runs, so that its network has been handed over.
            _data, fds, _flags, _address = socket.recv_fds(ours, 1, len(launch.sandbox.listen), socket.MSG_DONTWAIT)
        for port, fd in zip(launch.sandbox.listen, fds, strict=True):
            if port in self._doors and launch.unit in self._units:
                self._doors[port].open(launch.unit, launch.sandbox, fd)
            else:
                os.close(fd)
        return child

    def set_lease(self, token: int, kill_at_s: float) -> None:
        """Sets the time of CLOCK_BOOTTIME at which the launcher kills the units of this lease, unless it is set again.

        Units of other leases are killed at once.  A unit whose lease is not in force is not started.
        """
        self._lease = token, kill_at_s
        self._send_lease()

    def _send_lease(self) -> None:
        if self._lease is not None and self._channel is not None:
            token, kill_at_s = self._lease
            self._channel.send({"op": "lease", "token": token, "kill_at": kill_at_s})

    async def spawn_guest(self, launch: Launch, owner: UnitOwner, host: str, fds: Sequence[int]) -> int:
        """Starts a process that counts as one of the unit `host`, until it ends; returns its pid.

        Its stdin, stdout and stderr are `fds`, which are closed here in any case. `host` may be of a zygote. The caller
        kills the guest when its host ends.
        """
        if not self._ready.is_set() or self._closing.is_set():
            close_all(fds)
            raise ShuttingDown(f'cannot start "{launch.unit}": the launcher is not ready')
        self._guests[host] = (*self._guests.get(host, ()), launch.unit)
        try:
            return await self._spawn_at(launch, owner, fds)
        except BaseException:
            self._forget_guest(launch.unit)
            raise

    def guest_roots(self, host: str) -> tuple[int, ...]:
        """Returns the processes below which all guests of a unit are."""
        guests = self._guests.get(host)
        return () if guests is None else tuple(pid for each in guests for pid in self.roots(each))

    def _forget_guest(self, unit: str) -> None:
        for host, guests in list(self._guests.items()):
            if unit in guests:
                self._guests[host] = tuple(each for each in guests if each != unit)
                if not self._guests[host]:
                    del self._guests[host]

    def _forget(self, key: str) -> None:
        if self._guests:
            self._forget_guest(key)
        for door in self._doors.values():
            door.close(key)
        super()._forget(key)

    async def listed(self) -> list[Listed]:
        """Returns all units with their processes, as the launcher finds them now."""
        await self._ready.wait()
        if self._link is None:
            return []
        seq = self._next_seq()
        answer: asyncio.Future[list[Listed]] = asyncio.get_running_loop().create_future()
        self._lists[seq] = answer
        self._link.channel.send({"op": "list", "seq": seq})
        try:
            async with asyncio.timeout(LIST_S):
                return await answer
        except TimeoutError:
            raise Timeout("cannot list the processes: the launcher does not answer") from None
        finally:
            del self._lists[seq]

    async def close(self) -> None:
        """Kills every unit, reports its end, and ends the launcher; takes bounded time, may be called again."""
        if self._supervisor is None or self._closing.is_set():
            return
        self._closing.set()
        for unit in self._units:
            self.kill(unit)
        await self._until_idle(CLOSE_S)
        self._ready.set()
        if self._subtree is not None:
            self._subtree.release()
        if self._link is not None:
            self._link.hang_up()  # at the end of the file it kills all remaining processes, and ends
        done, _ = await asyncio.wait([self._supervisor], timeout=CLOSE_S)
        if not done:
            if self._link is not None:
                self._link.kill()
            await asyncio.wait([self._supervisor], timeout=2 * CLOSE_S)
            self._supervisor.cancel()
        orphans.undo_subreaper()
        if self._subtree is not None:
            self._subtree.remove()

    # --- one launcher process ----------------------------------------------------------------

    async def _prepare(self, *, is_empty: bool) -> None:
        """Determines the containment; kills processes of an earlier daemon of the state folder, where it has to be empty."""
        reason = "cgroups were not asked for"
        if self._state_dir is not None and self._tier != "launcher":
            try:
                self._subtree = containment.claim(self._state_dir)
                if is_empty:
                    await self._subtree.clear()
            except containment.Refusal as refusal:
                reason = str(refusal)
        if self._tier == "cgroup" and self._subtree is None:
            raise failed("launcher", "cgroup", errno.ENOTSUP, reason)
        self._containment = containment.contained(self._subtree, reason, pid_namespace=self._pid_namespace)
        if is_empty and self._state_dir is not None and (met := await orphans.sweep(self._state)):
            log.warning("%d processes of an earlier daemon were left, and have been killed", met)

    async def _begin(self) -> None:
        """Starts a launcher process and waits for its first answer."""
        options: dict[str, object] = {"state": self._state, "pid_namespace": self._pid_namespace}
        if self._subtree is not None:
            options |= {"group": str(self._subtree.path), "group_name": self._subtree.name}
        self.unplanned = ""
        try:
            link = Link.started(self._python, options, self._on_message, self._silence_s)
        except OSError as error:
            raise failed("launcher", "launcher", error.errno or 0, str(error.strerror)) from error
        self._link, self._pid, self._channel = link, link.pid, link.channel
        self._send_lease()
        ended = asyncio.create_task(link.ended.wait())
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((ended, ready), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            ready.cancel()
            if not self._ready.is_set() or link.ended.is_set():
                link.kill()
                link.channel.read()  # the reason of its end, if it sent one
                link.reap()
                self._link = self._channel = None
                if not self._closing.is_set():
                    self._ready.clear()
        if link.refusal is not None:
            number, reason = link.refusal
            raise failed("launcher", "pid-namespace", number, f"this machine gives it no pid namespace: {reason}")
        if self._link is None:
            raise failed("launcher", "launcher", errno.ECHILD, "it does not answer")
        self._pid = link.pid
        link.watch()

    async def _supervise(self) -> None:
        """Replaces the launcher whenever it ends, until `close`."""
        while True:
            assert self._link is not None, "a launcher answers before it is kept"
            await self._link.ended.wait()
            await self._clean_up(self._link)
            if self._closing.is_set():
                return
            log.error("the launcher has died; its workers were killed, and a new one is started")
            self._on_lost()
            pause_s = RETRY_S[0]
            while not self._ready.is_set():
                try:
                    await self._begin()
                except SpawnFailed as error:
                    log.error("%s; trying again in %.1f s", error, pause_s)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await self._closing.wait()
                            return
                    pause_s = min(2 * pause_s, RETRY_S[1])

    async def _clean_up(self, link: Link) -> None:
        """Reports every unit of a dead launcher as lost, and kills the processes that it left behind."""
        link.channel.read()  # its last messages are valid
        self._ready.clear()
        sessions = {link.pid, *(unit.pid for unit in self._units.values() if unit.pid)}
        link.reap()
        self._link = None
        self._report_lost("the launcher died, and its workers with it")
        if self._subtree is not None:
            self._subtree.kill()
        await orphans.OrphanedTree(
            sessions=sessions,
            groups=None if self._subtree is None else self._subtree.groups,
            state=self._state,
            units=self._units,
            sole_parent=self._sole_parent,
        ).end(self._closing.is_set)
        if self._subtree is not None:
            await self._subtree.clear()
        for key in list(self._units):
            self._forget(key)
        if self._closing.is_set():
            self._ready.set()

    # --- messages from the launcher ------------------------------------------------------------

    def _on_message(self, message: Any) -> None:  # Any: JSON
        match message["op"]:
            case "pong":
                self._ready.set()
            case "unplanned":
                self.unplanned = message["reason"]
            case "spawned":
                (pid,) = self._ours([message["pid"]]) or (0,)  # 0: it has ended already
                inner = message["inner"] and self._ours([message["inner"]], deep=True)
                self._on_spawned(message["unit"], pid, message["starttime"], inner[0] if inner else 0)
            case "failed":
                facts = {key: message[key] for key in ("unit", "stage", "errno", "retryable")}
                text, data = message["message"], message["data"]
                error = SpawnFailed(text, result="exec-failed", **facts, **data)
                self._on_failed(message["unit"], error)
            case "exited":
                facts = {key: message[key] for key in ("unit", "status")}
                pid = self._units[message["unit"]].pid
                self._on_exited(Exit(pid=pid, oom=oom_of(message["oom"]), **facts, **message["rusage"]))
            case "roots":
                self._units[message["unit"]].strays = self._ours(message["pids"])
            case "emptied":
                self._forget(message["unit"])
            case "listed":
                answer = self._lists.get(message["seq"])
                if answer is not None and not answer.done():
                    listed = msgspec.convert(message["units"], list[Listed])
                    answer.set_result([self._seen(unit) for unit in listed])
            case other:
                raise AssertionError(f"the launcher is of our version, yet says {other!r}")

    def _ours(self, pids: Sequence[int], *, deep: bool = False) -> tuple[int, ...]:
        """Returns the pids as this process sees them; processes that are gone are left out."""
        if self._link is None or not self._link.is_inside:
            return tuple(pids)
        return tuple(pid_namespace.ours(self._link.pid, pids, deep=deep).values())

    def _seen(self, listed: Listed) -> Listed:
        if self._link is None or not self._link.is_inside:
            return listed
        processes = list(self._ours(listed.processes, deep=True))
        return msgspec.structs.replace(listed, pid=self._units[listed.unit].pid, processes=processes)


def _complain(supervisor: asyncio.Task[None]) -> None:
    if not supervisor.cancelled() and (error := supervisor.exception()) is not None:
        context = {"message": "the supervisor of the launcher has failed", "exception": error}
        supervisor.get_loop().call_exception_handler(context)
