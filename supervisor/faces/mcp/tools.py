"""Serves corral's own tools to MCP clients, `corral__*`: show and operate agents and servers, run tasks, read logs.

Each is a few calls of the method table under the client's permission, so that rights, limits and audit are
those of every other caller. The schemas of a tool are made from the Structs of its arguments and its result.
This module must not know a client or a connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import getdoc
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from corral.mcp.pool.tool_index import Document, document_of
from corral.supervisor.api.schema.documents import any_value
from corral.supervisor.api.table.table import Control
from corral.supervisor.tasks.worker_api import exposed
from corral.supervisor.tasks.worker_api.requests import convert
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, Overloaded, Timeout
from corral.worker.contract.records import ENDED, Task
from corral.worker.contract.trace_context import KEY
from corral.worker.control.access import Rights, permits
from corral.worker.control.reports import Approvals

from .elicitation import Person
from .shapes import (
    ApprovalsArguments,
    CallArguments,
    Called,
    CancelArguments,
    Entry,
    ListArguments,
    Listed,
    Logged,
    LogsArguments,
    MethodEntry,
    Methods,
    MethodsArguments,
    OperationArguments,
    RunArguments,
    ShowArguments,
    Shown,
    Summary,
    TaskArguments,
    Tasks,
    TasksArguments,
)
from .tool_caller import ToolCaller

PREFIX = "corral__"
"""The beginning of these tools' names; no server can have it."""

CALL = f"{PREFIX}call"
"""The tool that does what the others do: offered only where none of them is denied."""

MAX_TEXT = 100_000
"""Characters of log in one answer: it goes into a model's context."""

MAX_OBJECTIVE = 200
"""Characters of an objective in a list of tasks."""

CANCEL_S = 10.0
"""Seconds to wait for the cancelling of a task whose client has withdrawn its call."""

UP = ("Ready", "Busy", "Idle")


A = TypeVar("A", bound=Struct)


class Answer(NamedTuple):
    """Holds a tool's answer: for programs, and as text for people and models where its JSON would not do."""

    structured: object
    text: str | None = None
    is_error: bool = False


Hint = Literal["read-only", "destructive", "idempotent", "task"]
"""A property of a tool; the calls of a "task" can be tasks of MCP."""

Serve = Callable[[Control, A, ToolCaller], Awaitable[Answer]]


@dataclass(frozen=True)
class OwnTool:
    """Represents one of these tools."""

    name: str
    title: str
    description: str
    arguments: type[Struct]
    result: type[Struct]
    needs: Rights
    hints: tuple[Hint, ...]
    serve: Callable[[Control, Any, ToolCaller], Awaitable[Answer]]  # each with its own arguments

    @property
    def is_read_only(self) -> bool:
        """Returns whether a call changes nothing."""
        return "read-only" in self.hints

    def is_within(self, permission: Rights | None) -> bool:
        """Returns whether a client with this permission may use it."""
        return permission is not None and permits(permission, self.needs)

    @cached_property
    def document(self) -> Document:
        """Returns what is searched of the tool."""
        return document_of(self.described())

    def described(self) -> dict[str, object]:
        """Returns the entry of `tools/list`."""
        support = {"execution": {"taskSupport": "optional"}} if "task" in self.hints else {}
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            **support,
            "inputSchema": _schema(self.arguments),
            "outputSchema": _schema(self.result),
            "annotations": {
                "title": self.title,
                "readOnlyHint": self.is_read_only,
                "destructiveHint": "destructive" in self.hints,
                "idempotentHint": self.is_read_only or "idempotent" in self.hints,
                "openWorldHint": "task" in self.hints,
            },
        }

    async def call(self, control: Control, arguments: Mapping[str, object], caller: ToolCaller) -> dict[str, object]:
        """Calls the tool and returns MCP's result object."""
        return _result_of(await self.serve(control, convert(arguments, self.arguments, self.name), caller))


OWN_TOOLS: dict[str, OwnTool] = {}
"""The tools, by name."""


def _tool(
    name: str, title: str, arguments: type[A], result: type[Struct], needs: Rights, *hints: Hint
) -> Callable[[Serve[A]], Serve[A]]:
    """Returns a decorator that makes a function one of these tools, whose description is its docstring."""

    def add(serve: Serve[A]) -> Serve[A]:
        tool = OwnTool(f"{PREFIX}{name}", title, getdoc(serve) or "", arguments, result, needs, hints, serve)
        OWN_TOOLS[tool.name] = tool
        return serve

    return add


def _result_of(answer: Answer) -> dict[str, object]:
    """Returns MCP's result."""
    structured = msgspec.to_builtins(answer.structured)
    text = answer.text
    if text is None:
        text = codec.encode(structured).decode()
    return {"content": [{"type": "text", "text": text}], "structuredContent": structured, "isError": answer.is_error}


@cache
def _schema(type_: type[Struct]) -> dict[str, object]:
    (reference,), components = msgspec.json.schema_components(
        [type_], schema_hook=any_value, ref_template="#/$defs/{name}"
    )
    schema = components.pop(str(reference["$ref"]).rpartition("/")[2])
    for each in (schema, *components.values()):
        each.pop("title", None)  # the name and docstring of a Struct are for readers of the code,
        each.pop("description", None)  # and mean nothing to a client
    return {**schema, "$defs": components} if components else schema


# -- calls


def _entry(status: Mapping[str, object]) -> Entry:
    """Summarizes the status of an agent."""
    workers = [codec.as_object(each) or {} for each in codec.as_array(status.get("workers")) or []]
    down = [worker for worker in workers if worker.get("state") not in UP]
    reasons = [str(worker.get("reason") or "") for worker in down]
    for worker in down:
        last = codec.as_object(worker.get("last_exit"))
        if worker.get("state") == "Terminated" and last is not None:
            reasons.append(f"{last.get('result')}: {last.get('message')}")
    return Entry(
        name=str(status["name"]),
        kind=str(status["kind"]),
        state=str(status["state"]),
        wanted=status.get("wanted") is True,
        degraded=status.get("degraded") is True,
        workers=len(workers),
        workers_up=len(workers) - len(down),
        tasks=[str(each["task"]) for each in workers if each.get("task") is not None],
        queued=int(str(status.get("queued") or 0)),
        reason=next((reason for reason in reasons if reason), ""),
    )


async def call_method(
    control: Control, method: str, params: Mapping[str, object], caller: ToolCaller
) -> dict[str, object]:
    """Returns the result of a method of the table, as JSON has it; raises its CorralError."""
    answer = msgspec.json.encode(await control.call(method, params, caller))  # parts may be so already
    return codec.as_object(codec.decode(answer)) or {}


@_tool("list", "List agents and servers", ListArguments, Listed, "read", "read-only")
async def _list(control: Control, asked: ListArguments, caller: ToolCaller) -> Answer:
    """The agents and MCP servers that corral keeps: state, workers, running tasks, and why one is not up."""
    status = await call_method(control, "daemon.status", {}, caller)
    keys = {"all": ("agents", "mcp_servers"), "agents": ("agents",), "servers": ("mcp_servers",)}
    found = [each for key in keys[asked.kind] for each in codec.as_array(status.get(key)) or []]
    return Answer(Listed([_entry(codec.as_object(each) or {}) for each in found]))


@_tool("show", "Show an agent or server", ShowArguments, Shown, "read", "read-only")
async def _show(control: Control, asked: ShowArguments, caller: ToolCaller) -> Answer:
    """An agent or MCP server in full: its configuration, workers, last exits and the end of its stderr."""
    return Answer(await call_method(control, "agent.show", {"name": asked.name}, caller))


def _operation(name: str, title: str, description: str, *hints: Hint) -> None:
    async def operate(control: Control, asked: OperationArguments, caller: ToolCaller) -> Answer:
        params = {"names": [asked.name], "timeout_s": asked.timeout_s}
        found = await call_method(control, f"agent.{name}", params, caller)
        agents = codec.as_array(found.get("agents")) or []
        return Answer(Listed([_entry(codec.as_object(each) or {}) for each in agents]))

    operate.__doc__ = description
    _tool(name, title, OperationArguments, Listed, "operate", *hints)(operate)


_operation(
    "start",
    "Start an agent or server",
    "Starts an agent, MCP server or worker and waits until it is ready.",
    "idempotent",
)
_operation(
    "stop",
    "Stop an agent or server",
    "Stops an agent, MCP server or worker and waits until no process of it is left.",
    "destructive",
    "idempotent",
)
_operation(
    "restart",
    "Restart an agent or server",
    "Stops an agent, MCP server or worker, starts it again and waits until it is ready.",
    "destructive",
)


def _task_answer(record: Mapping[str, object]) -> Answer:
    """Returns a task for a model: its output, or the reason why there is none."""
    state = record.get("state")
    error = codec.as_object(record.get("error"))
    if state == "succeeded":
        output = record.get("output")
        return Answer(record, output if isinstance(output, str) else codec.encode(output).decode())
    if state in ENDED:
        why = f": {error.get('message')}" if error is not None else ""
        return Answer(record, f"task {record.get('id')} has ended as {state}{why}", is_error=True)
    reason = f" ({record['reason']})" if record.get("reason") else ""
    return Answer(record, f"task {record.get('id')} is {state}{reason}; ask corral__task for its end")


def run_params(asked: RunArguments) -> dict[str, object]:
    """Returns the params of `task.submit`."""
    given = msgspec.to_builtins(asked)
    own = ("detach", "wait_s")
    return {key: value for key, value in given.items() if value is not None and key not in own}


def run_result(record: Mapping[str, object]) -> dict[str, object]:
    """Returns MCP's result of `corral__run` for the record of a task."""
    return _result_of(_task_answer(record))


@_tool("run", "Run a task", RunArguments, Task, "operate", "destructive", "task")
async def _run(control: Control, asked: RunArguments, caller: ToolCaller) -> Answer:
    """Gives an agent a task and waits for its end, with progress; the answer is what the agent returned."""
    params = run_params(asked)
    if caller.traceparent is not None:
        params[KEY] = caller.traceparent
    person = caller.person
    if person is None or person.task is None:
        record = await call_method(control, "task.submit", params, caller)
    else:
        record = await _begun(control, person.task, asked, caller)
    if asked.detach:
        return _task_answer(record)
    task = {"task": record["id"]}
    try:
        waited = {**task, "timeout_s": asked.wait_s, "stream": caller.wants_parts}
        waiting = call_method(control, "task.wait", waited, caller)
        if person is not None:
            await introduce(control, person, caller)
            waiting = person.beside(str(record["id"]), waiting)
        return _task_answer(await waiting)
    except Timeout:
        return _task_answer(await call_method(control, "task.show", task, caller))
    except asyncio.CancelledError as withdrawn:
        if withdrawn.args:  # on request; a client that has only gone leaves the task running
            try:
                async with asyncio.timeout(CANCEL_S):
                    await call_method(control, "task.cancel", task, caller)
            except (CorralError, TimeoutError):
                pass  # it goes on, and no caller is left
        raise


async def _begun(control: Control, task: str, asked: RunArguments, caller: ToolCaller) -> dict[str, object]:
    """Returns the task with which a call goes on, if it is the one that these arguments have begun."""
    record = await call_method(control, "task.show", {"task": task}, caller)
    given = (asked.objective, msgspec.to_builtins(asked.input))
    if given != (record.get("objective"), record.get("input")) or asked.agent not in (None, record.get("agent")):
        text = f'cannot go on with task "{task}": it is not that of this call'
        raise InvalidParams(text, key="requestState", value=task)
    return record


async def introduce(control: Control, person: Person, caller: ToolCaller) -> None:
    """Lets a person answer under the rights of its client, and takes the answers that the call brings."""

    async def give(number: int, answer: str | None) -> object:
        return await call_method(control, "approval.answer", {"approval": number, "answer": answer}, caller)

    person.give = give
    await person.take_responses()


@_tool("approvals", "List open questions", ApprovalsArguments, Approvals, "read")
async def _approvals(control: Control, asked: ApprovalsArguments, caller: ToolCaller) -> Answer:
    """The open questions of tasks. A client with elicitation is asked them, and the rest is returned."""
    params = {key: value for key, value in msgspec.to_builtins(asked).items() if value is not None}
    person = caller.person
    if person is not None:
        await introduce(control, person, caller)
        found = await call_method(control, "approval.list", params, caller)
        records = [codec.as_object(each) or {} for each in codec.as_array(found["approvals"]) or []]
        await person.ask_all([int(str(each["id"])) for each in records])
    return Answer(await call_method(control, "approval.list", params, caller))


async def run_exposed(
    control: Control, receiver: exposed.Receiver, order: exposed.Order, caller: ToolCaller
) -> dict[str, object]:
    """Runs a task on an exposed agent, team or workflow, and returns MCP's result."""
    answer = await _run(control, RunArguments(order.objective, agent=receiver.name, input=order.input), caller)
    return exposed.result_of(codec.as_object(answer.structured) or {})


@_tool("logs", "Read logs", LogsArguments, Logged, "read", "read-only")
async def _logs(control: Control, asked: LogsArguments, caller: ToolCaller) -> Answer:
    """The last lines that agents and MCP servers wrote, merged by time."""
    params: dict[str, object] = {"n": asked.lines, "previous": asked.previous}
    if asked.name is not None:
        params["names"] = [asked.name]
    for key in ("task", "stream", "level", "grep"):
        if (value := getattr(asked, key)) is not None:
            params[key] = value
    found = await call_method(control, "log.read", params, caller)
    records = [codec.as_object(each) or {} for each in codec.as_array(found.get("records")) or []]
    size = 0
    kept: list[dict[str, object]] = []
    lines: list[str] = []
    for record in reversed(records):
        line = " ".join(str(record.get(key) or "-") for key in ("at", "worker", "stream", "text"))
        size += len(line)
        if size > MAX_TEXT:
            if not kept:
                raise Overloaded(f"cannot show a line of more than {MAX_TEXT} characters")
            break
        kept.append(record)
        lines.append(line)
    return Answer(Logged(kept[::-1]), "\n".join(lines[::-1]) or "there are no such lines")


@_tool("tasks", "List tasks", TasksArguments, Tasks, "read", "read-only")
async def _tasks(control: Control, asked: TasksArguments, caller: ToolCaller) -> Answer:
    """Tasks, the newest first, each in short."""
    given = msgspec.to_builtins(asked)
    params = {key: value for key, value in given.items() if value is not None}
    found = await call_method(control, "task.list", params, caller)
    tasks = [msgspec.convert(each, Task) for each in codec.as_array(found.get("tasks")) or []]
    return Answer(
        Tasks(
            [
                Summary(
                    id=task.id,
                    agent=task.agent,
                    state=task.state,
                    objective=task.objective[:MAX_OBJECTIVE],
                    priority=task.priority,
                    attempt=task.attempt,
                    created_at=task.created_at,
                    finished_at=task.finished_at,
                    duration_s=task.duration_s,
                    progress=task.progress,
                    error=None if task.error is None else task.error.message,
                )
                for task in tasks
            ]
        )
    )


@_tool("task", "Look at a task", TaskArguments, Task, "read", "read-only")
async def _task(control: Control, asked: TaskArguments, caller: ToolCaller) -> Answer:
    """One task with its result or how far it is; can wait for its end."""
    if asked.wait_s > 0:
        try:
            async with asyncio.timeout(asked.wait_s):
                return _task_answer(await call_method(control, "task.wait", {"task": asked.task}, caller))
        except TimeoutError:
            pass  # it goes on: its state is the answer
    answer = _task_answer(await call_method(control, "task.show", {"task": asked.task}, caller))
    return answer._replace(is_error=False)  # a question about a task that failed has not failed


@_tool("cancel", "Cancel a task", CancelArguments, Task, "operate", "destructive", "idempotent")
async def _cancel(control: Control, asked: CancelArguments, caller: ToolCaller) -> Answer:
    """Cancels a task and what it delegated."""
    answer = _task_answer(await call_method(control, "task.cancel", {"task": asked.task}, caller))
    return answer._replace(is_error=False)


NOT_CALLED = ("auth.", "mcp.")
"""Beginnings of the names of methods that a client of MCP has in another way: its own requests, within its tools."""


def _is_callable(name: str) -> bool:
    """Returns whether a method has an answer for a client of MCP."""
    return not name.startswith(NOT_CALLED) and not name.endswith(".follow")


@_tool("methods", "List methods", MethodsArguments, Methods, "read", "read-only")
async def _methods(control: Control, asked: MethodsArguments, caller: ToolCaller) -> Answer:
    """The methods of the daemon that corral__call may call: name, summary, params, an example."""
    found = [
        MethodEntry(
            name=name,
            summary=entry.summary,
            needs=entry.access.permission,
            params=[each.name + ("" if each.required else "?") for each in fields(entry.params)],
            example=dict(entry.example),
        )
        for name, entry in sorted(control.methods.items())
        if name.startswith(asked.prefix) and _is_callable(name) and permits(caller.permission, entry.access.permission)
    ]
    return Answer(Methods(found))


@_tool("call", "Call a method", CallArguments, Called, "read", "destructive")
async def _call_method(control: Control, asked: CallArguments, caller: ToolCaller) -> Answer:
    """Calls any method of the daemon, for all that no other of these tools does: schedules, memory, scaling, events."""
    if asked.method in control.methods and not _is_callable(asked.method):
        words = f'cannot call "{asked.method}" through a tool: MCP has requests of its own for it'
        raise Conflict(words, method=asked.method)
    return Answer(Called(await call_method(control, asked.method, asked.params, caller)))
