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
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from corral import __version__
from corral.supervisor.api.group import ApiGroup
from corral.supervisor.api.table.status import WebPlace
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.faces.socket.socket_lock import SocketLock, group_id
from corral.supervisor.records.audit.log import daemon_record
from corral.supervisor.records.backup.adoption import adopt
from corral.supervisor.records.logs.daemon_log import DaemonLog
from corral.worker.contract.errors import CorralError

from .composition.faces import export_figures, make_listener, make_services
from .composition.groups import Groups, make_groups, start_launcher
from .composition.life import Room, close, life_of, load, start
from .composition.method_table import compose_api
from .host.end_signal import EndSignal
from .host.installation import Paths, built_in, raise_descriptor_limit, read_config
from .host.lifeline import Lifeline
from .host.self_checks import SelfChecks
from .host.service_manager import ServiceManager
from .host.state_folder import check_state_folder, open_store
from .retention import expire

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
        groups = await make_groups(config, paths, daemon_log, store, stack)
        memory_server = built_in(config, paths, groups.workers.host.default_user)
        await start_launcher(groups, stack)
        await _Daemon(groups, life_of(groups, memory_server, end.is_urgent), end).serve(lock, started, manager)


class _Daemon:
    """Serves with the rooms of a running daemon."""

    def __init__(self, groups: Groups, life: Sequence[Room], end: EndSignal) -> None:
        self._groups = groups
        self._life = life
        self._end = end
        self._reloading: set[asyncio.Task[None]] = set()

    async def serve(self, lock: SocketLock, started: float, manager: ServiceManager) -> None:
        """Listens, starts what is to be started, and waits for the end."""
        await load(self._life)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        services, place = make_services(self._groups), WebPlace()
        api = compose_api(self._groups, started, services, place)
        services.listen_by(partial(_service_opener, self._groups, api))
        listener = make_listener(self._groups, api.control, lock)
        web = await self._open_web(api, place)
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
            self._announce()
            if not self._end.is_wanted.is_set():
                start(self._life)
            await services.open()
            manager.notify("READY=1")
            facts = {"pid": os.getpid(), "socket": str(self._groups.paths.socket)}
            logger.info("ready", extra={"fields": facts})
            await self._end.is_wanted.wait()
            self._groups.records.audit.add(daemon_record("daemon.stop"))
            manager.notify("STOPPING=1")
            logger.info("stopping")
            self._groups.records.bus.publish("daemon.stopping")
            await close(self._life)
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            await services.close()
            if web is not None:
                await web.close()
            await listener.close()

    async def _open_web(self, api: ApiGroup, place: WebPlace) -> "HttpServer | None":
        """Serves HTTP, if that is wanted."""
        if self._groups.config.daemon.http is None:
            return None
        from .composition.web import open_web  # noqa: PLC0415  # aiohttp costs 16 MB: only who wants HTTP pays

        return await open_web(self._groups, api, place, self._end.is_wanted.is_set)

    def _on_hangup(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

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
