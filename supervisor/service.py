"""What workers may ask for and say: tools, delegation, memory, checkpoints, events, progress, logs.

A worker is not trusted: it speaks only for its own tasks, sees only its own agent's memory, uses only
the tools that its agent and its task are allowed, and cannot invent events of the daemon.
"""

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

import msgspec

from ..mcp.pool import Pool
from ..worker import codec
from ..worker.errors import (
    CorralError,
    InvalidParams,
    MethodNotFound,
)
from ..worker.schema import (
    BeatParams,
    CheckpointParams,
    DelegateParams,
    MemoryParams,
    MemorySearchParams,
    ProgressParams,
    PublishParams,
    SubscribeParams,
    TaskParams,
    UsageParams,
    WorkerCallParams,
    WorkerLogParams,
)
from ..worker.wire import Notification, Request
from .agents import Agents
from .audit import REFUSALS, Audit
from .backlog import Entry
from .broker import Broker
from .chain import digest
from .keeper import Keeper, Shared, utc_now
from .lifecycle import UP, State
from .spec import Events
from .tasks import Tasks

MAX_VALUE_BYTES = 1024 * 1024
"""The largest value that `memory/put` takes, as JSON."""


class Caller(TypedDict):
    """Who made a tool call."""

    agent: str | None
    worker: str | None
    incarnation: int | None


LEVELS = ("debug", "info", "warning", "error", "critical")

MAX_TOOL_NAME = 200
"""Characters of a tool's name in a record: a longer one is no tool's."""

REFUSED = frozenset(error.__name__ for error in REFUSALS)

T = TypeVar("T")

Handler = Callable[[Keeper, Mapping[str, object]], Awaitable[object]]


def convert(params: Mapping[str, object], type_: type[T], method: str) -> T:
    """The params of a call in their shape.

    Raises:
        InvalidParams: they have another; `data["key"]` is the path.
    """
    try:
        return msgspec.convert(params, type_)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
        key = path.strip("`").removeprefix("$").removeprefix(".")
        raise InvalidParams(f'cannot call "{method}": {error}', key=key, reason=reason) from error


class WorkerService:
    """Serves every worker of one daemon."""

    def __init__(self, shared: Shared) -> None:
        self.listeners: list[Callable[[Keeper], None]] = []
        """Called at every change of a worker."""
        self._shared = shared
        self._agents: Agents | None = None
        self._tasks: Tasks | None = None
        self._pool: Pool | None = None
        self._audit: Audit | None = None
        self.broker = Broker(shared.bus, self._events)
        self._methods: dict[str, Handler] = {
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
            "task/delegate": self._delegate,
            "memory/put": self._put,
            "memory/get": self._get,
            "memory/delete": self._delete,
            "memory/search": self._search,
            "checkpoint/put": self._checkpoint,
            "event/publish": self._publish,
            "event/subscribe": self._subscribe,
        }

    def attach(self, agents: Agents, tasks: Tasks, pool: Pool, audit: Audit) -> None:
        """Completes the circle: these are made with this service as an argument."""
        self._agents = agents
        self._tasks = tasks
        self._pool = pool
        self._audit = audit

    @property
    def tasks(self) -> Tasks:
        """The tasks of the daemon."""
        assert self._tasks is not None, "attach comes before the first worker"
        return self._tasks

    @property
    def pool(self) -> Pool:
        """The tool pool of the daemon."""
        assert self._pool is not None, "attach comes before the first worker"
        return self._pool

    def _events(self) -> Events:
        assert self._agents is not None, "attach comes before the first worker"
        return self._agents.config.events

    # -- the keepers' side

    async def serve(self, keeper: Keeper, request: Request) -> object:
        """Answers a request of a worker.

        Raises:
            MethodNotFound: workers have no such method.
            CorralError: what the method raises.
        """
        method = self._methods.get(request.method)
        if method is None:
            raise MethodNotFound(f'cannot call "{request.method}": workers have no such method')
        return await method(keeper, request.params)

    def hear(self, keeper: Keeper, notification: Notification) -> None:
        """Takes a notification of a worker; one that is malformed goes to its log."""
        try:
            if notification.method == "progress":
                self._progress(keeper, notification.params)
            elif notification.method == "log":
                self._log(keeper, notification.params)
            elif notification.method == "usage":
                self._usage(keeper, notification.params)
            elif notification.method == "heartbeat" and "task" in notification.params:
                self._beat(keeper, notification.params)
            # Any other heartbeat says all by coming; what we do not know is from a newer worker.
        except CorralError as error:
            keeper.note("warning", f'refused "{notification.method}": {error.message}')

    def changed(self, keeper: Keeper) -> None:
        """A worker's state has changed: there may be work for it, or subscriptions to end."""
        for listener in self.listeners:
            listener(keeper)
        self.broker.changed(keeper)
        if self._agents is not None:
            self._agents.fill_room()
        if keeper.worker.state in UP:
            if self._tasks is not None:
                self._tasks.dispatch(keeper.spec.name)
                if keeper.worker.paused_at is not None:
                    self._tasks.say_why(keeper.spec.name)
            return
        if keeper.worker.state is State.TERMINATED and self._tasks is not None:
            self._tasks.say_why(keeper.spec.name)

    def removed(self, agent: str) -> None:
        """An agent is no more: nobody will run what waits for it."""
        self.tasks.abandon(agent)

    # -- tools

    async def _list_tools(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        await self.pool.list_servers()
        return {"tools": self.pool.tools(keeper.spec.tools)}

    async def _call_tool(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        call = convert(params, WorkerCallParams, "tools/call")
        entry = self.tasks.task_of(keeper, call.task)
        allowed = keeper.spec.tools
        record = _ToolCall(call.name, _who(keeper), None if entry is None else entry.task.id)
        try:
            if entry is not None:
                self.tasks.count_tool_call(entry)
            backend, _ = await self.pool.resolve(call.name, allowed)
            if entry is not None and entry.limits.allowed_tools is not None:
                await self.pool.resolve(call.name, entry.limits.allowed_tools)
        except CorralError as error:
            self._record(record, error.name)
            raise
        return await self.call(
            call.name,
            call.arguments,
            caller=keeper.id,
            who=record.who,
            task=record.task,
            server=backend.name,
            allowed=allowed,
        )

    async def call(
        self,
        name: str,
        arguments: Mapping[str, object],
        *,
        caller: str,
        who: Mapping[str, object],
        server: str | None = None,
        task: str | None = None,
        allowed: tuple[str, ...] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, object]:
        """MCP's result of one tool call, which the audit keeps with its caller and outcome.

        `caller` is for the event, `who` for the audit.

        Raises:
            CorralError: as `Pool.call`.
        """
        assert self._agents is not None, "attach comes before the first call"
        record = _ToolCall(name, who, task, server)
        try:
            self._agents.check_may_call(f'call "{name}"')
        except CorralError as error:
            self._record(record, error.name)
            raise
        started = time.monotonic()
        outcome = "cancelled"
        has_reached = False
        try:
            result = await self.pool.call(name, arguments, allowed=allowed, timeout_s=timeout_s)
            outcome = "error" if result.get("isError") is True else "ok"
            return result
        except CorralError as error:
            outcome = error.name
            has_reached = error.data.keys() >= {
                "server",
                "tool",
            }  # its session says so, and it may have run
            raise
        finally:
            duration_s = round(time.monotonic() - started, 6)
            prefix = name.partition("__")[0]
            self._shared.bus.publish(
                "mcp.call",
                **self._whom(caller),
                caller=caller,
                server=server or (prefix if prefix in self.pool.names() else None),
                tool=name,
                task=task,
                outcome=outcome,
                duration_s=duration_s,
            )
            self._record(record, outcome, arguments, has_reached=has_reached)

    def note_refused(self, tool: object, who: Mapping[str, object], error: CorralError) -> None:
        """Has the audit keep a tool call from outside that was refused before it was one."""
        self._record(_ToolCall(str(tool)[:MAX_TOOL_NAME], who, None), error.name)

    def _record(
        self,
        call: "_ToolCall",
        outcome: str,
        arguments: Mapping[str, object] | None = None,
        *,
        has_reached: bool = False,
    ) -> None:
        """Has the audit keep a call that has ended; of its arguments the digest alone.

        Only what no server has seen is a refusal, of which many alike are one record.
        """
        assert self._audit is not None, "attach comes before the first call"
        record: dict[str, object] = {
            "at": call.at,
            "action": "mcp.call",
            "who": call.who,
            "tool": call.tool[:MAX_TOOL_NAME],
            "server": call.server or call.tool.partition("__")[0][:MAX_TOOL_NAME],
            "task": call.task,
            "result": outcome,
            "duration_s": round(time.monotonic() - call.started, 6),
        }
        if outcome in REFUSED and not has_reached:
            whose = call.who.get("agent") or call.who.get("uid")
            if self._audit.refuse(record, str(whose)):
                self._audit.add(record)
            return
        sha256, size_bytes = digest({} if arguments is None else arguments)
        self._audit.add({**record, "arguments": {"sha256": sha256, "bytes": size_bytes}})

    def _whom(self, caller: str) -> Caller:
        """Whom an event of a tool call is about: the worker that made it, else nobody."""
        assert self._agents is not None, "attach comes before the first call"
        agent = self._agents.agents.get(caller.rpartition("-")[0])
        for keeper in () if agent is None else agent.keepers:
            if keeper.id == caller:
                number = keeper.worker.incarnation
                return Caller(agent=keeper.spec.name, worker=caller, incarnation=number)
        return Caller(agent=None, worker=None, incarnation=None)

    # -- delegation

    async def _delegate(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        asked = convert(params, DelegateParams, "task/delegate")
        parent = self.tasks.task_of(keeper, asked.task)
        task = TaskParams(
            objective=asked.objective,
            agent=asked.agent,
            capability=asked.capability,
            input=asked.input,
            context=asked.context,
            priority=asked.priority,
            timeout_s=asked.timeout_s,
            boundaries=asked.boundaries,
        )
        return msgspec.to_builtins(await self.tasks.delegate(task, parent))

    # -- memory and checkpoints

    async def _put(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/put")
        value = codec.encode(asked.value)
        if len(value) > MAX_VALUE_BYTES:
            raise InvalidParams(
                f'cannot store "{asked.key}": {len(value)} bytes are more than {MAX_VALUE_BYTES}',
                key="value",
                limit=MAX_VALUE_BYTES,
            )
        now = time.time()
        expires = None if asked.ttl_s is None else now + asked.ttl_s
        await self._shared.store.write(
            (
                "INSERT OR REPLACE INTO memory (agent, session, key, value, updated_at, expires_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (keeper.spec.name, asked.session, asked.key, value, now, expires),
            )
        )
        return {}

    async def _get(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/get")
        rows = await self._shared.store.read(
            "SELECT value FROM memory WHERE agent = ? AND session = ? AND key = ?"
            " AND (expires_at IS NULL OR expires_at > ?)",
            (keeper.spec.name, asked.session, asked.key, time.time()),
        )
        return {"value": _value(rows[0][0]) if rows else None}

    async def _delete(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/delete")
        await self._shared.store.write(
            (
                "DELETE FROM memory WHERE agent = ? AND session = ? AND key = ?",
                (keeper.spec.name, asked.session, asked.key),
            )
        )
        return {}

    async def _search(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        asked = convert(params, MemorySearchParams, "memory/search")
        escaped = asked.query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        pattern = f"%{escaped}%"
        rows = await self._shared.store.read(
            "SELECT session, key, value FROM memory WHERE agent = ?"
            " AND (?2 IS NULL OR session = ?2) AND (expires_at IS NULL OR expires_at > ?3)"
            " AND (key LIKE ?4 ESCAPE '\\' OR CAST(value AS TEXT) LIKE ?4 ESCAPE '\\')"
            " ORDER BY updated_at DESC LIMIT ?5",
            (keeper.spec.name, asked.session, time.time(), pattern, asked.limit),
        )
        items = [
            {"session": session, "key": key, "value": _value(value)} for session, key, value in rows
        ]
        return {"items": items}

    async def _checkpoint(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        asked = convert(params, CheckpointParams, "checkpoint/put")
        entry = self.tasks.task_of(keeper, asked.task) if asked.task is not None else None
        ids = await self._shared.store.write(
            (
                "INSERT INTO checkpoint (agent, worker, task, at, data) VALUES (?, ?, ?, ?, ?)",
                (
                    keeper.spec.name,
                    keeper.id,
                    None if entry is None else entry.task.id,
                    time.time(),
                    codec.encode(asked.data),
                ),
            )
        )
        return {"id": ids[0]}

    # -- events

    async def _publish(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        asked = convert(params, PublishParams, "event/publish")
        return {"seq": self.broker.publish(keeper, asked.type, asked.data)}

    async def _subscribe(self, keeper: Keeper, params: Mapping[str, object]) -> object:
        self.broker.subscribe(keeper, convert(params, SubscribeParams, "event/subscribe").types)
        return {}

    # -- notifications

    def _progress(self, keeper: Keeper, params: Mapping[str, object]) -> None:
        said = convert(params, ProgressParams, "progress")
        entry = self.tasks.task_of(keeper, said.task)
        if entry is not None:
            self.tasks.progressed(entry, said.progress, said.total, said.message)

    def _beat(self, keeper: Keeper, params: Mapping[str, object]) -> None:
        entry = self.tasks.task_of(keeper, convert(params, BeatParams, "heartbeat").task)
        if entry is not None:
            self.tasks.beaten(entry)

    def _usage(self, keeper: Keeper, params: Mapping[str, object]) -> None:
        said = convert(params, UsageParams, "usage")
        entry: Entry | None = self.tasks.task_of(keeper, said.task)
        if entry is not None:
            self.tasks.used(entry, said.tokens, said.cost_cents)

    def _log(self, keeper: Keeper, params: Mapping[str, object]) -> None:
        said = convert(params, WorkerLogParams, "log")
        level = said.level if said.level in LEVELS else "info"
        threshold = keeper.spec.monitoring.agent_log_level
        if threshold not in LEVELS or LEVELS.index(level) >= LEVELS.index(threshold):
            keeper.note(level, said.message, said.fields)

    async def close(self) -> None:
        """Ends what forwards events to workers."""
        await self.broker.close()


@dataclass(frozen=True)
class _ToolCall:
    """What the audit says of a tool call before it is known what comes of it."""

    tool: str
    who: Mapping[str, object]
    task: str | None
    server: str | None = None
    at: str = field(default_factory=utc_now)
    started: float = field(default_factory=time.monotonic)


def _who(keeper: Keeper) -> dict[str, object]:
    """A worker as the audit names it; its uid is the one that its process has now."""
    pid = keeper.worker.pid
    uid: int | None = None
    with suppress(OSError):
        uid = os.stat(f"/proc/{pid}").st_uid
    return {"uid": uid, "pid": pid, "agent": keeper.spec.name, "worker": keeper.id}


def _value(stored: object) -> object:
    assert isinstance(stored, bytes), "values are stored as JSON blobs"
    return codec.decode(stored)
