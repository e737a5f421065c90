"""Calls tools of a server that run as tasks of MCP only, and returns what a plain call would.

A legacy server says so in its list (`execution.taskSupport = "required"`), a modern one by an error that names the missing capability. A
task is polled at the server's interval; it ends with its result, with a typed error that names tool and task, or at the
limit of the call, after which it is cancelled. A tool for which tasks are optional has plain calls.

A legacy server asks its client while the result is waited for. The requests of a modern task become a result of type
`input_required`, whose state names the task: the call with the responses goes on with it. The state is signed for the caller,
so that no other one can answer. A task whose caller never comes back lives as long as its server keeps it.
"""

import asyncio
import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import replace

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import CorralError, InvalidParams, Timeout, ToolFailed, from_wire
from corral.worker.contract.mcp_info import TASKS_EXTENSION, TASKS_VERSION

from ..protocol.messages import CALL, RELAYED, Caller, Tool, read_result
from ..protocol.tasks import CANCEL_TASK, FINAL, GET_TASK, TASK_RESULT, UPDATE_TASK
from .session import Session

MISSING_CAPABILITY = -32021

POLL_FIRST_S, POLL_MOST_S = 0.05, 5.0
"""Seconds between two questions about a task: the server's own interval is held to these."""

POLL_S = 1.0
"""Seconds between two questions about a task of a server that gives no interval."""

CANCEL_S = 2.0
"""Seconds that a server may take to acknowledge the cancelling of a task."""

TTL_RESERVE_S = 60.0
"""Seconds beyond the limit of a call for which a server is asked to keep its task."""

STATUSES = FINAL | {"working", "input_required"}

STATE = "corral-task:"
"""Beginning of the state of a call that goes on with a task; signature and id of the task follow."""

_KEY = secrets.token_bytes(32)
"""Signs states: one of an earlier process is refused."""


async def request(
    session: Session,
    method: str,
    params: Mapping[str, object],
    tool: Tool | None,
    *,
    timeout_s: float | None,
    caller: Caller,
    limits_s: tuple[float, float],
) -> dict[str, object]:
    """Returns the result of a request as `Session.request` does; runs the call of a tool as a task where that requires it.

    `limits_s` are the limits of one request, and of a task whose call has no `timeout_s`.
    """
    if tool is None:
        return await session.request(method, params, timeout_s=timeout_s, caller=caller)
    if str(params.get("requestState")).startswith(STATE):
        return await _ToolTask(session, tool, timeout_s, caller, limits_s).go_on(params)
    if _requires_task(session, tool):
        return await _ToolTask(session, tool, timeout_s, caller, limits_s).run(params)
    try:
        return await session.request(CALL, params, timeout_s=timeout_s, caller=caller)
    except ToolFailed as error:
        if error.data.get("code") != MISSING_CAPABILITY or session.era != "modern":
            raise
        details = as_object(error.data.get("details")) or {}
        needed = as_object(details.get("requiredCapabilities")) or {}
        if (as_object(needed.get("extensions")) or {}).keys() != {TASKS_EXTENSION}:
            raise
    return await _ToolTask(session, tool, timeout_s, caller, limits_s).run(params)


def _requires_task(session: Session, tool: Tool) -> bool:
    execution = as_object(tool.fields.get("execution")) or {}
    if execution.get("taskSupport") != "required" or session.version != TASKS_VERSION:
        return False
    found: Mapping[str, object] = session.capabilities
    for key in ("tasks", "requests", "tools"):
        found = as_object(found.get(key)) or {}
    return as_object(found.get("call")) is not None


class _ToolTask:
    def __init__(
        self, session: Session, tool: Tool, timeout_s: float | None, caller: Caller, limits_s: tuple[float, float]
    ) -> None:
        self._session = session
        self._tool = tool
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._request_s, most_s = limits_s
        self._limit_s = most_s if timeout_s is None else timeout_s
        self._ends_at = self._loop.time() + self._limit_s
        self._is_modern = session.era == "modern"
        self._id = ""
        self._answered: frozenset[str] = frozenset()

    async def run(self, params: Mapping[str, object]) -> dict[str, object]:
        created = await self._ask(CALL, self._begun(params))
        if self._is_modern and created.get("resultType") != "task":
            return created  # it decides anew with each call
        task = created if self._is_modern else as_object(created.get("task")) or {}
        task_id = task.get("taskId")
        if not isinstance(task_id, str) or not task_id:
            raise self._failed("its server began no task")
        self._id = task_id
        return await self._followed(task)

    async def go_on(self, params: Mapping[str, object]) -> dict[str, object]:
        """Gives the task its caller's responses, and goes on with it."""
        signature, _, self._id = str(params["requestState"]).removeprefix(STATE).partition(":")
        if not self._is_modern or not hmac.compare_digest(signature, self._signature()):
            text = (
                f'cannot go on with {self._target()}: "requestState" is none of this caller, or from before a restart'
            )
            raise InvalidParams(text, key="requestState", **self._facts())
        responses = as_object(params.get("inputResponses")) or {}
        if responses:
            await self._ask_about(UPDATE_TASK, inputResponses=responses)
            self._answered = frozenset(responses)
        return await self._followed(await self._ask_about(GET_TASK))

    async def _followed(self, task: Mapping[str, object]) -> dict[str, object]:
        is_over = False
        try:
            while True:
                status = task.get("status")
                if status not in STATUSES:
                    raise self._failed(f"its server gives its task the status {status!r}")
                if status in FINAL:
                    is_over = True
                    return await self._result(task)
                if status == "input_required" and not self._is_answered(task):
                    result = await self._asked(task)
                    is_over = True
                    return result
                await self._pause(task)
                task = await self._ask_about(GET_TASK)
        finally:
            if not is_over and self._session.is_open:
                await self._cancel()

    def _is_answered(self, task: Mapping[str, object]) -> bool:
        """Returns True if the server has been told all that it asks for, and has not noticed yet."""
        wanted = (as_object(task.get("inputRequests")) or {}).keys()
        return self._is_modern and bool(wanted) and wanted <= self._answered

    def _begun(self, params: Mapping[str, object]) -> dict[str, object]:
        if self._is_modern:
            return dict(params)
        return {**params, "task": {"ttl": int((self._limit_s + TTL_RESERVE_S) * 1000)}}

    async def _asked(self, task: Mapping[str, object]) -> dict[str, object]:
        """Returns the result of a task that asks for input: a legacy server asks while its result is waited for."""
        if not self._is_modern:
            return await self._final()
        wanted = as_object(task.get("inputRequests")) or {}
        methods = {str((as_object(each) or {}).get("method")) for each in wanted.values()}
        if not wanted or not all(self._can_answer(each) for each in methods):
            raise self._failed("its task asks for input that the caller cannot give", wants=sorted(methods))
        state = f"{STATE}{self._signature()}:{self._id}"
        return {"resultType": "input_required", "inputRequests": wanted, "requestState": state}

    def _can_answer(self, method: str) -> bool:
        return as_object(self._caller.capabilities.get(RELAYED.get(method, ""))) is not None

    def _signature(self) -> str:
        caller = self._caller
        about = [self._session.name, self._tool.name, caller.tenant, caller.name, self._id]
        return hmac.new(_KEY, repr(about).encode(), hashlib.sha256).hexdigest()

    async def _result(self, task: Mapping[str, object]) -> dict[str, object]:
        status = task.get("status")
        if status == "cancelled":
            raise self._failed("its server has cancelled its task")
        if not self._is_modern:
            return await self._final()
        if status == "failed":
            error = from_wire(task.get("error"))
            raise self._failed(error.message, code=error.data.get("code", error.code))
        try:
            return read_result(CALL, task.get("result"))
        except ToolFailed as error:
            raise self._failed(error.message) from error

    async def _final(self) -> dict[str, object]:
        result = await self._ask_about(TASK_RESULT)
        try:
            return read_result(CALL, result)
        except ToolFailed as error:
            raise self._failed(error.message) from error

    async def _ask_about(self, method: str, **more: object) -> dict[str, object]:
        try:
            return await self._ask(method, {"taskId": self._id, **more})
        except InvalidParams as error:
            why = "its server has forgotten its task" if method == GET_TASK else "its task is refused"
            raise self._failed(f"{why}: {error.message}") from error

    async def _ask(self, method: str, params: Mapping[str, object]) -> dict[str, object]:
        left_s = self._ends_at - self._loop.time()
        limit_s = left_s if method == TASK_RESULT else min(left_s, self._request_s)
        if left_s <= 0:
            raise self._late()
        try:
            return await self._session.request(method, params, timeout_s=limit_s, caller=self._declared())
        except Timeout as error:
            raise self._late(self._limit_s if limit_s == left_s else limit_s) from error
        except ToolFailed as error:
            if error.data.get("lost") is True and self._id:  # the task has begun, whatever was sent since
                raise self._failed("the server has ended", lost=True, sent=True) from error
            raise

    def _declared(self) -> Caller:
        """Returns the caller, with the extension where it is asked for with each request."""
        caller = self._caller
        if not self._is_modern:
            return caller
        return replace(caller, capabilities={**caller.capabilities, "extensions": {TASKS_EXTENSION: {}}})

    async def _pause(self, task: Mapping[str, object]) -> None:
        given = task.get("pollIntervalMs" if self._is_modern else "pollInterval")
        wait_s = POLL_S
        if isinstance(given, int | float) and not isinstance(given, bool):
            wait_s = given / 1000
        left_s = self._ends_at - self._loop.time()
        if left_s <= 0:
            raise self._late()
        await asyncio.sleep(min(max(wait_s, POLL_FIRST_S), POLL_MOST_S, left_s))

    async def _cancel(self) -> None:
        """Cancels the task at the server, as far as that can be done in a moment."""
        with contextlib.suppress(CorralError):
            await self._session.request(CANCEL_TASK, {"taskId": self._id}, timeout_s=CANCEL_S, caller=self._declared())

    def _late(self, limit_s: float | None = None) -> Timeout:
        limit_s = self._limit_s if limit_s is None else limit_s
        text = f"cannot wait for {self._target()} longer than {limit_s:g} s"
        return Timeout(text, **self._facts(), timeout_s=limit_s)

    def _failed(self, why: str, **more: object) -> ToolFailed:
        return ToolFailed(f"cannot finish {self._target()}: {why}", **self._facts(), **more)

    def _target(self) -> str:
        return f'"{self._tool.name}" of MCP server "{self._session.name}"'

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"server": self._session.name, "tool": self._tool.name}
        return {**facts, "task": self._id} if self._id else facts
