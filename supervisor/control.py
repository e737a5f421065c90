"""The one method table of the daemon: what can be asked, by whom, with what params, for what result.

Every face (the unix socket now, others later) calls `Control.call`. A method is a function of the
table with its params as a Struct, a permission and a docstring; `rpc.discover` returns the table as an
OpenRPC document, from which docs/PROTOCOL.md is generated.
"""

import asyncio
import contextlib
import os
import signal as signals
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from .. import __version__
from ..mcp.pool import Pool
from ..worker import codec
from ..worker.errors import (
    Conflict,
    InvalidParams,
    MethodNotFound,
    NotFound,
    PermissionDenied,
    Timeout,
)
from ..worker.schema import (
    AddParams,
    AgentStatus,
    CallParams,
    DaemonStatus,
    EventParams,
    ExitRecord,
    LogParams,
    NameParams,
    NamesParams,
    NoParams,
    ReloadParams,
    ScaleParams,
    SignalParams,
    Status,
    StatusParams,
    Task,
    TaskCounts,
    TaskIdParams,
    TaskListParams,
    TaskParams,
    TaskWaitParams,
    ToolsParams,
    WorkerStatus,
)
from .agents import Agent, Agents
from .bus import Event
from .keeper import Keeper, Shared
from .lifecycle import LastExit, State
from .metrics import Metrics, Sample
from .service import WorkerService, convert
from .spec import Config, to_table
from .store import STALL_S
from .tasks import Tasks

Permission = Literal["read", "operate", "admin"]

RIGHTS: tuple[Permission, ...] = ("read", "operate", "admin")
"""Each includes those before it."""

BATCH = 500
"""Log records in one notification."""

STDERR_LINES = 20


class Caller(Protocol):
    """Whoever calls: what it may do, and how it is told things while a call goes on."""

    name: str
    permission: Permission

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while the caller reads too slowly.

        Raises:
            CorralError: it is gone.
        """
        ...

    def follow(self, following: Awaitable[None]) -> None:
        """Goes on with `following` after the call, until the caller hangs up."""
        ...


@dataclass(frozen=True)
class Daemon:
    """What `status` says of the daemon itself."""

    started: float
    socket: str
    state_dir: str
    config: str | None
    read_config: Callable[[], Config]


@dataclass(frozen=True)
class Method:
    """One entry of the table."""

    name: str
    permission: Permission
    params: type[Struct]
    serve: Callable[["Control", Any, Caller], Awaitable[object]]  # each with its own params

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.serve.__doc__ or "").strip().partition("\n")[0]


METHODS: dict[str, Method] = {}

Serve = Callable[["Control", Any, Caller], Awaitable[object]]  # each with its own params


def method(name: str, permission: Permission, params: type[Struct]) -> Callable[[Serve], Serve]:
    """Enters a function into the table."""

    def enter(serve: Serve) -> Serve:
        METHODS[name] = Method(name, permission, params, serve)
        return serve

    return enter


class Control:
    """Answers calls for one daemon."""

    def __init__(
        self,
        shared: Shared,
        agents: Agents,
        tasks: Tasks,
        pool: Pool,
        service: WorkerService,
        metrics: Metrics,
        daemon: Daemon,
    ) -> None:
        self.shared = shared
        self.agents = agents
        self.tasks = tasks
        self.pool = pool
        self.service = service
        self.metrics = metrics
        self.daemon = daemon
        self.loop = asyncio.get_running_loop()

    async def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """The result of a method, as plain values.

        Raises:
            MethodNotFound: there is no such method.
            PermissionDenied: the caller may not call it.
            InvalidParams: its params are not those of the table.
            CorralError: what the method raises.
        """
        entry = METHODS.get(name)
        if entry is None:
            raise MethodNotFound(f'cannot call "{name}": there is no such method', method=name)
        if RIGHTS.index(caller.permission) < RIGHTS.index(entry.permission):
            raise PermissionDenied(
                f'cannot call "{name}": {caller.name} may only {caller.permission}',
                method=name,
                needs=entry.permission,
            )
        asked = convert(params, entry.params, name)
        return await entry.serve(self, asked, caller)

    # -- what status is made of

    def agent_status(self, agent: Agent) -> AgentStatus:
        """One agent or server in `status`."""
        spec = agent.spec
        status = AgentStatus(
            name=agent.name,
            kind=spec.kind,
            state=agent.state,
            wanted=agent.wanted,
            degraded=False,
            protocol=spec.protocol,
            workers=[self.worker_status(keeper) for keeper in agent.keepers],
            queued=self.tasks.queued(agent.name),
        )
        if spec.kind == "mcp":
            tools = [tool.name for tool in agent.tools]
            status = msgspec.structs.replace(status, tools=tools)
        return status

    def worker_status(self, keeper: Keeper) -> WorkerStatus:
        """One worker in `status`."""
        worker = keeper.worker
        now = self.loop.time()
        life = keeper.life
        sample = self.metrics.of(worker.pid) if worker.pid is not None else Sample()
        next_start = worker.deadline if worker.state is State.INITIAL else None
        return WorkerStatus(
            id=worker.id,
            pid=worker.pid,
            state=worker.state,
            incarnation=worker.incarnation,
            restarts=worker.restarts,
            uptime_s=round(now - life.started_at, 3) if life and worker.pid is not None else 0.0,
            rss_bytes=sample.rss_bytes,
            paused=False,
            cpu_percent=sample.cpu_percent,
            open_files=sample.open_files,
            task=next(iter(keeper.running), None) if keeper.spec.kind == "agent" else None,
            next_start_in_s=None if next_start is None else round(max(0.0, next_start - now), 3),
            last_exit=None if worker.last_exit is None else exit_record(worker.last_exit),
            reason=worker.reason,
        )


def exit_record(last: LastExit) -> ExitRecord:
    """How an incarnation ended, as `status` and `show` tell it."""
    return ExitRecord(
        result=last.result,
        code=last.code,
        signal=last.signal,
        forced=last.forced,
        at=last.at,
        message=last.message,
    )


# -- daemon


@method("daemon.ping", "read", NoParams)
async def _ping(_control: Control, _params: NoParams, _caller: Caller) -> object:
    """Answers, so that a client knows that the daemon does."""
    return {}


@method("daemon.status", "read", StatusParams)
async def _status(control: Control, params: StatusParams, _caller: Caller) -> object:
    """The daemon, agents, MCP servers and task counts."""
    agents = control.agents
    if params.names is None:
        chosen = list(agents.agents.values())
    else:
        chosen = []
        for name in params.names:
            agent = agents.of(
                agents.keepers(name)[0].spec.name if name not in agents.agents else name
            )
            if agent not in chosen:
                chosen.append(agent)
    entries = [control.agent_status(agent) for agent in chosen]
    degraded = ["store"] if control.shared.store.stalled_s > STALL_S else []
    status = Status(
        daemon=DaemonStatus(
            pid=os.getpid(),
            version=__version__,
            uptime_s=round(control.loop.time() - control.daemon.started, 3),
            socket=control.daemon.socket,
            state_dir=control.daemon.state_dir,
            containment="launcher",
            draining=agents.draining,
            degraded=degraded,
            config=control.daemon.config,
            launcher_pid=control.shared.launcher.pid or None,
        ),
        agents=[entry for entry in entries if entry.kind == "agent"],
        mcp_servers=[entry for entry in entries if entry.kind == "mcp"],
        tasks=TaskCounts(**control.tasks.totals()),
    )
    return msgspec.to_builtins(status)


@method("daemon.reload", "admin", ReloadParams)
async def _reload(control: Control, params: ReloadParams, _caller: Caller) -> object:
    """Reads the configuration again, applies what has changed and tells what; a broken file changes nothing."""
    config = control.daemon.read_config()
    return msgspec.to_builtins(await control.agents.reload(config, dry_run=params.dry_run))


@method("rpc.discover", "read", NoParams)
async def _discover(_control: Control, _params: NoParams, _caller: Caller) -> object:
    """This table as an OpenRPC document (https://spec.open-rpc.org)."""
    return openrpc()


# -- agents


@method("agent.show", "read", NameParams)
async def _show(control: Control, params: NameParams, _caller: Caller) -> object:
    """One agent in full: its spec (environment values hidden), last exits, the end of its stderr."""
    keepers = control.agents.keepers(params.name)
    name = params.name if params.name in control.agents.agents else keepers[0].spec.name
    agent = control.agents.of(name)
    spec = to_table(agent.spec, control.agents.config.defaults)
    environment = codec.as_object(spec.get("environment"))
    if environment is not None:
        spec["environment"] = dict.fromkeys(environment, "***")
    exits = [
        {"worker": keeper.id, "incarnation": number, **msgspec.to_builtins(exit_record(last))}
        for keeper in keepers
        for number, last in keeper.exits
    ]
    exits.sort(key=lambda each: str(each["at"]), reverse=True)
    return {
        "agent": msgspec.to_builtins(control.agent_status(agent)),
        "spec": spec,
        "source": agent.spec.source,
        "exits": exits,
        "stderr": {keeper.id: keeper.stderr_tail(STDERR_LINES) for keeper in keepers},
    }


async def _bounded(params: NamesParams, work: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(params.timeout_s):
            await work
    except TimeoutError:
        raise Timeout(
            f"cannot wait longer than {params.timeout_s:g} s: it goes on", names=params.names
        ) from None


def _named(control: Control, params: NamesParams) -> object:
    """The status of the agents that a command named."""
    names = dict.fromkeys(
        keeper.spec.name for keeper in control.agents.selected(params.names, params.all)
    )
    statuses = [control.agent_status(control.agents.of(name)) for name in names]
    return {"agents": msgspec.to_builtins(statuses)}


@method("agent.start", "operate", NamesParams)
async def _start(control: Control, params: NamesParams, _caller: Caller) -> object:
    """Starts agents or workers and waits until they are ready."""
    keepers = control.agents.selected(params.names, params.all)
    await _bounded(params, control.agents.start(keepers, wait=params.wait))
    return _named(control, params)


@method("agent.stop", "operate", NamesParams)
async def _stop(control: Control, params: NamesParams, _caller: Caller) -> object:
    """Stops agents or workers and waits until no process of them is left."""
    keepers = control.agents.selected(params.names, params.all)
    await _bounded(params, control.agents.stop(keepers, wait=params.wait))
    return _named(control, params)


@method("agent.restart", "operate", NamesParams)
async def _restart(control: Control, params: NamesParams, _caller: Caller) -> object:
    """Stops agents or workers, starts them again and waits until they are ready."""
    keepers = control.agents.selected(params.names, params.all)
    await _bounded(params, control.agents.restart(keepers, wait=params.wait))
    return _named(control, params)


@method("agent.reset", "operate", NamesParams)
async def _reset(control: Control, params: NamesParams, _caller: Caller) -> object:
    """Forgets failures; what is wanted and has given up starts again."""
    control.agents.reset(control.agents.selected(params.names, params.all))
    return _named(control, params)


@method("agent.add", "admin", AddParams)
async def _add(control: Control, params: AddParams, _caller: Caller) -> object:
    """Adds an agent or an MCP server, which is kept until it is removed."""
    directory = params.directory or str(Path("/"))
    agent = await control.agents.add(
        params.name,
        params.spec,
        params.kind,
        directory=directory,
        start=params.start,
        wait=params.wait,
    )
    return msgspec.to_builtins(control.agent_status(agent))


@method("agent.rm", "admin", NameParams)
async def _rm(control: Control, params: NameParams, _caller: Caller) -> object:
    """Stops an agent or MCP server and forgets it."""
    await control.agents.remove(params.name)
    return {}


@method("agent.scale", "operate", ScaleParams)
async def _scale(control: Control, params: ScaleParams, _caller: Caller) -> object:
    """Changes how many workers an agent has."""
    agent = await control.agents.scale(params.name, params.instances, wait=params.wait)
    return msgspec.to_builtins(control.agent_status(agent))


@method("agent.signal", "operate", SignalParams)
async def _signal(control: Control, params: SignalParams, _caller: Caller) -> object:
    """Sends a signal to the leader of each worker that runs."""
    name = params.signal.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in signals.Signals.__members__:
        raise InvalidParams(
            f'cannot send signal "{params.signal}": it is unknown',
            key="signal",
            value=params.signal,
        )
    running = [k for k in control.agents.keepers(params.name) if k.worker.pid is not None]
    if not running:
        raise Conflict(f'cannot signal "{params.name}": it has no process', name=params.name)
    for keeper in running:
        keeper.signal(name, tree=False)
    return {}


# -- tasks


def _listener(caller: Caller) -> Callable[[Task], None]:
    def tell(task: Task) -> None:
        caller.notify(
            "task.progress",
            {
                "task": task.id,
                "worker": task.worker,
                "state": task.state,
                "attempt": task.attempt,
                "progress": task.progress,
                "total": task.progress_total,
                "message": task.progress_message or task.reason,
            },
        )

    return tell


@method("task.run", "operate", TaskParams)
async def _run(control: Control, params: TaskParams, caller: Caller) -> object:
    """Runs a task and answers when it has ended; a caller that hangs up leaves it running."""
    task = await control.tasks.submit(params)
    return msgspec.to_builtins(await control.tasks.wait(task.id, listener=_listener(caller)))


@method("task.submit", "operate", TaskParams)
async def _submit(control: Control, params: TaskParams, _caller: Caller) -> object:
    """Queues a task and answers with its record at once; it is durable by then."""
    return msgspec.to_builtins(await control.tasks.submit(params))


@method("task.wait", "read", TaskWaitParams)
async def _wait(control: Control, params: TaskWaitParams, caller: Caller) -> object:
    """Answers with the record of a task when it has ended."""
    try:
        async with asyncio.timeout(params.timeout_s):
            task = await control.tasks.wait(params.task, listener=_listener(caller))
    except TimeoutError:
        raise Timeout(
            f'cannot wait longer than {params.timeout_s:g} s for task "{params.task}": it goes on',
            task=params.task,
        ) from None
    return msgspec.to_builtins(task)


@method("task.show", "read", TaskIdParams)
async def _show_task(control: Control, params: TaskIdParams, _caller: Caller) -> object:
    """The record of a task."""
    return msgspec.to_builtins(await control.tasks.show(params.task))


@method("task.list", "read", TaskListParams)
async def _list_tasks(control: Control, params: TaskListParams, _caller: Caller) -> object:
    """Records of tasks, newest first."""
    tasks = await control.tasks.list(params.agent, params.state, params.limit)
    return {"tasks": msgspec.to_builtins(tasks)}


@method("task.cancel", "operate", TaskIdParams)
async def _cancel(control: Control, params: TaskIdParams, _caller: Caller) -> object:
    """Cancels a task and what it delegated."""
    return msgspec.to_builtins(await control.tasks.cancel(params.task))


# -- logs and events


def _check_names(control: Control, names: list[str] | None) -> list[str]:
    known = {path.name for path in control.shared.logs.directory.glob("*")}
    for name in names or []:
        if name not in known:
            control.agents.keepers(name)
    return names or []


@method("log.read", "read", LogParams)
async def _read_log(control: Control, params: LogParams, _caller: Caller) -> object:
    """The last lines of the logs, merged by time."""
    records = await control.shared.logs.read(
        _check_names(control, params.names),
        n=100 if params.n is None and params.since is None else params.n,
        since=params.since,
        stream=params.stream,
    )
    return {"records": records}


@method("log.follow", "read", LogParams)
async def _follow_log(control: Control, params: LogParams, caller: Caller) -> object:
    """The last lines, then all that comes, as `log` notifications {records} until the caller hangs up."""
    names = _check_names(control, params.names)
    batches = control.shared.logs.follow(
        names,
        n=10 if params.n is None and params.since is None else params.n,
        since=params.since,
        stream=params.stream,
    )
    caller.follow(_send_batches(caller, batches))
    return {}


async def _send_batches(caller: Caller, batches: AsyncIterator[list[Any]]) -> None:  # log records
    async with contextlib.aclosing(batches) as closing:  # type: ignore[type-var]  # follow is a generator
        async for batch in closing:
            for start in range(0, len(batch), BATCH):
                caller.notify("log", {"records": batch[start : start + BATCH]})
                await caller.drain()


async def _events(control: Control, params: EventParams) -> list[dict[str, object]]:
    """Stored events, oldest first, and those of the last moments that are never stored."""
    clauses = ["1"]
    values: list[object] = []
    if params.since is not None:
        clauses.append("seq > ?")
        values.append(params.since)
    if params.since_time is not None:
        clauses.append("at >= ?")
        stamp = time.gmtime(params.since_time)
        values.append(time.strftime("%Y-%m-%dT%H:%M:%S", stamp))
    if params.agent is not None:
        clauses.append("agent = ?")
        values.append(params.agent)
    if params.types:
        clauses.append("(" + " OR ".join("type GLOB ?" for _ in params.types) + ")")
        values += params.types
    n = params.n if params.n is not None else 1000
    rows = await control.shared.store.read(
        "SELECT seq, at, type, agent, worker, data FROM event"
        f" WHERE {' AND '.join(clauses)} ORDER BY seq DESC LIMIT ?",
        [*values, n],
    )
    found: list[dict[str, object]] = []
    for seq, at, kind, agent, worker, data in reversed(rows):
        assert isinstance(data, bytes), "the sink stores JSON"
        fields = codec.as_object(codec.decode(data)) or {}
        found.append(
            {**fields, "seq": seq, "at": at, "type": kind, "agent": agent, "worker": worker}
        )
    return found


@method("event.list", "read", EventParams)
async def _list_events(control: Control, params: EventParams, _caller: Caller) -> object:
    """Events of the past, oldest first."""
    await control.shared.store.write()  # what is posted is in the store after this
    return {"events": await _events(control, params)}


@method("event.follow", "read", EventParams)
async def _follow_events(control: Control, params: EventParams, caller: Caller) -> object:
    """Events of the past, then all that happens, as `event` notifications {events}."""
    caller.follow(_send_events(control, params, caller))
    return {}


async def _send_events(control: Control, params: EventParams, caller: Caller) -> None:
    with control.shared.bus.subscribe(params.types or ["*"]) as subscription:
        await control.shared.store.write()
        past: list[dict[str, object]] = []
        if params.since is not None or params.since_time is not None or params.n:
            past = await _events(control, params)
        if past:
            caller.notify("event", {"events": past})
        last = past[-1]["seq"] if past else 0
        assert isinstance(last, int), "a sequence number is an integer"
        while batch := await subscription.next_batch():
            fresh = [event.record() for event in batch if _is_due(event, last, params.agent)]
            if fresh:
                caller.notify("event", {"events": fresh})
            await caller.drain()


def _is_due(event: Event, last: int, agent: str | None) -> bool:
    return event.seq > last and (agent is None or event.agent in (agent, None))


# -- MCP


@method("mcp.servers", "read", NoParams)
async def _servers(control: Control, _params: NoParams, _caller: Caller) -> object:
    """The MCP servers, with the tools that they listed last."""
    servers = [a for a in control.agents.agents.values() if a.spec.kind == "mcp"]
    return {"servers": msgspec.to_builtins([control.agent_status(server) for server in servers])}


@method("mcp.tools", "read", ToolsParams)
async def _tools(control: Control, params: ToolsParams, _caller: Caller) -> object:
    """The tools of all servers, or of one; a server that never listed any is started first."""
    if params.server is not None and params.server not in control.pool.names():
        raise NotFound(f'cannot find MCP server "{params.server}"', name=params.server)
    failures = await control.pool.list_servers(None if params.server is None else [params.server])
    if params.server is not None and params.server in failures:
        raise failures[params.server]
    tools = control.pool.tools()
    if params.server is not None:
        tools = [tool for tool in tools if tool["server"] == params.server]
    refusals = {name: error.to_record() for name, error in failures.items()}
    return {"tools": tools, "failures": refusals}


@method("mcp.call", "operate", CallParams)
async def _call(control: Control, params: CallParams, caller: Caller) -> object:
    """Calls a tool and answers with MCP's result object."""
    return await control.service.call(
        params.name, params.arguments, caller=caller.name, timeout_s=params.timeout_s
    )


# -- the table as a document


def openrpc() -> dict[str, object]:
    """The method table as an OpenRPC 1.3 document."""
    entries = [METHODS[name] for name in sorted(METHODS)]
    schemas, components = msgspec.json.schema_components(
        [entry.params for entry in entries],
        schema_hook=_any_value,
        ref_template="#/components/schemas/{name}",
    )
    described: list[dict[str, object]] = []
    for entry, schema in zip(entries, schemas, strict=True):
        reference = str(schema["$ref"]).rpartition("/")[2]
        shape = components[reference]
        required = set(shape.get("required", ()))
        described.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "paramStructure": "by-name",
                "params": [
                    {"name": name, "required": name in required, "schema": each}
                    for name, each in shape.get("properties", {}).items()
                ],
                "result": {"name": "result", "schema": {}},
                "x-permission": entry.permission,
            }
        )
    return {
        "openrpc": "1.3.2",
        "info": {"title": "corral", "version": __version__},
        "methods": described,
        "components": {"schemas": components},
    }


def _any_value(type_: type) -> dict[str, object]:
    """`object` in a Struct stands for any JSON value."""
    assert type_ is object, f"{type_} has a schema of its own"
    return {"description": "any JSON value"}
