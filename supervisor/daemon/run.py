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
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from corral import __version__
from corral.supervisor.api.table.table import Control
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.faces.socket.socket_lock import SocketLock, group_id
from corral.supervisor.faces.socket.unix import Listener
from corral.supervisor.records.audit.log import daemon_record
from corral.supervisor.records.backup.adoption import adopt
from corral.supervisor.records.logs.daemon_log import DaemonLog
from corral.supervisor.workers.process.sandbox import leftovers, remove_containers, remove_leftovers
from corral.supervisor.workers.supervision.limit_enforcer import LossReporter
from corral.worker.contract.errors import CorralError

from .composition.method_table import make_control
from .composition.rooms import Rooms
from .host.end_signal import EndSignal
from .host.installation import Paths, raise_descriptor_limit, read_config
from .host.lifeline import Lifeline
from .host.service_manager import ServiceManager
from .host.state_folder import check_state_folder, open_store
from .retention import expire

if TYPE_CHECKING:
    from corral.supervisor.faces.http.server import HttpServer

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
) -> None:
    """Runs the daemon until SIGTERM or SIGINT, or the end of `lifeline`; returns when nothing of it is left.

    `daemon_log` is its log, and stays open; `inherited` is the control socket where the service manager listens already.
    """
    for key, group in (("group", config.daemon.group), ("readers", config.daemon.readers)):
        if group is not None:
            group_id(group, f"daemon.{key}")
    started = asyncio.get_running_loop().time()
    end = EndSignal(lifeline)
    os.umask(0o077)
    raise_descriptor_limit()
    lock = SocketLock(paths.socket, inherited)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lock.release)  # the last thing: the next daemon may start then
        manager = stack.enter_context(ServiceManager(os.environ, os.getpid()))
        adopt(paths.state_dir)
        check_state_folder(paths.state_dir)
        store = await open_store(paths.state_dir, end.is_wanted, manager.notify)
        if store is None:
            return
        stack.push_async_callback(store.close)
        rooms = await Rooms.compose(config, paths, daemon_log, store, stack)
        await _Daemon(rooms, end).serve(lock, started, manager)


class _Daemon:
    """Serves with the rooms of a running daemon."""

    def __init__(self, rooms: Rooms, end: EndSignal) -> None:
        self._rooms = rooms
        self._end = end
        self._reloaded = asyncio.Event()
        self._loss_reporter = LossReporter(rooms.shared.bus)
        self._store_fails = False
        self._lost_reported = 0
        self._http_address: str | None = None
        self._http_note = ""
        self._reloading: set[asyncio.Task[None]] = set()
        rooms.agents.reload.subscribe(self._apply)

    def _note_store(self) -> None:
        """Publishes that the store takes nothing now, or has lost what was posted, or takes things again."""
        store = self._rooms.shared.store
        stalled_s, lost, is_bad = store.stalled_s, store.lost_posts, store.probe()
        if self._store_fails != is_bad:
            self._store_fails = is_bad
            what = "daemon.degraded" if is_bad else "daemon.recovered"
            since, self._lost_reported = lost - self._lost_reported, lost
            self._rooms.shared.bus.publish(what, part="store", stalled_s=round(stalled_s, 3), lost=since)

    def _apply(self, config: Config) -> None:
        """Puts the daemon's own keys of a configuration that was read again in force."""
        self._rooms.shared.event_history.recheck()
        asyncio.get_running_loop().call_soon(self._rooms.tasks.budgets.look_again)  # the agents go over after this
        self._reloaded.set()
        self._rooms.daemon_log.set_level(config.daemon.log_level)
        self._rooms.forwarding.want(config.daemon.journal)

    async def serve(self, lock: SocketLock, started: float, manager: ServiceManager) -> None:
        """Listens, starts what is to be started, and waits for the end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        control, services = make_control(self._rooms, started, lambda: self._http_address, lambda: self._http_note)
        groups = self._rooms.config.daemon
        listener = Listener(control, lock, group=groups.group, readers=groups.readers)
        web = await self._open_web(control)
        listener.open()
        chores = [*self._chores(manager), loop.create_task(services.run())]
        if (figures := self._rooms.exports.figures(control)) is not None:
            chores.append(loop.create_task(figures))
        try:
            self._rooms.shared.bus.publish(
                "daemon.started",
                generation=self._rooms.shared.generation,
                version=__version__,
                clean=self._rooms.shared.event_history.was_clean,
            )
            self._record_start()
            if not self._end.is_wanted.is_set():
                self._rooms.activation.open()
                self._rooms.agents.boot()
                self._rooms.hibernation.boot()
                self._rooms.tasks.boot()
            await services.open()
            manager.notify("READY=1")
            facts = {"pid": os.getpid(), "socket": str(self._rooms.paths.socket)}
            logger.info("ready", extra={"fields": facts})
            await self._end.is_wanted.wait()
            self._rooms.audit.add(daemon_record("daemon.stop"))
            manager.notify("STOPPING=1")
            logger.info("stopping")
            await self._drain()
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            await services.close()
            if web is not None:
                await web.close()
            await listener.close()

    def _chores(self, manager: ServiceManager) -> list[asyncio.Task[None]]:
        """Starts the tasks that run beside the serving, until they are cancelled."""
        loop = asyncio.get_running_loop()
        left = leftovers(self._rooms.shared.host.temporary_root)
        containers = leftovers(self._rooms.shared.host.containers_root)
        chores = [
            loop.create_task(self._beat(manager)),
            loop.create_task(self._rooms.daemon_log.keep_up()),
            loop.create_task(
                expire(
                    self._rooms.shared.store,
                    self._rooms.shared.logs,
                    self._rooms.shared.event_history,
                    self._rooms.audit,
                    self._rooms.memory_expiry,
                    self._rooms.shared.checkpoints,
                    self._rooms.tool_calls.history,
                    self._rooms.costs,
                    self._rooms.agents.revisions,
                    self._rooms.metrics,
                    self._rooms.approvals,
                    lambda: self._rooms.agents.config,
                    lambda: [agent.spec for agent in self._rooms.agents.agents.values()],
                    self._reloaded,
                )
            ),
            loop.create_task(self._rooms.shared.event_history.run(lambda: self._rooms.agents.config.events)),
            loop.create_task(self._rooms.alerts.run()),
            loop.create_task(asyncio.to_thread(remove_leftovers, left)),
            loop.create_task(asyncio.to_thread(remove_containers, containers)),
            loop.create_task(self._rooms.deployments.clean()),
            loop.create_task(self._rooms.limits.run()),
            loop.create_task(self._rooms.tenant_rooms.slices.run()),
            loop.create_task(self._rooms.tenant_rooms.disk.run()),
            loop.create_task(self._rooms.hibernation.run()),
            loop.create_task(self._rooms.autoscaler.run()),
            loop.create_task(self._rooms.activation.run()),
            loop.create_task(self._rooms.stores.run()),
            loop.create_task(self._rooms.collector.run()),
            loop.create_task(self._rooms.schedules.run()),
        ]
        if self._rooms.cluster is not None:
            chores.append(loop.create_task(self._rooms.cluster.run()))
        return chores

    async def _open_web(self, control: Control) -> "HttpServer | None":
        """Serves HTTP, if that is wanted."""
        if self._rooms.config.daemon.http is None:
            return None
        from .composition.web import open_web  # noqa: PLC0415  # aiohttp costs 16 MB: only who wants HTTP pays

        web, self._http_address, self._http_note = await open_web(
            control, self._rooms.config.daemon, self._rooms.paths.state_dir, self._end.is_wanted.is_set
        )
        return web

    async def _drain(self) -> None:
        self._rooms.shared.bus.publish("daemon.stopping")
        self._rooms.activation.close()
        draining = asyncio.create_task(self._rooms.agents.drain())
        hurry = asyncio.create_task(self._end.is_urgent.wait())
        await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            await self._rooms.shared.launcher.close()  # kills everything, and reports it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await draining
        await self._rooms.deployments.close()
        await self._rooms.rollouts.close()
        await self._rooms.pool.close()
        await self._rooms.service.close()
        await self._rooms.tasks.close()
        self._rooms.tool_calls.history.flush()
        self._rooms.costs.flush()
        await self._rooms.collector.close()

    def _on_hangup(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        """Reloads after SIGHUP; the result is in the daemon's log. Asyncio does not give the sender."""
        record = daemon_record("daemon.reload") | {"who": {"signal": "SIGHUP"}}
        try:
            await self._rooms.audit.require("reload")
            planned = await self._rooms.agents.reload.adopt(read_config(self._rooms.paths.config), dry_run=False)
            logger.info("reloaded", extra={"fields": asdict(planned)})
            changes = {key: value for key, value in asdict(planned).items() if key != "keys"}
            self._rooms.audit.add({**record, "told": changes})
        except CorralError as error:
            logger.error("%s", "; ".join(error.messages))
            self._rooms.shared.bus.publish("config.refused", reason=error.message)
            self._rooms.audit.add({**record, "result": error.name, "code": error.code})

    def _record_start(self) -> None:
        """Records the agents at the start; `unclean` where the last tool calls before may not be recorded."""
        names = list(self._rooms.agents.agents)
        self._rooms.audit.add(
            daemon_record(
                "daemon.start",
                names=names[:MAX_NAMES],
                agents=len(names),
                generation=self._rooms.shared.generation,
                unclean=not self._rooms.shared.event_history.was_clean,
            )
        )

    async def _beat(self, manager: ServiceManager) -> None:
        """Feeds the watchdog by the mere turning of the loop: a full disk or a stalled store is no reason to die."""
        losses = 0
        while True:
            if manager.is_watching:
                manager.notify("WATCHDOG=1")
            self._rooms.shared.stall_clock.floor()
            self._note_store()
            try:
                self._rooms.shared.logs.check()
            except OSError as error:
                logger.warning("cannot check the log files: %s", error)
            if losses != self._rooms.shared.logs.losses:
                losses = self._rooms.shared.logs.losses
                self._loss_reporter.report(self._rooms.agents.registry.lives())
            await asyncio.sleep(BEAT_S)
