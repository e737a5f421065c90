"""Answers the requests of one service: `POST /run`, `GET /health`, `GET /status` and `GET /openapi.json`.

Each is a call of the method table about the agent of the service alone. It must not know sockets, nor how a
task is run.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.api.table.table import Control
from corral.supervisor.config.decoding.values import HttpAuth
from corral.supervisor.config.spec.spec import Group
from corral.supervisor.config.spec.team import Team
from corral.supervisor.tenants.tokens.scope import is_in_scope
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, MethodNotFound, NotFound, ParseError, from_wire
from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.records import ENDED
from corral.worker.contract.trace_context import KEY, valid
from corral.worker.control.access import Rights

from ..http.answers import Refused, answer, check_type, read_body, status_of
from ..http.event_sender import Outbox, event, send_call
from ..http.face import ANONYMOUS, HttpClient, OneAnswer


def reasons_of(agents: Agents, name: str) -> list[str]:
    """Returns the reasons why it cannot do its work; empty where it can."""
    if agents.draining:
        return ["the daemon is stopping"]
    if agents.emergency_stop is not None:
        return ["an emergency stop is in force"]
    return _reasons(agents, agents.groups.by_name, name)


def _reasons(agents: Agents, groups: Mapping[str, Group], name: str) -> list[str]:
    group, agent = groups.get(name), agents.agents.get(name)
    if group is not None:
        return _of_group(agents, groups, group)
    return [f"{name} no longer exists"] if agent is None else _of_agent(agent)


def _of_group(agents: Agents, groups: Mapping[str, Group], group: Group) -> list[str]:
    needed = (group.lead,) if isinstance(group, Team) and group.lead is not None else group.needs
    found = [_reasons(agents, groups, each) for each in needed]
    is_one_enough = isinstance(group, Team) and group.lead is None
    if is_one_enough and not all(found):
        return []
    return [reason for reasons in found for reason in reasons]


def _of_agent(agent: Agent) -> list[str]:
    found = [
        f"{agent.name}: check {health.name} failed: {health.message}"
        for supervisor in agent.supervisors
        for health in supervisor.health_monitor.healths
        if health.degraded
    ]
    if found:
        return found
    if not agent.supervisors:
        return [f"{agent.name}: it has no workers"]
    down = [_why_down(supervisor) for supervisor in agent.supervisors]
    return [] if None in down else [reason for reason in down if reason is not None]


def _why_down(supervisor: WorkerSupervisor) -> str | None:
    """Returns why a worker takes no task now; None where it does, or wakes up for one."""
    worker = supervisor.worker
    if supervisor.is_cordoned(Unschedulable.HIBERNATED):
        return None
    if worker.paused_at is not None:
        return f"{worker.id} is paused"
    if worker.state in UP:
        return None
    if not worker.wanted:
        return f"{worker.id} is stopped"
    return f"{worker.id} is {worker.state}" + (f": {worker.reason}" if worker.reason else "")


Document = dict[str, Any]  # Any: JSON of many shapes

_ERROR: Document = {
    "type": "object",
    "properties": {
        "code": {"type": "integer"},
        "name": {"type": "string"},
        "message": {"type": "string"},
        "data": {"type": "object"},
    },
    "required": ["code", "name", "message", "data"],
}

_RESULT: Document = {
    "type": "object",
    "properties": {
        "task": {"type": "string", "description": "its id"},
        "state": {"enum": ["succeeded", "failed", "cancelled", "timeout"]},
        "output": {"description": "what the handler has returned"},
        "error": _ERROR,
    },
    "required": ["task", "state", "output"],
}

_BODY: Document = {
    "type": "object",
    "properties": {
        "input": {"description": "any JSON value, for the handler"},
        "objective": {"type": "string", "default": ""},
        "context": {"description": "any JSON value, for the handler"},
        "session": {"type": "string", "minLength": 1, "maxLength": 200},
        "timeout_s": {"type": "number", "exclusiveMinimum": 0},
        "stream": {"type": "boolean", "default": False},
    },
    "additionalProperties": False,
}

_HEALTH: Document = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "status": {"enum": ["ok", "unavailable"]},
        "reasons": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "status", "reasons"],
}


def document(name: str, *, with_token: bool) -> Document:
    """Returns the document of the service of that agent, team or workflow."""
    failed = _answer("an error, or the task has failed", {"properties": {"error": _ERROR}})
    run: Document = {
        "summary": "Runs a task and answers when it has ended.",
        "operationId": "run",
        "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}],
        "requestBody": {"content": {"application/json": {"schema": _BODY}}},
        "responses": {"200": _answer("the task has succeeded", _RESULT), "default": failed},
    }
    run["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    health: Document = {
        "summary": "Returns whether tasks can be done now.",
        "operationId": "health",
        "security": [],
        "responses": {"200": _answer("they can", _HEALTH), "503": _answer("they cannot", _HEALTH)},
    }
    status: Document = {
        "summary": "Returns the state, with that of each worker.",
        "operationId": "status",
        "responses": {"200": _answer("the state", {"type": "object"}), "default": failed},
    }
    found: Document = {
        "openapi": "3.1.0",
        "info": {"title": name, "version": "1"},
        "paths": {"/run": {"post": run}, "/health": {"get": health}, "/status": {"get": status}},
    }
    if with_token:
        found["security"] = [{"token": []}]
        found["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return found


def _answer(meaning: str, schema: Document) -> Document:
    return {"description": meaning, "content": {"application/json": {"schema": schema}}}


EVENTS = {"task.progress": "progress", "task.part": "part"}
"""Names of the events of a stream, by notification."""

ROUTES = {"/run": "POST", "/status": "GET", "/openapi.json": "GET"}


class RunBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Represents the body of `POST /run`; with `stream` the answer is a stream of events."""

    input: object = None
    objective: str = ""
    context: object = None
    session: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    timeout_s: Annotated[float, Meta(gt=0)] | None = None
    stream: bool = False


class ServiceCaller(OneAnswer):
    """Represents the client of one request to the method table; `outbox` holds the progress that waits for it."""

    def __init__(self, client: HttpClient, permission: Rights) -> None:
        super().__init__(client)
        self.name = f"http {client.name}"
        self.permission = permission
        if client is ANONYMOUS:
            self.agents = None
        self.outbox = Outbox()

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Keeps a message about progress, or a part of the output, until it is sent."""
        if method in EVENTS:
            self.outbox.put(event(EVENTS[method], params))

    async def drain(self) -> None:
        """Waits while the client reads too slowly."""
        await self.outbox.drain()


class HealthFace:
    """Answers `GET /health`, for all who reach the address."""

    prefix = "/health"
    open = True

    def __init__(self, agents: Agents, name: str) -> None:
        self._agents = agents
        self._name = name

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers 200 where tasks can be done now, else 503 with the reasons."""
        if request.path != self.prefix:
            raise NotFound(f'cannot find "{request.path}"')
        _check_verb(request, "GET")
        reasons = reasons_of(self._agents, self._name)
        found = {"name": self._name, "status": "unavailable" if reasons else "ok", "reasons": reasons}
        return answer(found, 503 if reasons else 200)

    async def close(self) -> None:
        """Returns at once: nothing is under way."""


class ServiceFace:
    """Answers all other requests of one service."""

    prefix = "/"

    def __init__(self, control: Control, name: str, auth: Callable[[], HttpAuth]) -> None:
        self._control = control
        self._name = name
        self._auth = auth

    @property
    def open(self) -> bool:
        """Returns whether it is served without a token."""
        return self._auth() == "none"

    async def close(self) -> None:
        """Leaves what is under way to the server, which cancels it."""

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers one request."""
        verb = ROUTES.get(request.path)
        if verb is None:
            known = sorted({*ROUTES, HealthFace.prefix})
            raise NotFound(f'cannot find "{request.path}"; there are {", ".join(known)}', known=known)
        _check_verb(request, verb)
        if request.path == "/openapi.json":
            return answer(document(self._name, with_token=not self.open))
        caller = self._caller(client)
        if request.path == "/status":
            return answer(await self._status(caller))
        return await self._run(request, caller)

    def _caller(self, client: HttpClient) -> ServiceCaller:
        """Returns the caller of the method table."""
        if client is ANONYMOUS and self.open:
            return ServiceCaller(client, "operate")
        if not is_in_scope(self._name, client.agents):
            raise NotFound(f'cannot find "{self._name}"', name=self._name)
        return ServiceCaller(client, client.permission)

    async def _status(self, caller: ServiceCaller) -> object:
        found = await self._control.call("daemon.status", {"names": [self._name]}, caller)
        status = codec.as_object(msgspec.to_builtins(found)) or {}
        for key in ("agents", "teams", "workflows"):
            if entries := codec.as_array(status.get(key)):
                return entries[0]
        raise NotFound(f'cannot find "{self._name}"', name=self._name)

    # -- a task

    async def _run(self, request: web.BaseRequest, caller: ServiceCaller) -> web.StreamResponse:
        body = await _read_run(request)
        params: dict[str, object] = {"agent": self._name, "objective": body.objective}
        for key in ("input", "context", "session", "timeout_s"):
            if (value := getattr(body, key)) is not None:
                params[key] = value
        if (idempotency_key := request.headers.get("Idempotency-Key")) is not None:
            params["idempotency_key"] = idempotency_key
        accepted = ",".join(request.headers.getall("Accept", [])).lower()
        is_streamed = body.stream or "text/event-stream" in accepted
        if is_streamed:
            params["stream"] = True
        if (above := valid(request.headers.get(KEY))) is not None:
            params[KEY] = above
        call = self._control.call("task.run", params, caller)
        if is_streamed:
            return await send_call(request, caller.outbox, call, _last_event)
        status, found = _result(await call)
        return answer(found, status)


def _check_verb(request: web.BaseRequest, verb: str) -> None:
    if request.method != verb and not (verb == "GET" and request.method == "HEAD"):
        error = MethodNotFound(f'cannot serve {request.method} "{request.path}": it takes {verb}')
        raise Refused(405, error, Allow=verb)


async def _read_run(request: web.BaseRequest) -> RunBody:
    """Reads the body of a run; an empty one is a task without any input."""
    body = await read_body(request)
    if not body:
        return RunBody()
    check_type(request, body)
    try:
        given = codec.decode(body)
    except ValueError as error:
        raise Refused(400, ParseError(f"cannot read the body as JSON: {error}")) from error
    try:
        return msgspec.convert(given, RunBody)
    except msgspec.ValidationError as error:
        found = misfit_of(error, given, RunBody)
        facts = {"key": found.key, "value": found.shown, "reason": found.rule}
        raise InvalidParams(f"cannot run: {found.words}", **facts) from error


def _result(record: object) -> tuple[int, dict[str, object]]:
    """Returns the status and the answer of a task that has ended."""
    task = codec.as_object(msgspec.to_builtins(record)) or {}
    assert task.get("state") in ENDED, "task.run answers when the task has ended"
    found: dict[str, object] = {key: task.get(key) for key in ("state", "output")}
    found = {"task": task.get("id"), **found}
    if task["state"] == "succeeded":
        return 200, found
    error = from_wire(task.get("error"))
    return status_of(error), {**found, "error": error.to_record()}


def _last_event(task: "asyncio.Future[object]") -> bytes:
    try:
        status, found = _result(task.result())
    except CorralError as error:
        return event("error", {"error": error.to_record()})
    return event("result" if status == 200 else "error", found)
