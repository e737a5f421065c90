"""What workers may ask for and say: tools, delegation, memory, checkpoints, events, progress, logs.

A worker is not trusted: it speaks only for its own tasks, sees only its own agent's memory, uses only
the tools that its agent and its task are allowed, and cannot invent events of the daemon.
"""

import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TypeVar

import msgspec

from ...mcp.pool.directory import SEPARATOR
from ...mcp.pool.pool import Pool
from ...mcp.protocol.caller import Caller
from ...mcp.protocol.catalog import FULL, Access
from ...worker.contract.errors import (
    CorralError,
    InvalidParams,
    MethodNotFound,
)
from ...worker.contract.jsonrpc import Notification, Request
from ...worker.contract.worker_messages import (
    BeatParams,
    CheckpointParams,
    DelegateAllParams,
    DelegateParams,
    MemoryParams,
    MemorySearchParams,
    ProgressParams,
    PublishParams,
    SubscribeParams,
    UsageParams,
    WorkerCallParams,
    WorkerLogParams,
    WorkerToolsParams,
)
from ..agents.agents import Agents
from ..agents.hibernation import Hibernation
from ..audit.hash_chain import digest
from ..audit.log import REFUSALS, Audit, whose
from ..config.secrets import masked
from ..config.spec import Events, Spec
from ..events.bus import rfc3339
from ..sessions.sessions import Memory
from ..supervision.checkpoints import Reason
from ..supervision.worker_supervisor import Shared, WorkerChanges, WorkerSupervisor
from ..tasks.backlog import Entry
from ..tasks.tasks import Tasks
from .worker_delegation import Delegation
from .worker_pubsub import WorkerPubsub

LEVELS = ("debug", "info", "warning", "error", "critical")

LISTING_S = 10.0
"""How long a list waits for servers that never listed anything; what they have is told of when they are up."""

MAX_TOOL_NAME = 200
"""Characters of a tool's name in a record: a longer one is no tool's."""

MAX_ARGUMENTS_BYTES = 4096
"""Of JSON in a record that keeps arguments; of longer ones it has the SHA-256 alone."""

KNOWN_S = 1.0
"""How long it is not looked again whose a worker's process is."""

REACHED = frozenset({"server", "tool"})
"""What is in the data of an error of a call that a server may have seen: its session says so."""

REFUSED = frozenset(error.__name__ for error in REFUSALS)

T = TypeVar("T")

Handler = Callable[[WorkerSupervisor, Mapping[str, object]], Awaitable[object]]


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


def access_of(spec: Spec, tasks: Iterable[Sequence[str] | None] = ()) -> Access:
    """Which tools an agent may see and call; with the lists of tasks, only what each of them allows as well."""
    lists = tuple([tuple(each) for each in tasks if each is not None])
    return _access(spec.tools, spec.denied_tools, lists)


@lru_cache(1024)
def _access(
    allowed: tuple[str, ...] | None, denied: tuple[str, ...], lists: tuple[tuple[str, ...], ...]
) -> Access:
    within: Access | None = None
    for each in lists:
        within = Access(each, within=within)
    return Access(allowed, denied, within=within)


@lru_cache(1024)
def caller_of(name: str, sharer: str) -> Caller:
    """Who makes a call, as the pool has to know him: by name for errors, and whose processes he may share."""
    return Caller(name=name, sharer=sharer)


class WorkerApi:
    """Serves every worker of one daemon."""

    def __init__(self, shared: Shared) -> None:
        self.changes = WorkerChanges()
        self.called: list[Callable[[str | None, str, str, float], None]] = []
        """Called after each tool call that was made: the agent (None: outside), the server, the outcome, seconds."""
        self._shared = shared
        self._agents: Agents | None = None
        self._tasks: Tasks | None = None
        self._hibernation: Hibernation | None = None
        self._memory: Memory | None = None
        self._pool: Pool | None = None
        self._audit: Audit | None = None
        self._known: dict[str, tuple[int | None, float, dict[str, object]]] = {}
        self.pubsub = WorkerPubsub(shared.bus, self._events)
        self._methods: dict[str, Handler] = {
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
            "task/delegate": self._delegate,
            "task/delegate_all": self._delegate_all,
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
    def memory(self) -> Memory:
        """What agents remember."""
        assert self._memory is not None, "it is attached before the first worker"
        return self._memory

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self._memory = memory

    @property
    def hibernation(self) -> Hibernation:
        """What workers save and begin with."""
        assert self._hibernation is not None, "it is attached before the first worker"
        return self._hibernation

    @hibernation.setter
    def hibernation(self, hibernation: Hibernation) -> None:
        self._hibernation = hibernation

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

    # -- the supervisors' side

    def serve(self, supervisor: WorkerSupervisor, request: Request) -> Awaitable[object]:
        """The answer to a request of a worker.

        Raises:
            MethodNotFound: workers have no such method.
            CorralError: what the method raises.
        """
        method = self._methods.get(request.method)
        if method is None:
            raise MethodNotFound(f'cannot call "{request.method}": workers have no such method')
        return method(supervisor, request.params)

    def hear(self, supervisor: WorkerSupervisor, notification: Notification) -> None:
        """Takes a notification of a worker; one that is malformed goes to its log."""
        try:
            if notification.method == "progress":
                self._progress(supervisor, notification.params)
            elif notification.method == "log":
                self._log(supervisor, notification.params)
            elif notification.method == "usage":
                self._usage(supervisor, notification.params)
            elif notification.method == "heartbeat" and "task" in notification.params:
                self._beat(supervisor, notification.params)
            # Any other heartbeat says all by coming; what we do not know is from a newer worker.
        except CorralError as error:
            supervisor.note("warning", f'refused "{notification.method}": {error.message}')

    async def checkpoint_of(self, supervisor: WorkerSupervisor) -> dict[str, object]:
        """What the next life of a worker begins with.

        Raises:
            SpawnFailed: it cannot be had.
        """
        return await self.hibernation.checkpoint_of(supervisor)

    def removed(self, agent: str) -> None:
        """An agent is no more: nobody will run what waits for it."""
        self._known.clear()
        self.hibernation.removed(agent)
        self.tasks.abandon(agent)

    # -- tools

    async def _list_tools(
        self, supervisor: WorkerSupervisor, params: Mapping[str, object]
    ) -> object:
        asked = convert(params, WorkerToolsParams, "tools/list")
        access = access_of(supervisor.spec, _lists(self._entries(supervisor, asked.task)))
        concerned = [name for name in self.pool.names() if concerns(access, name)]
        await self.pool.list_servers(concerned, patience_s=LISTING_S)
        return {"tools": self.pool.tools(access)}

    async def _call_tool(
        self, supervisor: WorkerSupervisor, params: Mapping[str, object]
    ) -> object:
        call = convert(params, WorkerCallParams, "tools/call")
        entries = self._entries(supervisor, call.task)
        record = _ToolCall(call.name, self._who(supervisor), supervisor)
        self._charge(entries, record)
        access = access_of(supervisor.spec, _lists(entries))
        caller = caller_of(supervisor.id, supervisor.spec.name)
        sent = {"name": call.name, "arguments": call.arguments}
        return await self._call(record, sent, caller, access, None)

    def _entries(self, supervisor: WorkerSupervisor, task: str | None) -> Sequence[Entry]:
        """The tasks that a request is for: the one that it names, else all that the worker runs.

        Who names none must not be freer than any of his tasks.

        Raises:
            NotFound: the worker does not run that task.
        """
        named = (task,) if task is not None else tuple(supervisor.running)
        found = [self.tasks.task_of(supervisor, each) for each in named]
        return [entry for entry in found if entry is not None]

    def _charge(self, entries: Sequence[Entry], record: "_ToolCall") -> None:
        """Counts a call for the tasks that it is made for.

        Raises:
            ResourceLimitExceeded: one of them may make no more.
        """
        record.task = entries[0].task.id if len(entries) == 1 else None
        try:
            for entry in entries:
                self.tasks.count_tool_call(entry)
        except CorralError as error:
            self._record(record, error.name)
            raise

    def access_for(self, who: Mapping[str, object]) -> Access:
        """What a client of the control socket may see and call: all, or inside an agent's tree what that may."""
        assert self._agents is not None, "attach comes before the first call"
        if "agent" not in who:
            return FULL
        agent = self._agents.agents.get(str(who["agent"]))
        return Access(()) if agent is None else access_of(agent.spec)

    async def call(
        self,
        name: str,
        arguments: Mapping[str, object],
        *,
        caller: Caller,
        who: Mapping[str, object],
        access: Access = FULL,
        timeout_s: float | None = None,
        more: Mapping[str, object] | None = None,
        supervisor: WorkerSupervisor | None = None,
    ) -> dict[str, object]:
        """MCP's result of one tool call, which the audit keeps with its caller and outcome.

        Every call of a tool goes through here or comes from a worker.

        Args:
            name: the tool's exposed name.
            arguments: for the tool.
            caller: for the pool, the server and the event.
            who: for the audit.
            access: what of the pool there is for him.
            timeout_s: as for `Pool.request`.
            more: what else is in the params of `tools/call`, such as `_meta` and `inputResponses`.
            supervisor: the worker in whose tree the caller is: the call counts for each of its tasks.

        Raises:
            ResourceLimitExceeded: a task of that worker may make no more calls.
            CorralError: as `Pool.request`.
        """
        record = _ToolCall(name, who, supervisor)
        if supervisor is not None:
            entries = self._entries(supervisor, None)
            self._charge(entries, record)
            for each in _lists(entries):  # inside a worker's tree nobody is freer than its tasks
                access = access if each is None else Access(each, within=access)
        params = {**(more or {}), "name": name, "arguments": arguments}
        return await self._call(record, params, caller, access, timeout_s)

    async def _call(
        self,
        record: "_ToolCall",
        params: Mapping[str, object],
        caller: Caller,
        access: Access,
        timeout_s: float | None,
    ) -> dict[str, object]:
        assert self._agents is not None, "attach comes before the first call"
        outcome = "cancelled"
        has_reached = True
        try:
            self._agents.check_may_call(f'call "{record.tool}"')
            if SEPARATOR not in record.tool:
                backend, _ = await self.pool.resolve(record.tool, access)
                record.server = backend.name
            result = await self.pool.request(
                "tools/call",
                params,
                access=access,
                caller=caller,
                timeout_s=timeout_s,
            )
            outcome = "error" if result.get("isError") is True else "ok"
            return result
        except CorralError as error:
            outcome = error.name
            has_reached = error.data.keys() >= REACHED
            raise
        finally:
            self._note(record, caller, outcome, params["arguments"], has_reached=has_reached)

    def note_refused(self, tool: object, who: Mapping[str, object], error: CorralError) -> None:
        """Has the audit keep a tool call from outside that was refused before it was one."""
        self._record(_ToolCall(str(tool)[:MAX_TOOL_NAME], who, None), error.name)

    def _note(
        self,
        call: "_ToolCall",
        caller: Caller,
        outcome: str,
        arguments: object,
        *,
        has_reached: bool,
    ) -> None:
        """Tells of a call that has ended, and has the audit keep it.

        Only what no server has seen is a refusal, of which many alike are one record, and a worker's no event.
        """
        call.duration_s = round(time.monotonic() - call.started, 6)
        assert self._agents is not None, "attach comes before the first call"
        supervisor = call.supervisor
        is_refusal = outcome in REFUSED and not has_reached
        if not is_refusal:
            for each in self.called:
                agent = None if supervisor is None else supervisor.spec.name
                each(agent, call.server, outcome, call.duration_s)
        bus = self._shared.bus
        # It is not stored, and at thousands a second: without a hearer there is no event, and no number for it.
        if (supervisor is None or not is_refusal) and bus.is_heard("mcp.call"):
            found = self._agents.agents.get(call.server)
            has_server = found is not None and found.spec.kind == "mcp"
            bus.publish(
                "mcp.call",
                agent=None if supervisor is None else supervisor.spec.name,
                worker=None if supervisor is None else supervisor.id,
                incarnation=None if supervisor is None else supervisor.worker.incarnation,
                caller=caller.name,
                server=call.server if has_server else None,
                tool=call.tool[:MAX_TOOL_NAME],
                task=call.task,
                outcome=outcome,
                duration_s=call.duration_s,
                store=False,  # the audit has it: a tool call is one stored row
            )
        self._record(call, outcome, None if is_refusal else arguments, is_refusal=is_refusal)

    def _record(
        self, call: "_ToolCall", outcome: str, arguments: object = None, *, is_refusal: bool = True
    ) -> None:
        assert self._audit is not None, "attach comes before the first call"
        record: dict[str, object] = {
            "at": rfc3339(call.at_s),
            "action": "mcp.call",
            "who": call.who,
            "tool": call.tool[:MAX_TOOL_NAME],
            "server": call.server[:MAX_TOOL_NAME],
            "task": call.task,
            "result": outcome,
            "duration_s": call.duration_s,
        }
        if is_refusal:
            if self._audit.refuse(record, whose(call.who)):
                self._audit.add(record)
            return
        sha256, size_bytes = digest(arguments)
        kept: dict[str, object] = {"sha256": sha256, "bytes": size_bytes}
        if sha256 is not None and self._keeps(size_bytes):
            kept["value"] = masked(arguments)
        record["arguments"] = kept
        self._audit.add(record)

    def _keeps(self, size_bytes: int) -> bool:
        """Whether arguments of this size are kept, beside their digest."""
        assert self._agents is not None, "attach comes before the first call"
        return size_bytes <= MAX_ARGUMENTS_BYTES and self._agents.config.audit.arguments == "keep"

    def _who(self, supervisor: WorkerSupervisor) -> dict[str, object]:
        """A worker as the audit names it; its uid is the one that its process had within the last second."""
        pid, now = supervisor.worker.pid, time.monotonic()
        known = self._known.get(supervisor.id)
        if known is not None and known[0] == pid and known[1] > now:
            return known[2]
        uid: int | None = None
        with suppress(OSError):
            uid = os.stat(f"/proc/{pid}").st_uid
        who: dict[str, object] = {
            "uid": uid,
            "pid": pid,
            "agent": supervisor.spec.name,
            "worker": supervisor.id,
        }
        self._known[supervisor.id] = (pid, now + KNOWN_S, who)
        return who

    # -- delegation

    async def _delegate(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, DelegateParams, "task/delegate")
        return await Delegation(self.tasks, supervisor, asked.task).one(asked)

    async def _delegate_all(
        self, supervisor: WorkerSupervisor, params: Mapping[str, object]
    ) -> object:
        asked = convert(params, DelegateAllParams, "task/delegate_all")
        return await Delegation(self.tasks, supervisor, asked.task).all(asked)

    # -- memory and checkpoints

    async def _put(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/put")
        await self.memory.key_values.put(
            supervisor.spec.name, asked.session, asked.key, asked.value, ttl_s=asked.ttl_s
        )
        return {}

    async def _get(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/get")
        found = await self.memory.key_values.get(supervisor.spec.name, asked.session, asked.key)
        return {"value": found}

    async def _delete(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemoryParams, "memory/delete")
        await self.memory.key_values.delete(supervisor.spec.name, asked.session, asked.key)
        return {}

    async def _search(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, MemorySearchParams, "memory/search")
        return {
            "items": await self.memory.key_values.search(
                supervisor.spec.name, asked.session, asked.query, asked.limit
            )
        }

    async def _checkpoint(
        self, supervisor: WorkerSupervisor, params: Mapping[str, object]
    ) -> object:
        asked = convert(params, CheckpointParams, "checkpoint/put")
        entry = self.tasks.task_of(supervisor, asked.task) if asked.task is not None else None
        task = None if entry is None else entry.task.id
        reason: Reason = "worker" if task is None else "task"
        number = await self._shared.checkpoints.put(
            supervisor.spec.name, supervisor.id, task, asked.data, reason
        )
        return {"id": number}

    # -- events

    async def _publish(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> object:
        asked = convert(params, PublishParams, "event/publish")
        return {"seq": self.pubsub.publish(supervisor, asked.type, asked.data)}

    async def _subscribe(
        self, supervisor: WorkerSupervisor, params: Mapping[str, object]
    ) -> object:
        self.pubsub.subscribe(supervisor, convert(params, SubscribeParams, "event/subscribe").types)
        return {}

    # -- notifications

    def _progress(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        said = convert(params, ProgressParams, "progress")
        entry = self.tasks.task_of(supervisor, said.task)
        if entry is not None:
            self.tasks.progressed(entry, said.progress, said.total, said.message)

    def _beat(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        entry = self.tasks.task_of(supervisor, convert(params, BeatParams, "heartbeat").task)
        if entry is not None:
            self.tasks.beaten(entry)

    def _usage(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        said = convert(params, UsageParams, "usage")
        entry: Entry | None = self.tasks.task_of(supervisor, said.task)
        if entry is not None:
            self.tasks.used(entry, said.tokens, said.cost_cents)

    def _log(self, supervisor: WorkerSupervisor, params: Mapping[str, object]) -> None:
        said = convert(params, WorkerLogParams, "log")
        level = said.level if said.level in LEVELS else "info"
        threshold = supervisor.spec.monitoring.agent_log_level
        if threshold not in LEVELS or LEVELS.index(level) >= LEVELS.index(threshold):
            supervisor.note(level, said.message, said.fields)

    async def close(self) -> None:
        """Ends what forwards events to workers."""
        await self.pubsub.close()


class _ToolCall:
    """What is known of a tool call before it is known what comes of it."""

    __slots__ = ("at_s", "duration_s", "server", "started", "supervisor", "task", "tool", "who")

    def __init__(
        self, tool: str, who: Mapping[str, object], supervisor: WorkerSupervisor | None
    ) -> None:
        self.tool = tool
        self.server = tool.partition(SEPARATOR)[0]
        self.who = who
        self.task: str | None = None
        self.supervisor = supervisor
        self.at_s = time.time()
        self.started = time.monotonic()
        self.duration_s = 0.0


def _lists(entries: Iterable[Entry]) -> list[tuple[str, ...] | None]:
    return [entry.limits.allowed_tools for entry in entries]


def concerns(access: Access, server: str) -> bool:
    """Whether a tool of a server could be admitted, whatever its name is: whom nobody may call is not started."""
    patterns = access.allowed
    if patterns is not None and not any(_may_mean(pattern, f"{server}__") for pattern in patterns):
        return False
    return access.within is None or concerns(access.within, server)


def _may_mean(pattern: str, beginning: str) -> bool:
    head = re.split(r"[*?]", pattern, maxsplit=1)[0]
    return head.startswith(beginning) or (head != pattern and beginning.startswith(head))
