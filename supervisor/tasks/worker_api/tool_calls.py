"""Calls tools for workers and clients: decides the tools that each may call, counts the call for its tasks, and records it.

Every call of a tool goes through here, so that no way to the pool is without its limits and its record. The forms of a server
that asks during the call of a task are put to a person as questions of that task, whose clocks stand still meanwhile. Such a
question ends with the call: nothing takes its answer afterwards.
"""

import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from msgspec.structs import replace as replaced

from corral.mcp.pool.directory import SEPARATOR
from corral.mcp.pool.pool import Pool
from corral.mcp.pool.short_list import find, finders, is_long, pinned_of, unknown
from corral.mcp.pool.tool_index import Document, document_of
from corral.mcp.protocol import forms
from corral.mcp.protocol.catalog import FULL, Access
from corral.mcp.protocol.forms import MAX_ROUNDS, requires_input, too_many_rounds, with_input
from corral.mcp.protocol.messages import Caller
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.approvals import QUESTION_CHARS, AskParams
from corral.worker.contract.channel import begun
from corral.worker.contract.errors import CorralError, MethodNotFound, NotFound, PermissionDenied, ToolFailed
from corral.worker.contract.mcp_info import FIND_TOOL
from corral.worker.contract.names import tenant_of
from corral.worker.contract.trace_context import KEY, valid
from corral.worker.contract.worker_messages import CallStep, DelegateParams, StepParams, WorkerCallParams

from ..run.backlog import Entry
from ..run.dispatcher import Dispatcher
from ..run.tasks import Tasks
from . import exposed
from .approvals import Approvals
from .call_records import MAX_TOOL_NAME, CallRates, CallRecords, ToolCall
from .delegation import Delegation

ELICIT = "elicitation/create"

CAPABILITIES: Mapping[str, object] = {"elicitation": {"form": {}}}
"""Capabilities of the caller of a tool for a task: a person fills in forms."""

LEAST_S = 1.0
"""Seconds that a question is open at least, however little of its call is left."""

RESERVE_S = 2.0
"""Seconds before the end of a call in which its last question expires, so that the server is told; a tenth of a short call."""


class ServerQuestions:
    """Asks the questions of one tool call."""

    def __init__(
        self,
        approvals: Approvals,
        dispatcher: Dispatcher,
        entry: Entry,
        worker: str,
        server: str,
        limit_s: float,
        started: float,
    ) -> None:
        self._approvals = approvals
        self._dispatcher = dispatcher
        self._entry = entry
        self._worker = worker
        self._server = server
        self._ends_at = started + limit_s - min(RESERVE_S, limit_s / 10)

    async def ask_within_request(self, method: str, params: Mapping[str, object]) -> object:
        """Returns the response to a form, while the request of the call waits for it: its time limit holds."""
        return await self.ask(method, params, self._ends_at)

    async def ask(self, method: str, params: Mapping[str, object], ends_at: float | None = None) -> dict[str, object]:
        """Returns the response to a form; its questions expire at `ends_at`, else as those of tasks."""
        attempt = self._entry.attempt
        if method != ELICIT or attempt is None:
            reason = "no-task" if attempt is None else "not-declared"
            text = f'cannot ask "{method}" for MCP server "{self._server}": '
            text += "its task does not run any more" if attempt is None else "forms are asked alone"
            raise MethodNotFound(text, method=method, reason=reason, server=self._server)
        form = secrets.token_hex(8)

        async def put(asked: forms.Asked) -> forms.Reply:
            field = asked.field
            question = AskParams(
                f"MCP server {self._server} asks: {field.question}"[:QUESTION_CHARS],
                list(forms.options_of(field)),
                default=field.default,
                timeout_s=None if ends_at is None else max(ends_at - time.monotonic(), LEAST_S),
                key=f"mcp-{form}-{asked.number}-{asked.attempt}",
                can_decline=True,
            )
            with self._dispatcher.question(self._entry, attempt, question.question):
                record = await self._approvals.ask(self._entry.task, self._worker, question, self._server)
            return forms.Reply(record.state, record.answer)

        return await forms.fill(params, put)


LISTING_S = 10.0
"""Seconds that a list waits for servers that never listed anything; a change of the list is announced when they are up."""

KNOWN_S = 1.0
"""Seconds that the user of a worker's process is cached."""

MESSAGE_CHARS = 1_000
"""Characters of an error that are kept with a step."""

REACHED = frozenset({"server", "tool"})
"""Keys in the data of an error of a call that may have reached a server: its session adds them."""


def access_of(spec: Spec, tasks: Iterable[Sequence[str] | None] = ()) -> Access:
    """Returns the tools that an agent may see and call; with the lists of tasks, only those that each list allows as well."""
    lists = tuple([tuple(each) for each in tasks if each is not None])
    return _access(spec.tools, spec.denied_tools, lists, tenant_of(spec.name))


@lru_cache(1024)
def _access(
    allowed: tuple[str, ...] | None, denied: tuple[str, ...], lists: tuple[tuple[str, ...], ...], tenant: str
) -> Access:
    within: Access | None = None
    for each in lists:
        within = Access(each, within=within)
    return Access(allowed, denied, within=within, tenant=tenant)


@lru_cache(1024)
def tenants_access(tenant: str) -> Access:
    """Returns the access to all tools that a tenant may use; "" is the owner."""
    return Access(tenant=tenant)


@lru_cache(1024)
def caller_of(name: str, sharer: str, tenant: str = "") -> Caller:
    """Returns a caller for the pool: `name` is for errors, `sharer` and `tenant` own the processes that they share."""
    return Caller(name=name, sharer=sharer, tenant=tenant)


class ToolCalls:
    """Calls tools for workers and clients, within their limits, and records each call."""

    def __init__(
        self,
        agents: Agents,
        tasks: Tasks,
        pool: Pool,
        rates: CallRates,
        records: CallRecords,
        approvals: Approvals,
        tracing: Tracing,
    ) -> None:
        self._agents = agents
        self._tasks = tasks
        self._pool = pool
        self._rates = rates
        self._records = records
        self.history = records.history
        self._approvals = approvals
        self._tracing = tracing
        self._known: dict[str, tuple[int | None, float, dict[str, object]]] = {}

    async def tools_for(
        self, supervisor: WorkerSupervisor, task: str | None, *, short: bool = False
    ) -> list[dict[str, object]]:
        """Returns the tools that a worker may call for one of its tasks, None for all; starts servers that never listed anything.

        A long list is replaced by a short one if the worker takes that.
        """
        access = await self._access_of(supervisor, task)
        agents = exposed.tools(self._agents.registry, access)
        tools = [*(exposed.listed(each) for _, each in agents), *self._pool.tools(access)]
        mcp = supervisor.spec.mcp
        if not short or not is_long(tools, mcp.list_limit):
            return tools
        short_list = [exposed.record_of(each, *str(each["name"]).split(SEPARATOR)) for each in finders(tools)]
        return [*short_list, *pinned_of(tools, mcp.pinned)]

    async def _access_of(self, supervisor: WorkerSupervisor, task: str | None) -> Access:
        access = access_of(supervisor.spec, _lists(self._entries(supervisor, task)))
        await self._pool.list_servers(self._pool.concerned(access), patience_s=LISTING_S)
        return access

    def _documents(self, access: Access) -> tuple[Document, ...]:
        agents = exposed.tools(self._agents.registry, access)
        return (*(document_of(exposed.described(each)) for _, each in agents), *self._pool.documents(access))

    async def _find(self, supervisor: WorkerSupervisor, call: WorkerCallParams) -> dict[str, object]:
        """Returns MCP's result of a search for tools, which is no call of one."""
        access = await self._access_of(supervisor, call.task)
        agents = {name: exposed.described(each) for name, each in exposed.tools(self._agents.registry, access)}
        return find(
            call.arguments, self._documents(access), lambda name: agents.get(name) or self._pool.tool(name, access)
        )

    async def told(self, supervisor: WorkerSupervisor, call: WorkerCallParams, error: CorralError) -> CorralError:
        """Returns the error of a call, for a model: of a tool that is not there, with what it may have meant."""
        if not isinstance(error, NotFound) or error.data.get("tool") != call.name:
            return error
        return unknown(call.name, self._documents(await self._access_of(supervisor, call.task)))

    async def call_for(self, supervisor: WorkerSupervisor, call: WorkerCallParams) -> dict[str, object]:
        """Returns MCP's result of a worker's tool call."""
        if call.name == FIND_TOOL:
            return await self._find(supervisor, call)
        if call.name.startswith(exposed.PREFIX):
            access = access_of(supervisor.spec)
            return await self.call_agent(supervisor, call.task, call.name, call.arguments, access)
        entries = self._entries(supervisor, call.task)
        record = ToolCall(call.name, self._who(supervisor), supervisor)
        self._charge(entries, record)
        access = access_of(supervisor.spec, _lists(entries))
        name = supervisor.spec.name
        caller = caller_of(supervisor.id, name, tenant_of(name))
        return await self._call(record, {"name": call.name, "arguments": call.arguments}, caller, access, None)

    async def call_in_step(
        self, supervisor: WorkerSupervisor, entry: Entry, call: WorkerCallParams, step: CallStep
    ) -> dict[str, object]:
        """Returns MCP's result of a tool call that is a step of its task: its beginning and its end are kept.

        Raises:
            ToolFailed: an earlier beginning of the task made the call, nobody knows its end, and the tool does not say
                that it may be called twice.
        """
        if step.again and not await self._may_be_repeated(supervisor, entry, call.name):
            raise ToolFailed(
                f'cannot call "{call.name}" again in step "{step.name}": unknown end: it was under way when task'
                f' "{entry.task.id}" was interrupted, and the tool has neither readOnlyHint nor idempotentHint',
                **{"tool": call.name, "task": entry.task.id, "step": step.name, "reason": "unknown-end"},
            )
        steps, max_bytes = self._tasks.steps, supervisor.spec.tasks.max_step_bytes
        if not begun():
            await steps.begin_call(entry.task, step)
        at, began = time.time(), time.monotonic()
        ended = StepParams(entry.task.id, step.number, step.name, "tool", at)
        try:
            result = await self.call_for(supervisor, call)
        except CorralError as error:
            if not error.data.keys() >= REACHED:  # else the server may have done it
                failed = replaced(ended, duration_s=time.monotonic() - began, error=error.message[:MESSAGE_CHARS])
                await steps.put(entry.task, failed, max_bytes)
            raise
        await steps.put(entry.task, replaced(ended, duration_s=time.monotonic() - began, result=result), max_bytes)
        return result

    async def _may_be_repeated(self, supervisor: WorkerSupervisor, entry: Entry, name: str) -> bool:
        """Returns whether a tool says that a second call changes nothing more."""
        if name == FIND_TOOL:
            return True
        if name.startswith(exposed.PREFIX):
            return False
        _, tool = await self._pool.resolve(name, access_of(supervisor.spec, _lists([entry])))
        return tool.is_idempotent

    async def call_agent(
        self, supervisor: WorkerSupervisor, task: str | None, name: str, arguments: Mapping[str, object], access: Access
    ) -> dict[str, object]:
        """Returns MCP's result of a call of an exposed agent from a worker's tree: it is delegated by the worker's task."""
        entries = self._entries(supervisor, task)
        if not begun():  # else another program of the daemon has counted it
            self._charge(entries, ToolCall(name, self._who(supervisor), supervisor))
        for each in _lists(entries):
            access = access if each is None else Access(tuple(each), within=access)
        receiver = exposed.receiver_of(self._agents.registry, name, access.view)
        if receiver is None:
            raise NotFound(f'cannot find tool "{name}"', tool=name, near=[])
        if not access.admits(name, is_read_only=False):
            raise PermissionDenied(f'cannot call "{name}": it is not allowed', tool=name)
        order = exposed.order_of(receiver, arguments)
        asked = DelegateParams(order.objective, agent=receiver.name, input=order.input)
        record = await Delegation(self._tasks, supervisor, task).one(asked)
        return exposed.result_of(codec.as_object(record) or {})

    def removed(self, _agent: str) -> None:
        """Forgets the users of workers' processes, after an agent was removed."""
        self._known.clear()

    def _entries(self, supervisor: WorkerSupervisor, task: str | None) -> Sequence[Entry]:
        """Returns the tasks that a request is for: the one that it names, else all that the worker runs.

        A request that names none is bound by the limits of each that has not ended: one that was cancelled
        is over before its worker lets go of it.
        """
        named = (task,) if task is not None else tuple(supervisor.running)
        found: list[Entry] = []
        ended: NotFound | None = None
        for each in named:
            try:
                entry = self._tasks.accounting.task_of(supervisor, each)
            except NotFound as error:
                ended = error
            else:
                found += [] if entry is None else [entry]
        if ended is not None and not found:
            raise ended
        return found

    def _charge(self, entries: Sequence[Entry], record: ToolCall) -> None:
        """Counts a call for the tasks that it is made for."""
        if len(entries) == 1:
            record.entry = entries[0]
            record.task, record.delivery = entries[0].task.id, entries[0].task.delivery
            record.above = self._tracing.of_attempt(entries[0].task)
        try:
            if record.supervisor is not None:
                self._rates.charge(record.supervisor.spec, time.monotonic())
            for entry in entries:
                self._tasks.accounting.count_tool_call(entry)
                record.number = entry.task.tool_calls
        except CorralError as error:
            self._records.refuse(record, error.name)
            raise

    def access_for(self, who: Mapping[str, object]) -> Access:
        """Returns the tools that a client of the control socket may see and call: all, those of its tenant, or inside an agent's tree those of the agent."""
        if "agent" not in who:
            tenant = str(who.get("tenant", ""))
            return tenants_access(tenant) if tenant else FULL
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
        """Returns MCP's result of a client's tool call, which the audit keeps with its caller and outcome."""
        record = ToolCall(name, who, supervisor)
        if supervisor is not None:
            entries = self._entries(supervisor, None)
            self._charge(entries, record)
            for each in _lists(entries):  # inside a worker's tree the limits of its tasks hold
                access = access if each is None else Access(each, within=access)
        params = {**(more or {}), "name": name, "arguments": arguments}
        return await self._call(record, params, caller, access, timeout_s)

    async def _call(
        self, record: ToolCall, params: Mapping[str, object], caller: Caller, access: Access, timeout_s: float | None
    ) -> dict[str, object]:
        meta = codec.as_object(params.get("_meta")) if "_meta" in params else None
        above = record.above if meta is None else valid(meta.get(KEY)) or record.above
        own = self._tracing.of_call(above)
        if own is not None:
            params = {**params, "_meta": {**(meta or {}), KEY: own}}
        outcome = "cancelled"
        has_reached = True
        result: dict[str, object] | None = None
        try:
            self._agents.check_may_call(f'call "{record.tool}"')
            if SEPARATOR not in record.tool:
                backend, _ = await self._pool.resolve(record.tool, access)
                record.server = backend.name
            result = await self._complete(record, params, caller, access, timeout_s)
            outcome = "error" if result.get("isError") is True else "ok"
            return result
        except CorralError as error:
            outcome = error.name
            has_reached = error.data.keys() >= REACHED
            raise
        finally:
            self._records.add(record, caller, outcome, params["arguments"], has_reached=has_reached)
            if own is not None:
                self._tracing.called(above, own, record.ended(outcome))
            if record.task is not None and record.supervisor is not None:
                self._records.keep(record, record.supervisor.spec, outcome, result)

    async def _complete(
        self, record: ToolCall, params: Mapping[str, object], caller: Caller, access: Access, timeout_s: float | None
    ) -> dict[str, object]:
        """Returns the result of a call; a person gives the input that its server asks for, unless a client of its worker's tree can."""
        ask = None
        if record.entry is not None and "elicitation" not in caller.capabilities:
            questions = self._server_questions(record.entry, record, timeout_s)
            ask = questions.ask
            caller = replace(
                caller, capabilities={**caller.capabilities, **CAPABILITIES}, ask=questions.ask_within_request
            )
        for _ in range(MAX_ROUNDS):
            result = await self._pool.request("tools/call", params, access=access, caller=caller, timeout_s=timeout_s)
            if ask is None or not requires_input(result):
                return result
            params = await with_input("tools/call", params, result, ask)
        raise too_many_rounds("tools/call")

    def _server_questions(self, entry: Entry, record: ToolCall, timeout_s: float | None) -> ServerQuestions:
        assert record.supervisor is not None, "a call for a task has its worker"
        server = self._agents.agents.get(record.server)
        # One that is unknown asks nothing.
        most_s = 0.0 if server is None else server.spec.mcp.max_request_timeout
        limit_s = most_s if timeout_s is None else min(most_s, timeout_s)
        worker = record.supervisor.id
        return ServerQuestions(
            self._approvals, self._tasks.dispatcher, entry, worker, record.server, limit_s, record.started
        )

    def note_refused(self, tool: object, who: Mapping[str, object], error: CorralError) -> None:
        """Records a client's tool call that was refused before it was made."""
        self._records.refuse(ToolCall(str(tool)[:MAX_TOOL_NAME], who, None), error.name)

    def _who(self, supervisor: WorkerSupervisor) -> dict[str, object]:
        """Returns a worker as the audit names it; its uid is that of its process within the last second."""
        pid, now = supervisor.worker.pid, time.monotonic()
        known = self._known.get(supervisor.id)
        if known is not None and known[0] == pid and known[1] > now:
            return known[2]
        uid: int | None = None
        with suppress(OSError):
            uid = os.stat(f"/proc/{pid}").st_uid
        who: dict[str, object] = {"uid": uid, "pid": pid, "agent": supervisor.spec.name, "worker": supervisor.id}
        self._known[supervisor.id] = (pid, now + KNOWN_S, who)
        return who


def _lists(entries: Iterable[Entry]) -> list[tuple[str, ...] | None]:
    return [entry.limits.allowed_tools for entry in entries]
