"""Performs the upgrades of a running daemon: proves the next program, waits until all that lives can be handed over, hands it over.

Until everything is at rest nothing has changed: a refusal lets the daemon go on as if nothing had been asked. Executes nothing
itself: the daemon does so when its store is closed.
"""

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from corral import __version__
from corral.supervisor.faces.services.services import AgentServices
from corral.supervisor.faces.socket.unix import Listener
from corral.supervisor.records.logs.capture_pipe import hold_pipes
from corral.supervisor.records.store.schema import OPENING_BYTES
from corral.worker.contract.errors import Conflict, CorralError
from corral.worker.control.params import UpgradeParams
from corral.worker.control.results import Upgraded

from ..composition.groups import Groups
from ..host.installation import read_config
from .handover import Handover, Program, write
from .proof import prove
from .replacement import Adoption

HOLD_S = 0.25
"""Seconds for which callers are not served at a time while calls end that were begun."""

LOOK_S = 0.005
"""Seconds between two looks whether everything is at rest."""

NAMED = 5
"""Number of obstacles that a refusal names."""

if TYPE_CHECKING:
    from corral.supervisor.faces.http.server import HttpServer  # aiohttp: only who wants HTTP pays

logger = logging.getLogger(__name__)


class Upgrades:
    """Lets other programs take the place of this one, which may have taken that of another."""

    def __init__(self, groups: Groups, started: float, adoption: Adoption | None) -> None:
        self._groups = groups
        self._started = started
        self._adoption = adoption
        self._answer: Upgraded | None = None
        self._asked_before = 0  # calls of this method that the program before has taken
        self._listener: Listener | None = None
        self._web: HttpServer | None = None
        self._services: AgentServices | None = None
        self._is_busy = False
        self._loop = asyncio.get_running_loop()
        self.count = 0 if adoption is None else adoption.handover.upgrades - bool(adoption.returned)
        self.ready: asyncio.Future[tuple[Program, Handover, int]] = self._loop.create_future()
        """The next program, and what it goes on from, as soon as everything is at rest."""

    def serve(self, listener: Listener, web: "HttpServer | None", services: AgentServices) -> None:
        """Hands the connections over, too."""
        self._listener, self._web, self._services = listener, web, services

    def arrived(self) -> Upgraded:
        """Notes that this program goes on in the place of another; returns what it is."""
        assert self._adoption is not None, "it goes on from a handover"
        left = self._adoption.handover
        calls = [request for each in left.listener.connections for request in each.channel.requests]
        self._asked_before = sum(request.method == "daemon.upgrade" for request in calls)
        gap_s = round(self._loop.time() - left.held_at, 3)
        before = left.before.version
        self._answer = self._upgraded(sys.executable, __version__, before, gap_s)
        return self._answer

    async def perform(self, params: UpgradeParams) -> Upgraded:
        """Performs an upgrade; this program answers a check or a refusal, and the next one answers the rest.

        Raises:
            Conflict: the next program cannot go on, or something cannot be handed over.
        """
        if self._asked_before:
            self._asked_before -= 1
            assert self._adoption is not None, "a program before was asked"
            assert self._answer is not None, "it has arrived"
            if self._adoption.returned:
                text = f"cannot upgrade: the next program gave the process back: {self._adoption.returned}"
                raise Conflict(text, reason="returned")
            return self._answer
        if self._is_busy:
            raise Conflict("cannot upgrade: an upgrade is under way", reason="in-progress")
        self._is_busy = True
        try:
            program = Program(params.python or sys.executable, tuple(_arguments(sys.argv[1:])), __version__)
            version = await self._prove(program)
            if params.check:
                return self._upgraded(program.python, version, __version__, 0.0)
            self.ready.set_result((program, *await self._at_rest(params.timeout_s)))
        finally:
            self._is_busy = self.ready.done()
        await self._loop.create_future()  # the next program answers
        raise AssertionError("this one is replaced")

    def _upgraded(self, python: str, version: str, before: str, gap_s: float) -> Upgraded:
        return Upgraded(
            pid=os.getpid(), python=python, version=version, before=before, upgrades=self.count, gap_s=gap_s
        )

    async def _prove(self, program: Program) -> str:
        """Returns the version of the next program."""
        groups, config = self._groups, read_config(self._groups.paths.config)
        if config != groups.agents.agents.overrides.file:
            text = "cannot upgrade: the configuration file has changed since it was read: corral reload comes first"
            raise Conflict(text, reason="config")
        level = groups.config.daemon.log_level
        if replace(config.daemon, log_level=level) != groups.config.daemon or config.cluster != groups.config.cluster:
            text = "cannot upgrade: the configuration has keys that take effect when corrald starts: stop and start it"
            raise Conflict(text, reason="config")
        _check_room(groups.paths.state_dir)
        fd = write(self._handover(0.0))
        try:
            return (await prove(program, fd)).version
        finally:
            os.close(fd)

    @property
    def _served(self) -> "Mapping[str, HttpServer]":
        return {} if self._services is None else self._services.servers

    @property
    def _servers(self) -> "list[HttpServer]":
        return [*([] if self._web is None else [self._web]), *self._served.values()]

    def _handover(self, held_at: float) -> Handover:
        groups, listener = self._groups, self._listener
        assert listener is not None, "the daemon serves"
        return Handover(
            before=Program(sys.executable, tuple(_arguments(sys.argv[1:])), __version__),
            started=self._started,
            held_at=held_at,
            upgrades=self.count + 1,
            log_level=groups.daemon_log.level,
            journal_stream=groups.daemon_log.journal_stream,
            launcher=groups.workers.launcher.hand_over(),
            agents=groups.agents.agents.hand_over(),
            tasks=groups.tasks.tasks.hand_over(),
            subscriptions=groups.tasks.pubsub.hand_over(),
            http=None if self._web is None else self._web.hand_over(),
            services={name: server.hand_over() for name, server in self._served.items()},
            sockets=groups.workers.shared.sockets.hand_over(),
            zygotes=groups.workers.shared.zygotes.hand_over(),
            listener=listener.hand_over(),
        )

    async def _at_rest(self, timeout_s: float) -> tuple[Handover, int]:
        """Returns the handover and its descriptor as soon as nothing is under way that it cannot have; then nothing more is read.

        Callers are held for short times only, until the calls that were begun have ended.
        """
        give_up_at = self._loop.time() + timeout_s
        while True:
            held_at = self._loop.time()
            self._hold()
            try:
                while found := self._obstacles():
                    if self._loop.time() >= min(held_at + HOLD_S, give_up_at):
                        break
                    await asyncio.sleep(LOOK_S)
                else:
                    for server in self._servers:
                        server.hold()  # connections whose requests have ended since
                    handover = self._handover(held_at)
                    fd = write(handover)
                    self._leave()
                    return handover, fd
            except BaseException:
                self._release()
                raise
            self._release()
            if self._loop.time() >= give_up_at:
                more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
                text = f"cannot upgrade within {timeout_s:g} s: {'; '.join(found[:NAMED])}{more}"
                raise Conflict(text, reason="busy", obstacles=found)
            await asyncio.sleep(HOLD_S)

    def _hold(self) -> None:
        """Reads nothing more of callers and workers, and begins no task, until `_release`."""
        assert self._listener is not None, "the daemon serves"
        self._listener.hold()
        for server in self._servers:
            server.hold()
        self._groups.agents.agents.hold()

        self._groups.tasks.tasks.hold()
        self._groups.tasks.schedules.hold()

    def _leave(self) -> None:
        """Does nothing more with what was handed over."""
        assert self._listener is not None, "the daemon serves"
        self._groups.workers.launcher.hold()
        self._groups.workers.shared.zygotes.hold()
        hold_pipes()
        self._groups.agents.agents.leave()
        self._listener.leave()

    def _release(self) -> None:
        """Reads and begins again."""
        assert self._listener is not None, "the daemon serves"
        self._groups.tasks.schedules.release()
        self._groups.tasks.tasks.release()
        self._groups.agents.agents.release()
        for server in self._servers:
            server.release()
        self._listener.release()

    def _obstacles(self) -> list[str]:
        groups, listener = self._groups, self._listener
        assert listener is not None, "the daemon serves"
        launcher, agents = groups.workers.launcher, groups.agents
        found = [] if launcher.is_settled else ["a process is being started"]
        zygotes = groups.workers.shared.zygotes
        owned = zygotes.units | {each.life.unit for each in agents.agents.registry.lives() if each.life is not None}
        found += [f'process "{unit}" runs' for unit in launcher.units if unit not in owned]
        found += [*zygotes.obstacles(), *agents.agents.obstacles()]
        found += ["a deployment is under way"] if agents.deployments.is_busy else []
        found += groups.tasks.tasks.obstacles()
        found += ["a schedule is being run"] if groups.tasks.schedules.is_busy else []
        found += ["a question is being asked or ended"] if groups.tasks.approvals.is_busy else []
        found += listener.obstacles()
        config = groups.config
        found += [words for server in self._servers for words in server.obstacles()]
        found += ["an address of a service is being changed"] if self._services and self._services.is_changing else []
        found += ["this daemon is a node of a cluster"] if config.cluster is not None else []
        return found


async def on_signal(upgrades: Upgrades) -> None:
    """Performs an upgrade that SIGUSR2 asks for; a refusal is in the daemon's log."""
    try:
        await upgrades.perform(UpgradeParams())
    except CorralError as error:
        logger.error("%s", error.message)


def _check_room(folder: Path) -> None:
    """Refuses an upgrade while the state folder takes nothing: no program can begin there, the present one included."""
    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            os.posix_fallocate(trial.fileno(), 0, OPENING_BYTES)
    except OSError as error:
        text = f'cannot upgrade: "{folder}" takes no {OPENING_BYTES // 1024} KiB more: {error.strerror}'
        raise Conflict(text, reason="state-folder", errno=error.errno) from error


def _arguments(given: Sequence[str]) -> list[str]:
    """Returns the options of the command line without those of an upgrade."""
    return [each for each in given if not each.startswith(("--take-up", "--returned"))]
