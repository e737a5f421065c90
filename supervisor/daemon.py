"""The composition root: puts the rooms together, starts them in order, and takes them down in order.

On the way down: nothing new is accepted, workers are stopped (what others require last), the launcher
ends, the store is closed, the socket is removed. What is left then is nothing.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..mcp import cortex_command
from ..mcp.pool import Pool
from ..worker import codec
from ..worker.errors import CorralError, InvalidParams, NotFound, PermissionDenied
from .agents import Agents
from .bus import Bus, Event
from .control import Control, Daemon
from .keeper import Shared, Wakefulness
from .lifecycle import Replace, Worked
from .listener import Listener, SocketLock, group_id
from .logs import LogStore
from .metrics import Excess, Metrics, Watched
from .process import Launcher
from .service import WorkerService
from .spec import Config, Spec, decode, decode_agent
from .store import Store
from .tasks import Tasks

AGENT_USER = "corral-agent"
"""The system user that agents of a root daemon run as, when it exists."""

BEAT_S = 1.0
"""How often the daemon looks after itself: stalls, moved log files, the watchdog."""

EXPIRY_S = 3600.0
"""How often what has expired is removed from the store."""

SEQ_GAP = 10_000
"""Skipped after a kill: numbers of events that were shown and not yet stored are not given again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """Where things are: `config` None means that there is no configuration file."""

    config: Path | None
    socket: Path
    state_dir: Path


def read_config(path: Path | None) -> Config:
    """The configuration of a file; the defaults when there is none.

    Raises:
        InvalidParams: it is not valid; `data` has file, key, value and reason.
        NotFound, PermissionDenied: it cannot be read.
    """
    if path is None:
        return decode("", source="(no configuration file)", directory="/")
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFound(f'cannot read "{path}": it does not exist', file=str(path)) from error
    except UnicodeError as error:
        raise InvalidParams(
            f'cannot read "{path}": it is not UTF-8', file=str(path), reason=str(error)
        ) from error
    except OSError as error:
        raise PermissionDenied(f'cannot read "{path}": {error.strerror}', file=str(path)) from error
    return decode(text, source=str(path), directory=str(path.resolve().parent))


def default_paths(environ: Mapping[str, str], uid: int) -> Paths:
    """The places that the platform's conventions give; the XDG base directories for an ordinary user."""
    if uid == 0:
        return Paths(
            Path("/etc/corral/corral.toml"),
            Path("/run/corral/corral.sock"),
            Path("/var/lib/corral"),
        )
    home = environ.get("HOME") or pwd.getpwuid(uid).pw_dir
    config = Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config")
    state = Path(environ.get("XDG_STATE_HOME") or f"{home}/.local/state")
    runtime = environ.get("XDG_RUNTIME_DIR")
    run = Path(runtime) / "corral" if runtime else Path(f"/tmp/corral-{uid}")
    return Paths(config / "corral" / "corral.toml", run / "corral.sock", state / "corral")


async def run(config: Config, paths: Paths) -> None:
    """Runs the daemon until SIGTERM or SIGINT; returns when nothing of it is left.

    Raises:
        Conflict: another daemon has the socket.
        CorralError: something that it needs cannot be had.
    """
    if config.daemon.http is not None:
        raise InvalidParams(
            "cannot serve HTTP: daemon.http is not available in this version",
            key="daemon.http",
            value=config.daemon.http,
            reason="not available in this version",
        )
    if config.daemon.group is not None:
        group_id(config.daemon.group)
    started = asyncio.get_running_loop().time()
    os.umask(0o077)
    _raise_descriptor_limit()
    lock = SocketLock(paths.socket)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lock.release)  # the last thing: the next daemon may start then
        _make_state_dir(paths.state_dir)
        store = Store.open(paths.state_dir / "corral.db")
        stack.push_async_callback(store.close)
        this = await _Daemon.begin(config, paths, store, stack)
        await this.serve(lock, started)


class _Daemon:
    """The rooms of a running daemon."""

    def __init__(self, config: Config, paths: Paths, shared: Shared) -> None:
        self.config = config
        self.paths = paths
        self.shared = shared
        self.service = WorkerService(shared)
        self.pool = Pool(on_flight=self._note_calls)
        self.agents = Agents(shared, config, self.service, self.pool)
        self.tasks = Tasks(shared, self.agents)
        self.service.attach(self.agents, self.tasks, self.pool)
        self.metrics = Metrics()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reloading: set[asyncio.Task[None]] = set()

    @classmethod
    async def begin(
        cls, config: Config, paths: Paths, store: Store, stack: contextlib.AsyncExitStack
    ) -> "_Daemon":
        """Makes the rooms and starts the launcher."""
        was_clean, next_seq = await _previous(store)
        logs = LogStore(paths.state_dir / "logs", unclean=not was_clean)
        stack.callback(logs.close)
        bus = Bus(next_seq, lambda event: store.post(_insert_event(event)))
        stack.push_async_callback(_note_clean_end, store, bus)
        launcher = Launcher(
            on_exit=lambda report: this.agents.exited(report),
            on_empty=lambda unit: this.agents.emptied(unit),
            on_lost=lambda: _note_loss(bus),
            sole_parent=True,
        )
        ordinary_user = os.getuid() != 0 and "INVOCATION_ID" not in os.environ
        default_user = _default_user()
        shared = Shared(
            launcher=launcher,
            bus=bus,
            store=store,
            logs=logs,
            generation=store.generation,
            environ=dict(os.environ),
            sdk_path=_make_sdk_folder(paths.state_dir),
            wakefulness=Wakefulness(),
            starting=asyncio.Semaphore(config.process.start_concurrency),
            ordinary_user=os.getuid() != 0,
            default_user=default_user,
        )
        this = cls(config, paths, shared)
        await launcher.start()
        stack.push_async_callback(launcher.close)
        await this.agents.load(_built_in(config, paths, ordinary_user, default_user))
        await this.tasks.load()
        return this

    async def serve(self, lock: SocketLock, started: float) -> None:
        """Listens, starts what is to be started, and waits for the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        config_path = None if self.paths.config is None else str(self.paths.config)
        daemon = Daemon(
            started,
            str(self.paths.socket),
            str(self.paths.state_dir),
            config_path,
            lambda: read_config(self.paths.config),
        )
        control = Control(
            self.shared, self.agents, self.tasks, self.pool, self.service, self.metrics, daemon
        )
        listener = Listener(control, lock, group=self.config.daemon.group)
        await listener.open()
        chores = [
            loop.create_task(self._beat()),
            loop.create_task(self._expire()),
            loop.create_task(self.metrics.run(self._watched, self._on_excess)),
        ]
        try:
            self.shared.bus.publish("daemon.started", generation=self.shared.generation)
            self.agents.boot()
            notify_systemd("READY=1")
            logger.info("ready: pid %d, socket %s", os.getpid(), self.paths.socket)
            await self._stopping.wait()
            notify_systemd("STOPPING=1")
            logger.info("stopping")
            await self._drain()
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            await listener.close()

    async def _drain(self) -> None:
        self.shared.bus.publish("daemon.stopping")
        draining = asyncio.create_task(self.agents.drain())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            await self.shared.launcher.close()  # kills everything, and reports it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await draining
        await self.service.close()
        await self.tasks.close()

    def _on_hangup(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        """What SIGHUP asks for; the daemon's log has the answer."""
        try:
            planned = await self.agents.reload(read_config(self.paths.config), dry_run=False)
            logger.info("reloaded: %s", planned)
        except CorralError as error:
            logger.error("%s", error.message)
            self.shared.bus.publish("config.refused", reason=error.message)

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()  # a second SIGTERM or Ctrl-C means at once
        self._stopping.set()

    def _note_calls(self, server: str, in_flight: int) -> None:
        agent = self.agents.agents.get(server)
        if agent is None:
            return
        for keeper in agent.keepers:
            if keeper.worker.pid is not None:
                keeper.send(Worked(in_flight > 0))

    async def _beat(self) -> None:
        is_watched = _is_watched(os.environ, os.getpid())
        while True:
            self.shared.wakefulness.floor()
            self.shared.logs.check()
            if is_watched:
                notify_systemd("WATCHDOG=1")
            await asyncio.sleep(BEAT_S)

    def _watched(self) -> Iterator[Watched]:
        for keeper in self.agents.all_keepers():
            resources = keeper.spec.resources
            if keeper.worker.pid is not None and resources.enable_resource_tracking:
                interval_s = keeper.spec.monitoring.metrics_interval
                yield Watched(keeper.worker.pid, resources.max_memory_bytes, interval_s)

    def _on_excess(self, excess: Excess) -> None:
        for keeper in self.agents.all_keepers():
            if keeper.worker.pid == excess.pid:
                used, limit = excess.used_bytes, excess.limit_bytes
                reason = f"its process tree uses {used} bytes of max_memory_bytes = {limit}"
                self.shared.bus.publish(
                    "limit.memory", agent=keeper.spec.name, worker=keeper.id, used=used, limit=limit
                )
                keeper.send(Replace("oom", reason))

    async def _expire(self) -> None:
        while True:
            now = time.time()
            past = time.gmtime(now - self.config.events.retention)
            events_before = time.strftime("%Y-%m-%dT%H:%M:%S", past)
            tasks_before = now - self.config.defaults.tasks.result_retention
            try:
                await self.shared.store.write(
                    ("DELETE FROM event WHERE at < ?", (events_before,)),
                    ("DELETE FROM tool_call WHERE at < ?", (events_before,)),
                    ("DELETE FROM task WHERE finished_at < ?", (tasks_before,)),
                    ("DELETE FROM checkpoint WHERE at < ?", (tasks_before,)),
                    ("DELETE FROM memory WHERE expires_at < ?", (now,)),
                )
            except CorralError as error:
                logger.warning("%s", error)
            await asyncio.sleep(EXPIRY_S)


def _is_watched(environ: Mapping[str, str], pid: int) -> bool:
    """Whether the service manager waits for our sign of life; see sd_watchdog_enabled(3)."""
    return "WATCHDOG_USEC" in environ and environ.get("WATCHDOG_PID", str(pid)) == str(pid)


def notify_systemd(state: str) -> None:
    """Tells the service manager, if there is one, about our state; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            logger.warning("cannot notify the service manager: %s", error)


async def _previous(store: Store) -> tuple[bool, int]:
    """Whether the last daemon ended in order, and the first free number for an event."""
    rows = await store.read("SELECT value FROM meta WHERE key = 'ended_at_seq'")
    newest = await store.read("SELECT COALESCE(MAX(seq), 0) FROM event")
    last = int(str(newest[0][0]))
    await store.write(("DELETE FROM meta WHERE key = 'ended_at_seq'", ()))
    if rows:
        return True, max(last, int(str(rows[0][0]))) + 1
    return last == 0, last + 1 if last == 0 else last + SEQ_GAP


async def _note_clean_end(store: Store, bus: Bus) -> None:
    last = bus.publish("daemon.stopped").seq
    await store.write(
        ("INSERT OR REPLACE INTO meta (key, value) VALUES ('ended_at_seq', ?)", (last,))
    )


def _note_loss(bus: Bus) -> None:
    bus.publish("daemon.launcher_lost")


def _insert_event(event: Event) -> tuple[str, tuple[object, ...]]:
    fields = event.fields
    if event.incarnation is not None:
        fields = {**fields, "incarnation": event.incarnation}
    return (
        "INSERT INTO event (seq, at, type, agent, worker, data) VALUES (?, ?, ?, ?, ?, ?)",
        (event.seq, event.at, event.type, event.agent, event.worker, codec.encode(fields)),
    )


def _make_state_dir(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.getuid() == 0:
            path.chmod(0o711)  # agents of other users pass through it to what is theirs
    except OSError as error:
        raise PermissionDenied(
            f'cannot use state folder "{path}": {error.strerror}', path=str(path)
        ) from error


def _make_sdk_folder(state_dir: Path) -> Path:
    """A folder that holds nothing but `corral/`, so that any interpreter can use the SDK from it."""
    folder = state_dir / "sdk"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # agents of other users read it, whatever our umask is
    link = folder / "corral"
    package = Path(__file__).parents[1]
    if package.name != "corral":  # run from a checkout: the real folder is reached by its symlink
        package = Path(sys.modules["corral"].__path__[0])
    if not link.is_symlink() or link.readlink() != package:
        link.unlink(missing_ok=True)
        link.symlink_to(package)
    return folder


def _default_user() -> str | None:
    if os.getuid() != 0:
        return None
    try:
        pwd.getpwnam(AGENT_USER)
    except KeyError:
        logger.warning(
            "agents without a user run as root, because user %s does not exist", AGENT_USER
        )
        return None
    return AGENT_USER


def _built_in(
    config: Config, paths: Paths, ordinary_user: bool, default_user: str | None
) -> list[Spec]:
    """The memory server that is there without configuration."""
    command = cortex_command.command(
        config.defaults.mcp.cortex_binary_path,
        config.defaults.mcp.cortex_args,
        os.environ,
        ordinary_user=ordinary_user,
        is_executable=lambda path: os.path.isfile(path) and os.access(path, os.X_OK),
        python=sys.executable,
        folder=os.getcwd(),
    )
    folder = paths.state_dir / "cortex"
    folder.mkdir(mode=0o700, exist_ok=True)
    if default_user is not None:
        account = pwd.getpwnam(default_user)
        os.chown(folder, account.pw_uid, account.pw_gid)
    table: dict[str, object] = {
        "command": list(command),
        "autostart": False,
        "environment": {"CORTEX_DB": str(folder / "cortex.db")},
    }
    spec = decode_agent(
        "cortex",
        table,
        kind="mcp",
        defaults=config.defaults,
        source="built-in",
        directory=str(folder),
    )
    return [spec]


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # as many as we may have
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
