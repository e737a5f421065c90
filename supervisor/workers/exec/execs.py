"""Starts commands of an operator beside workers, and tracks those that run.

A command gets the Launch of its worker with another program: nothing is computed here that the worker has not got. It is
killed when its worker ends. Their number is bounded, for each worker and altogether.
"""

import itertools

from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.errors import Conflict, NotFound, ResourceLimitExceeded

from ..containers.files import entering, has_started, record_of
from ..process.launch import Host, inside, prepare
from ..process.launcher_client import Launcher
from ..process.parent import Exit, Launch
from ..supervision.incarnation import Incarnation
from ..supervision.worker_supervisor import WorkerSupervisor
from .command import Command, Ends, ExecRequest

COMMANDS, COMMANDS_OF_WORKER = 64, 8
"""Number of commands that run at once: altogether, and beside one worker."""


class Execs:
    """Runs the commands of all operators of one daemon."""

    def __init__(self, launcher: Launcher, host: Host, generation: int) -> None:
        self._launcher = launcher
        self._host = host
        self._generation = generation
        self._numbers = itertools.count(1)
        self._commands: dict[str, Command] = {}
        self._workers: dict[str, str] = {}
        self._hosts: dict[str, Incarnation] = {}
        self._owners: dict[str, object] = {}

    async def start(self, supervisor: WorkerSupervisor, wanted: ExecRequest, owner: object) -> Command:
        """Starts a command beside a worker; `owner` is the connection that alone may write to it."""
        life = self._life(supervisor)
        unit = f"{supervisor.id}.exec#{self._generation}.{next(self._numbers)}"
        self._check_room(supervisor.id)
        self._workers[unit] = supervisor.id
        ends: Ends | None = None
        try:
            launch = replace(await self._launch(supervisor.spec, life, wanted), unit=unit)
            owner_ids = None if launch.identity is None else launch.identity[:2]
            ends = Ends(wanted.size, owner_ids, has_input=wanted.has_input)
            command = Command(unit, supervisor.id, supervisor.spec.name, ends, self._launcher)
            self._commands[unit] = command
            self._hosts[unit] = life
            self._owners[unit] = owner
            if supervisor.life is not life:
                raise _gone(supervisor.id)
            command.pid = await self._launcher.spawn_guest(launch, self, life.unit, ends.given_away())
        except BaseException:
            self.forget(unit)
            if ends is not None:
                ends.close()
            raise
        if launch.read_paths is not None:
            command.hold_proc()
        if supervisor.life is not life or supervisor.worker.exited:
            command.end(f'worker "{supervisor.id}" has ended')
        return command

    def forget(self, unit: str) -> None:
        """Forgets a command that has ended."""
        self._workers.pop(unit, None)
        self._commands.pop(unit, None)
        self._hosts.pop(unit, None)
        self._owners.pop(unit, None)

    def of(self, unit: str, owner: object) -> Command:
        """Returns a running command."""
        command = self._commands.get(unit)
        if command is None or self._owners.get(unit) is not owner:
            raise NotFound(f'cannot find command "{unit}": none of this connection', exec=unit)
        return command

    def leaders(self) -> dict[int, str]:
        """Returns the pids of all running commands with the names of their agents."""
        return {each.pid: each.agent for each in self._commands.values() if each.pid is not None}

    # -- reports of the launcher

    def exited(self, report: Exit) -> None:
        """Takes the exit of a command."""
        command = self._commands.get(report.unit)
        if command is None:
            return  # its start has failed
        if report.lost:
            command.reason = command.reason or report.cause
        if not command.exit.done():
            command.exit.set_result(report)

    def emptied(self, unit: str) -> None:
        """Takes the news that no process of a command is left."""
        command = self._commands.get(unit)
        if command is not None:
            command.emptied.set()

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Ends the commands beside a worker that has ended."""
        life = supervisor.life
        if life is None or not supervisor.worker.exited:
            return
        for unit, host in self._hosts.items():
            if host is life:
                self._commands[unit].end(f'worker "{supervisor.id}" has ended')

    # -- starting

    async def _launch(self, spec: Spec, life: Incarnation, wanted: ExecRequest) -> Launch:
        """Returns the Launch of a command, in the isolation of its worker."""
        if life.container is not None:
            return _in_container(life, life.container, wanted)
        launch = await prepare(spec, self._host, life.unit)
        if launch.sandbox is None:
            return _beside(launch, life, wanted)
        return _beside(inside(launch, launch.sandbox, life.unit), life, wanted)

    @staticmethod
    def _life(supervisor: WorkerSupervisor) -> Incarnation:
        life = supervisor.life
        if life is None or life.child is None or supervisor.worker.exited:
            raise _gone(supervisor.id)
        if life.frozen_for:
            reasons = ", ".join(sorted(life.frozen_for))
            raise Conflict(
                f'cannot run a command in worker "{supervisor.id}": it is frozen ({reasons})',
                worker=supervisor.id,
                reason="frozen",
            )
        return life

    def _check_room(self, worker: str) -> None:
        workers = list(self._workers.values())
        for count, limit, where in (
            (len(workers), COMMANDS, "altogether"),
            (workers.count(worker), COMMANDS_OF_WORKER, f'in worker "{worker}"'),
        ):
            if count >= limit:
                raise ResourceLimitExceeded(
                    f"cannot run another command {where}: {limit} run already", limit="exec", value=limit
                )


def _beside(launch: Launch, life: Incarnation, wanted: ExecRequest) -> Launch:
    """Returns the Launch of a command from that of its worker."""
    env = dict(launch.env)
    if life.temporary is not None and launch.temporary is not None:
        env["TMPDIR"] = life.temporary  # a fork of a zygote may have another than is computed
    read_paths, write_paths = launch.read_paths, launch.write_paths
    if launch.temporary is not None and write_paths is not None:
        write_paths = [*write_paths, env["TMPDIR"]]
    elif launch.temporary is not None and read_paths is not None:
        read_paths = [*read_paths, env["TMPDIR"]]
    group = life.parent.cgroup_of(life.unit)
    return replace(
        launch,
        argv=tuple(wanted.argv),
        env={**env, **wanted.environment},
        cwd=wanted.folder if wanted.folder is not None else launch.cwd,
        temporary=None,  # made already, and removed with the worker
        read_paths=read_paths,
        write_paths=write_paths,
        join_cgroup=None if group is None else str(group),
        terminal=wanted.size is not None,
    )


def _in_container(life: Incarnation, folder: str, wanted: ExecRequest) -> Launch:
    """Returns the Launch of the engine that runs a command in a container."""
    record = record_of(folder)
    if record is None or not has_started(folder):
        raise _gone(life.unit)
    options = [f"--env={name}={value}" for name, value in wanted.environment.items()]
    if wanted.size is not None:
        options.append("--tty")
    if wanted.folder is not None:
        options += [record.folder_option, wanted.folder]
    group = life.parent.cgroup_of(life.unit)
    return Launch(
        unit=life.unit,
        argv=entering(record, wanted.argv, options),
        env=record.env,
        cwd="/",
        no_new_privs=False,
        join_cgroup=None if group is None else str(group),
        terminal=wanted.size is not None,
    )


def _gone(worker: str) -> Conflict:
    return Conflict(
        f'cannot run a command in worker "{worker}": it has no process now', worker=worker, reason="not-running"
    )
