"""Runs the daemon: serves with the rooms that `composition` has made, and takes them down in order.

On the way down: nothing new is accepted, workers are stopped (what others require last), the launcher
ends, the store is closed, the socket is removed. Then nothing is left.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from corral import __version__
from corral.supervisor.api.group import ApiGroup
from corral.supervisor.api.table.status import WebPlace
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.faces.socket.socket_lock import SocketLock, group_id
from corral.supervisor.records.audit.log import daemon_record
from corral.supervisor.records.backup.adoption import adopt
from corral.supervisor.records.logs.capture_pipe import hold_pipes, release_pipes
from corral.supervisor.records.logs.daemon_log import DaemonLog
from corral.worker.contract.errors import CorralError, SpawnFailed

from .composition.faces import export_figures, make_listener, make_services
from .composition.groups import Groups, make_groups, start_launcher
from .composition.life import Room, close, life_of, load, settle, start
from .composition.method_table import compose_api
from .host.installation import Paths, built_in, raise_descriptor_limit, read_config
from .host.lifeline import EndSignal, Lifeline
from .host.self_checks import SelfChecks
from .host.service_manager import ServiceManager
from .host.state_folder import check_state_folder, open_store
from .retention import expire
from .upgrade.handover import Handover, Program
from .upgrade.replacement import Adoption, execute, giving_back
from .upgrade.upgrades import Upgrades, on_signal

if TYPE_CHECKING:
    from corral.supervisor.faces.http.server import HttpServer
    from corral.supervisor.faces.services.services import Listen

BEAT_S = 1.0
"""Seconds between two checks of the daemon's own: stalls, moved log files, the watchdog."""

MAX_NAMES = 200
"""Number of agents that the audit's record of a start names; it has the number of all."""


logger = logging.getLogger(__name__)


async def run(
    config: Config,
    paths: Paths,
    daemon_log: DaemonLog,
    inherited: socket.socket | None = None,
    lifeline: Lifeline | None = None,
    adoption: Adoption | None = None,
) -> None:
    """Runs the daemon until SIGTERM or SIGINT, or the end of `lifeline`; returns when nothing of it is left.

    `daemon_log` is its log, and stays open; `inherited` is the control socket where the service manager listens already.
    With an `adoption` it goes on from what another program of this process has left. It does not return when a next one
    takes its own place.
    """
    for key, group in (("group", config.daemon.group), ("readers", config.daemon.readers)):
        if group is not None:
            group_id(group, f"daemon.{key}")
    left = None if adoption is None else adoption.handover
    started = asyncio.get_running_loop().time() if left is None else left.started
    end = EndSignal(lifeline)
    os.umask(0o077)
    raise_descriptor_limit()
    lock = _lock(paths, inherited, left)
    next_program: tuple[Program, Handover, int] | None = None
    async with contextlib.AsyncExitStack() as outermost:
        outermost.callback(lock.release)  # the last thing: the next daemon may start then
        manager = outermost.enter_context(ServiceManager(os.environ, os.getpid()))
        async with contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as processes:
            with giving_back(adoption):
                adopt(paths.state_dir)
                check_state_folder(paths.state_dir)
                store = await open_store(paths.state_dir, end.is_wanted, manager.notify)
                if store is None:
                    return
                stack.push_async_callback(store.close)
                groups = await make_groups(
                    config,
                    paths,
                    daemon_log,
                    store,
                    stack,
                    lambda: "daemon.stopped" if next_program is None else "daemon.upgrading",
                )
                memory_server = built_in(config, paths, groups.workers.host.default_user)
                kept = frozenset[str]() if left is None else left.folders
                life = life_of(groups, memory_server, end.is_urgent, kept, () if left is None else left.tasks)
                await start_launcher(groups, processes, None if left is None else left.launcher)
                upgrades = Upgrades(groups, started, adoption)
                next_program = await _Daemon(groups, life, end, upgrades, adoption).serve(lock, started, manager)
            if next_program is not None:
                processes.pop_all()  # they live on
        if next_program is not None:
            program, handover, fd = next_program
            daemon_log.close()
            execute(program, handover, fd)
            execute(handover.before, handover, fd, f'cannot execute "{program.python}"')
            raise SpawnFailed(f'cannot execute "{program.python}", nor "{handover.before.python}" again')


def _lock(paths: Paths, inherited: socket.socket | None, left: Handover | None) -> SocketLock:
    """Locks the path of the socket, or goes on with the lock and the socket of an earlier program."""
    if left is None:
        return SocketLock(paths.socket, inherited)
    listening = socket.socket(fileno=left.listener.socket_fd)
    inherited = listening if left.listener.is_inherited else None
    return SocketLock(paths.socket, inherited, (left.listener.lock_fd, listening))


class _Daemon:
    """Serves with the rooms of a running daemon."""

    def __init__(
        self, groups: Groups, life: Sequence[Room], end: EndSignal, upgrades: Upgrades, adoption: Adoption | None
    ) -> None:
        self._groups = groups
        self._life = life
        self._end = end
        self._upgrades = upgrades
        self._adoption = adoption
        self._on_signals: set[asyncio.Task[None]] = set()

    async def serve(
        self, lock: SocketLock, started: float, manager: ServiceManager
    ) -> tuple[Program, Handover, int] | None:
        """Listens, starts what is to be started, and waits for the end; or for the next program, which it returns."""
        if self._adoption is not None:  # before anything opens their addresses
            self._groups.workers.shared.sockets.take_up(self._adoption.handover.sockets)
        await load(self._life)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._on_signal, self._reload)
        loop.add_signal_handler(signal.SIGUSR2, self._on_signal, partial(on_signal, self._upgrades))
        services, place = make_services(self._groups), WebPlace()
        api = compose_api(self._groups, started, services, place, self._upgrades)
        services.listen_by(partial(_service_opener, self._groups, api))
        listener = make_listener(self._groups, api.control, lock)
        if self._adoption is not None:
            await self._take_up()
        web = await self._open_web(api, place)
        self._upgrades.serve(listener, web, services)
        listener.open()
        running = [
            self._beat(manager),
            self._groups.daemon_log.keep_up(),
            expire(self._life, self._groups.agents.memory_expiry, self._groups.records.in_force),
            *[room.run() for room in self._life if room.run is not None],
            services.run(),
            export_figures(self._groups, api),
        ]
        chores = [loop.create_task(each) for each in running]
        try:
            if self._adoption is None:
                self._announce()
            if not self._end.is_wanted.is_set():
                start(self._life)
            await services.open({} if self._adoption is None else self._adoption.handover.services)
            manager.notify("READY=1")
            facts = {"pid": os.getpid(), "socket": str(self._groups.paths.socket)}
            logger.info("ready", extra={"fields": facts})
            if self._adoption is not None:
                self._announce_upgrade()
                await listener.take_up(self._adoption.handover.listener)
            next_program = await self._until_end()
            if next_program is not None:
                await settle(self._life)
                return next_program
            self._groups.records.audit.add(daemon_record("daemon.stop"))
            manager.notify("STOPPING=1")
            logger.info("stopping")
            self._groups.records.bus.publish("daemon.stopping")
            await close(self._life)
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            if not self._upgrades.ready.done():
                await services.close()
                if web is not None:
                    await web.close()
                await listener.close()
        return None

    async def _until_end(self) -> tuple[Program, Handover, int] | None:
        """Waits for the end, or for the next program, which takes the place of this one."""
        ready = self._upgrades.ready
        end = asyncio.ensure_future(self._end.is_wanted.wait())
        either: set[asyncio.Future[Any]] = {end, ready}  # Any: of one no result is used
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        return ready.result() if ready.done() else None

    async def _take_up(self) -> None:
        """Goes on with the workers that an earlier program has left."""
        if self._adoption is None:
            return
        left, groups = self._adoption.handover, self._groups
        zygotes, agents = groups.workers.shared.zygotes, groups.agents.agents
        hold_pipes()
        owners = zygotes.take_up(left.zygotes, agents.registry.spec_of)
        owners |= await agents.take_up(left.agents)
        self._adoption.succeed()
        groups.tasks.recovery.take_up(left.tasks)
        groups.workers.launcher.take_up(left.launcher, owners)
        zygotes.resume(owners)
        groups.daemon_log.set_level(left.log_level)
        workers = agents.registry.lives()
        groups.tasks.pubsub.take_up(left.subscriptions, workers)
        for supervisor in workers:
            supervisor.resume()
        release_pipes()

    async def _open_web(self, api: ApiGroup, place: WebPlace) -> "HttpServer | None":
        """Serves HTTP, if that is wanted."""
        if self._groups.config.daemon.http is None:
            return None
        from .composition.web import open_web  # noqa: PLC0415  # aiohttp costs 16 MB: only who wants HTTP pays

        left = None if self._adoption is None else self._adoption.handover.http
        return await open_web(self._groups, api, place, self._end.is_wanted.is_set, left)

    def _on_signal(self, act: Callable[[], Coroutine[None, None, None]]) -> None:
        task = asyncio.get_running_loop().create_task(act())
        self._on_signals.add(task)
        task.add_done_callback(self._on_signals.discard)

    async def _reload(self) -> None:
        """Reloads after SIGHUP; the result is in the daemon's log. Asyncio does not give the sender."""
        record = daemon_record("daemon.reload") | {"who": {"signal": "SIGHUP"}}
        try:
            await self._groups.records.audit.require("reload")
            planned = await self._groups.agents.agents.reload.adopt(
                read_config(self._groups.paths.config), dry_run=False
            )
            logger.info("reloaded", extra={"fields": asdict(planned)})
            changes = {key: value for key, value in asdict(planned).items() if key != "keys"}
            self._groups.records.audit.add({**record, "told": changes})
        except CorralError as error:
            logger.error("%s", "; ".join(error.messages))
            self._groups.records.bus.publish("config.refused", reason=error.message)
            self._groups.records.audit.add({**record, "result": error.name, "code": error.code})

    def _announce(self) -> None:
        """Publishes and records the start; `unclean` where the last tool calls before may not be recorded."""
        records = self._groups.records
        was_clean, generation = records.history.was_clean, records.store.generation
        records.bus.publish("daemon.started", generation=generation, version=__version__, clean=was_clean)
        names = list(self._groups.agents.agents.agents)
        self._groups.records.audit.add(
            daemon_record(
                "daemon.start", names=names[:MAX_NAMES], agents=len(names), generation=generation, unclean=not was_clean
            )
        )

    def _announce_upgrade(self) -> None:
        """Publishes and logs that this program goes on in the place of another."""
        arrived = self._upgrades.arrived()
        facts = {key: value for key, value in asdict(arrived).items() if key not in ("pid", "python")}
        self._groups.records.bus.publish("daemon.upgraded", **facts)
        logger.info("goes on from the program before", extra={"fields": facts})

    async def _beat(self, manager: ServiceManager) -> None:
        """Feeds the watchdog by the mere turning of the loop: a full disk or a stalled store is no reason to die."""
        records, stall_clock = self._groups.records, self._groups.workers.shared.stall_clock
        checks = SelfChecks(records.store, records.logs, records.bus, self._groups.agents.agents.registry)
        while True:
            if manager.is_watching:
                manager.notify("WATCHDOG=1")
            stall_clock.floor()
            checks.check()
            await asyncio.sleep(BEAT_S)


def _service_opener(groups: Groups, api: ApiGroup) -> "Listen":
    """Returns what opens the services of agents, teams and workflows over HTTP."""
    from .composition.web import service_opener  # noqa: PLC0415  # as in `_open_web`

    return service_opener(groups, api.control)
