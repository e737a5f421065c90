"""Composes the daemon: puts the rooms together, starts them in order, and takes them down in order.

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

from .. import __version__
from ..mcp.pool.pool import Pool
from ..worker.contract.errors import CorralError
from .access.tokens import Tokens
from .agents.agents import Agents
from .agents.hibernation import Hibernation
from .api.statistics import Statistics
from .api.status import DaemonFacts, StatusReport
from .api.status_cache import StatusCache
from .api.table import Control
from .audit.log import Audit, daemon_record
from .autoscaling.autoscaler import Autoscaler
from .config.spec import Config, Recovery, Spec, kind_of_group
from .end_signal import EndSignal
from .events.bus import Bus
from .events.history import EventHistory
from .installation import (
    HAS_ORCHESTRATION,
    Paths,
    boot_id,
    built_in,
    make_host,
    raise_descriptor_limit,
    read_config,
    zygote_pool,
)
from .jobs.runner import JobRunner
from .jobs.successes import Successes
from .lifeline import Lifeline
from .logs.daemon_log import DaemonLog
from .logs.forwarder import Forwarding
from .logs.store import LogStore
from .methods.all import METHODS
from .process.command import Commands
from .process.launcher_client import Exit, Launcher
from .process.sandbox import leftovers, remove_leftovers
from .retention import expire
from .service_manager import ServiceManager
from .services.services import AgentServices
from .sessions.sessions import Memory
from .state_folder import check_state_folder, open_store
from .store.incarnations import Incarnations
from .store.store import Store
from .supervision.alerts import Alerts, Counts
from .supervision.checkpoints import Checkpoints
from .supervision.cold_starts import ColdStarts
from .supervision.limit_enforcer import LimitEnforcer, LossReporter
from .supervision.probes import Probes
from .supervision.shared import Shared, StallClock
from .supervision.task_failures import TaskFailures
from .tasks.backlog import Backlog
from .tasks.tasks import Tasks
from .transport.socket_lock import SocketLock, group_id
from .transport.unix import Listener
from .worker_api.call_history import CallHistory
from .worker_api.call_rate import CallRates
from .worker_api.pubsub import WorkerPubsub
from .worker_api.requests import WorkerApi
from .worker_api.tool_calls import ToolCalls

if HAS_ORCHESTRATION:
    from .orchestration.schedules import Schedules
    from .orchestration.workflow_engine import WorkflowEngine

if TYPE_CHECKING:
    from .http.server import HttpServer
    from .services.services import Listen
    from .zygote.pool import ZygotePool

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

    Raises:
        Conflict: another daemon has the socket.
        CorralError: something that it needs cannot be had.
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
        check_state_folder(paths.state_dir)
        store = await open_store(paths.state_dir, end.is_wanted, manager.notify)
        if store is None:
            return
        stack.push_async_callback(store.close)
        this = await _Daemon.begin(config, paths, daemon_log, store, stack, end)
        await this.serve(lock, started, manager)


class _Daemon:
    """Composes the rooms of a running daemon."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        shared: Shared,
        daemon_log: DaemonLog,
        forwarding: Forwarding,
        audit: Audit,
        end: EndSignal,
        zygotes: "ZygotePool | None",
    ) -> None:
        self.config = config
        self._zygotes = zygotes
        self.daemon_log = daemon_log
        self.forwarding = forwarding
        self.audit = audit
        self._end = end
        self.paths = paths
        self.shared = shared
        self.pubsub = WorkerPubsub(shared.bus, lambda: self.agents.config.events)
        self.service = WorkerApi(shared.checkpoints, self.pubsub)
        self.pool = Pool(on_refused=self._note_refused)
        self.agents = Agents(shared, config, self.service, self.pool)
        self.memory = Memory(shared.store, shared.bus, lambda: self.agents.config, self._spec_of)
        backlog = Backlog()
        self.hibernation = Hibernation(self.agents, shared.checkpoints, backlog.queued)
        self.tokens = Tokens(shared.store)
        self.successes = Successes(shared.store, self.agents, boot_id())
        self.limits = LimitEnforcer(shared.launcher, shared.bus)
        call_rates = CallRates()
        self.statistics = Statistics(shared, self.agents, self.limits, self._composite, call_rates)
        task_failures = TaskFailures(shared.bus, lambda: self.agents.config, self._spec_of)
        self.tasks = Tasks(
            shared,
            self.agents,
            backlog,
            self.hibernation,
            self.memory,
            observers=[self.statistics, task_failures],
            on_waiting=lambda name: self.autoscaler.check_soon(name),
            success_rate=self.statistics.recent_success_rate,
        )
        self.tasks.bind_jobs(lambda writer, executor: JobRunner(writer, self.agents, executor))
        self.schedules = self._make_schedules() if HAS_ORCHESTRATION else None
        self.tool_calls = ToolCalls(
            shared.bus,
            self.agents,
            self.tasks,
            self.pool,
            audit,
            self.statistics.called,
            call_rates,
            CallHistory(shared.store),
        )
        self.service.bind(self.tasks, self.tool_calls, self.memory, self.hibernation)
        self.autoscaler = Autoscaler(self.agents, self.tasks.dispatcher)
        self.agents.replicas.subscribe(self.autoscaler.resized)
        self.agents.replicas.subscribe(lambda agent: self.tasks.dispatcher.look_soon(agent.name))
        self._subscribe()
        self.alerts = self._make_alerts()
        self.agents.membership.subscribe(self._apply)
        self.agents.membership.subscribe(self.autoscaler.reloaded)
        self._reloaded = asyncio.Event()
        self._loss_reporter = LossReporter(shared.bus)
        self._store_fails = False
        self._lost_reported = 0
        self._http_address: str | None = None
        self._http_note = ""
        self._reloading: set[asyncio.Task[None]] = set()

    def _make_alerts(self) -> Alerts:
        shared, config = self.shared, self.paths.config
        return Alerts(
            shared.bus,
            shared.probes.commands,
            shared.alert_counts,
            lambda: self.agents.config,
            self._spec_of,
            "/" if config is None else str(config.resolve().parent),
        )

    def _make_schedules(self) -> "Schedules":
        """Connects the optional room of workflows and schedules."""
        shared = self.shared
        self.tasks.bind(WorkflowEngine(shared, self.agents, self.tasks))
        schedules = Schedules(shared.store, shared.bus, self.agents, self.tasks)
        self.agents.membership.subscribe(schedules.follow)
        return schedules

    def _subscribe(self) -> None:
        """Subscribes the rooms to the changes of workers that each acts on; they are called in this order."""
        changes = self.service.changes
        changes.subscribe(self.statistics.changed)  # before the limits forget what it used
        changes.subscribe(self.limits.changed)
        changes.subscribe(self.agents.servers.changed)
        changes.subscribe(self.autoscaler.changed, load=True)
        if self._zygotes is not None:
            from .zygote.rolling_restart import RollingRestart  # noqa: PLC0415  # an optional room

            changes.subscribe(RollingRestart(self.agents, self._zygotes).changed, load=True)
        changes.subscribe(self.pubsub.changed)
        changes.subscribe(self.hibernation.changed)
        changes.subscribe(self.successes.changed)
        changes.subscribe(lambda _: self.agents.startup.fill_room())
        changes.subscribe(self.tasks.dispatcher.worker_changed)

    @classmethod
    async def begin(
        cls,
        config: Config,
        paths: Paths,
        daemon_log: DaemonLog,
        store: Store,
        stack: contextlib.AsyncExitStack,
        end: EndSignal,
    ) -> "_Daemon":
        """Makes the rooms and starts the launcher."""
        event_history = await EventHistory.open(store)
        logs = LogStore(paths.state_dir / "logs", unclean=not event_history.was_clean)
        stack.callback(logs.close)
        bus = Bus(event_history.first_seq, event_history.keep, reserve=event_history.reserve)
        audit = await Audit.open(store, lambda: this.agents.config.audit)
        await _note_head(audit)
        stack.push_async_callback(_note_clean_end, event_history, bus, audit)
        forwarding = await _forwarding(config, logs, bus, stack)
        tier = config.daemon.containment

        def exited(report: Exit) -> None:
            this.exited(report)

        def emptied(unit: str) -> None:
            this.emptied(unit)

        launcher = Launcher(
            on_exit=exited,
            on_empty=emptied,
            on_lost=lambda: _note_loss(bus),
            sole_parent=True,
            state_dir=paths.state_dir,
            tier="auto" if tier == "pidns" else tier,
            pid_namespace=tier == "pidns",
        )
        ordinary_user = os.getuid() != 0 and "INVOCATION_ID" not in os.environ
        host = make_host(config, paths, launcher)
        zygotes = zygote_pool(
            launcher, host, bus, logs, store.generation, on_exit=exited, on_empty=emptied
        )
        shared = Shared(
            launcher=launcher,
            zygotes=ColdStarts(launcher, bus) if zygotes is None else zygotes,
            bus=bus,
            event_history=event_history,
            store=store,
            incarnations=Incarnations(store),
            checkpoints=Checkpoints(store, bus, lambda name: this.recovery_of(name)),
            logs=logs,
            generation=store.generation,
            host=host,
            stall_clock=StallClock(),
            alert_counts=Counts(),
            probes=Probes(Commands(launcher, host, store.generation)),
            starting=asyncio.Semaphore(config.process.start_concurrency),
        )
        this = cls(config, paths, shared, daemon_log, forwarding, audit, end, zygotes)
        await launcher.start()
        stack.push_async_callback(launcher.close)
        if zygotes is not None:
            stack.push_async_callback(zygotes.close)
        await this.agents.load(built_in(config, paths, ordinary_user, host.default_user))
        await this.hibernation.load()
        await this.successes.load()
        await this.tokens.load()
        await this.tasks.load()
        if this.schedules is not None:
            await this.schedules.load(config)
        return this

    def _composite(self, name: str) -> str | None:
        """Returns the kind of a team or workflow, "team" or "workflow"; None for other names."""
        found = self.agents.groups.by_name.get(name)
        return None if found is None else kind_of_group(found)

    def recovery_of(self, name: str) -> Recovery:
        """Returns the `[recovery]` of an agent; the common one where it is no more."""
        spec = self._spec_of(name)
        return self.agents.config.defaults.recovery if spec is None else spec.recovery

    def _spec_of(self, name: str) -> Spec | None:
        agent = self.agents.agents.get(name)
        return None if agent is None else agent.spec

    def _note_store(self) -> None:
        """Publishes that the store takes nothing now, or has lost what was posted, or takes things again."""
        store = self.shared.store
        stalled_s, lost, is_bad = store.stalled_s, store.lost_posts, store.probe()
        if self._store_fails != is_bad:
            self._store_fails = is_bad
            what = "daemon.degraded" if is_bad else "daemon.recovered"
            since, self._lost_reported = lost - self._lost_reported, lost
            self.shared.bus.publish(what, part="store", stalled_s=round(stalled_s, 3), lost=since)

    def _apply(self, config: Config) -> None:
        """Puts the daemon's own keys of a configuration that was read again in force."""
        self.shared.event_history.recheck()
        asyncio.get_running_loop().call_soon(
            self.tasks.budgets.look_again
        )  # the agents go over after this
        self._reloaded.set()
        self.daemon_log.set_level(config.daemon.log_level)
        self.forwarding.want(config.daemon.journal)

    def exited(self, report: Exit) -> None:
        """Handles the death of a leader: a zygote's, a worker's, or a command's."""
        if self._zygotes is not None and self._zygotes.exited(report):
            return
        self.shared.probes.commands.exited(report)
        self.agents.exited(report)

    def emptied(self, unit: str) -> None:
        """Handles the end of a unit's last process."""
        if self._zygotes is not None and self._zygotes.emptied(unit):
            return
        self.shared.probes.commands.emptied(unit)
        self.agents.emptied(unit)

    async def serve(self, lock: SocketLock, started: float, manager: ServiceManager) -> None:
        """Listens, starts what is to be started, and waits for the end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        control, services = self._compose_control(started)
        groups = self.config.daemon
        listener = Listener(control, lock, group=groups.group, readers=groups.readers)
        web = await self._open_web(control)
        listener.open()
        chores = [*self._chores(manager), loop.create_task(services.run())]
        try:
            self.shared.bus.publish(
                "daemon.started",
                generation=self.shared.generation,
                version=__version__,
                clean=self.shared.event_history.was_clean,
            )
            self._record_start()
            if not self._end.is_wanted.is_set():
                self.agents.boot()
                self.hibernation.boot()
                self.tasks.boot()
            await services.open()
            manager.notify("READY=1")
            facts = {"pid": os.getpid(), "socket": str(self.paths.socket)}
            logger.info("ready", extra={"fields": facts})
            await self._end.is_wanted.wait()
            self.audit.add(daemon_record("daemon.stop"))
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

    def _compose_control(self, started: float) -> tuple[Control, AgentServices]:
        """Makes the method table, and the services over HTTP that it has."""
        config_path = None if self.paths.config is None else str(self.paths.config)
        services = AgentServices(
            self.agents,
            self.shared,
            lambda: self._service_opener(control),
            self.config.daemon.http_token_file or str(self.paths.state_dir / "http.token"),
        )
        daemon = DaemonFacts(
            started,
            str(self.paths.socket),
            str(self.paths.state_dir),
            config_path,
            lambda: read_config(self.paths.config),
            self.daemon_log,
            self.forwarding,
            lambda: self._http_address,
            lambda: self._http_note,
            services,
        )
        status = StatusReport(
            self.shared, self.agents, self.tasks, self.pool, self.limits, self.audit, daemon
        )
        status_cache = StatusCache(status, self.agents, self.tasks, self.shared.logs)
        self.service.changes.subscribe(status_cache.note, load=True)
        self.limits.subscribe(status_cache.note)
        control = Control(
            shared=self.shared,
            agents=self.agents,
            hibernation=self.hibernation,
            tasks=self.tasks,
            optional_schedules=self.schedules,
            memory=self.memory,
            pool=self.pool,
            tool_calls=self.tool_calls,
            pubsub=self.pubsub,
            audit=self.audit,
            tokens=self.tokens,
            statistics=self.statistics,
            daemon=daemon,
            status=status,
            status_cache=status_cache,
            services=services,
            methods=METHODS,
        )
        return control, services

    def _service_opener(self, control: Control) -> "Listen":
        from .web import service_opener  # noqa: PLC0415  # aiohttp costs 16 MB: only who wants HTTP pays

        return service_opener(control, self.config.daemon, self.paths.state_dir)

    def _chores(self, manager: ServiceManager) -> list[asyncio.Task[None]]:
        """Starts the tasks that run beside the serving, until they are cancelled."""
        loop = asyncio.get_running_loop()
        left = leftovers(self.shared.host.temporary_root)
        chores = [
            loop.create_task(self._beat(manager)),
            loop.create_task(self.daemon_log.keep_up()),
            loop.create_task(
                expire(
                    self.shared.store,
                    self.shared.logs,
                    self.shared.event_history,
                    self.audit,
                    self.memory,
                    self.shared.checkpoints,
                    self.tool_calls.history,
                    lambda: self.agents.config,
                    lambda: [agent.spec for agent in self.agents.agents.values()],
                    self._reloaded,
                )
            ),
            loop.create_task(self.shared.event_history.run(lambda: self.agents.config.events)),
            loop.create_task(self.alerts.run()),
            loop.create_task(asyncio.to_thread(remove_leftovers, left)),
            loop.create_task(self.limits.run()),
            loop.create_task(self.hibernation.run()),
            loop.create_task(self.autoscaler.run()),
        ]
        if self.schedules is not None:
            chores.append(loop.create_task(self.schedules.run()))
        return chores

    async def _open_web(self, control: Control) -> "HttpServer | None":
        """Serves HTTP, if that is wanted.

        Raises:
            CorralError: it cannot be.
        """
        if self.config.daemon.http is None:
            return None
        from .web import open_web  # noqa: PLC0415  # aiohttp costs 16 MB: only who wants HTTP pays

        web, self._http_address, self._http_note = await open_web(
            control, self.config.daemon, self.paths.state_dir, self._end.is_wanted.is_set
        )
        return web

    async def _drain(self) -> None:
        self.shared.bus.publish("daemon.stopping")
        draining = asyncio.create_task(self.agents.drain())
        hurry = asyncio.create_task(self._end.is_urgent.wait())
        await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            await self.shared.launcher.close()  # kills everything, and reports it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await draining
        await self.pool.close()
        await self.service.close()
        await self.tasks.close()
        self.tool_calls.history.flush()

    def _on_hangup(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        """Reloads after SIGHUP; the result is in the daemon's log. Asyncio does not give the sender."""
        record = daemon_record("daemon.reload") | {"who": {"signal": "SIGHUP"}}
        try:
            await self.audit.require("reload")
            planned = await self.agents.membership.reload(
                read_config(self.paths.config), dry_run=False
            )
            logger.info("reloaded", extra={"fields": asdict(planned)})
            changes = {key: value for key, value in asdict(planned).items() if key != "keys"}
            self.audit.add({**record, "told": changes})
        except CorralError as error:
            logger.error("%s", "; ".join(error.messages))
            self.shared.bus.publish("config.refused", reason=error.message)
            self.audit.add({**record, "result": error.name, "code": error.code})

    def _record_start(self) -> None:
        """Records the agents at the start; `unclean` where the last tool calls before may not be recorded."""
        names = list(self.agents.agents)
        self.audit.add(
            daemon_record(
                "daemon.start",
                names=names[:MAX_NAMES],
                agents=len(names),
                generation=self.shared.generation,
                unclean=not self.shared.event_history.was_clean,
            )
        )

    def _note_refused(self, server: str, limit: int, wait_s: float) -> None:
        reason = f"max_calls_per_minute = {limit} is used up"
        self.shared.bus.publish(
            "limit.calls", agent=server, limit=limit, wait_s=round(wait_s, 3), reason=reason
        )

    async def _beat(self, manager: ServiceManager) -> None:
        """Feeds the watchdog by the mere turning of the loop: a full disk or a stalled store is no reason to die."""
        losses = 0
        while True:
            if manager.is_watching:
                manager.notify("WATCHDOG=1")
            self.shared.stall_clock.floor()
            self._note_store()
            try:
                self.shared.logs.check()
            except OSError as error:
                logger.warning("cannot check the log files: %s", error)
            if losses != self.shared.logs.losses:
                losses = self.shared.logs.losses
                self._loss_reporter.report(self.agents.all_supervisors())
            await asyncio.sleep(BEAT_S)


async def _note_clean_end(event_history: EventHistory, bus: Bus, audit: Audit) -> None:
    await audit.close()
    await _note_head(audit)
    await event_history.end(bus.publish("daemon.stopped").seq)


async def _forwarding(
    config: Config, logs: LogStore, bus: Bus, stack: contextlib.AsyncExitStack
) -> Forwarding:
    """Returns the copying of output to the journal, which ends when the last worker has ended."""
    forwarding = Forwarding(logs, bus)
    stack.push_async_callback(forwarding.close)
    forwarding.want(config.daemon.journal)
    await forwarding.placed()
    return forwarding


async def _note_head(audit: Audit) -> None:
    """Logs the audit's head: kept apart from the store, it shows later whether the store was changed."""
    with contextlib.suppress(CorralError):  # an unreadable record is reported when it is verified
        head = (await audit.chain()).head
        logger.info("audit head", extra={"fields": {"audit_head": str(head)}})


def _note_loss(bus: Bus) -> None:
    bus.publish("daemon.launcher_lost")
