"""Asks the person at an MCP client the questions of tasks, by elicitation, while a call of that client is served.

A legacy client is asked by requests, which are withdrawn when a question ends otherwise: by another client's answer, by its
time limit, with its task. A modern client gets a result that requires input, and calls again with the answers. Answers go to
`approval.answer` under the rights of the client; the first one of all counts. To decline is to refuse, where a question has an
option for that, and to decline the form that it belongs to; to cancel leaves it open for others, and this call does not ask it again.

A client is asked by a form, too, for required arguments of an agent's tool that its call leaves out (`ask_missing`): a modern one
calls again with the same arguments and the person's response. The check of the input refuses a call that lacks one even then.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from corral.mcp.protocol.messages import Caller
from corral.mcp.protocol.tasks import RELATED_TASK
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.worker_api.approvals import Approvals
from corral.supervisor.tasks.worker_api.exposed import Receiver
from corral.worker.contract import codec
from corral.worker.contract.approvals import OPTION_CHARS, Approval
from corral.worker.contract.errors import CorralError, InvalidParams

ELICIT = "elicitation/create"

KEY = "approval-"
"""Beginning of the key of a question among the input that a result requires."""

FORM_KEY = "missing"
"""Key of the form among the input that a result requires."""

PRIMITIVES = frozenset({"string", "number", "integer", "boolean"})
"""Types of the fields of a form."""

OF_FIELDS = frozenset(
    {*("type", "title", "description", "default", "enum", "format"), *("minLength", "maxLength", "minimum", "maximum")}
)
"""Keys of a schema that a field of a form may have."""

ONE_TIME_MOST = 20
"""Number of questions that one result requires an answer to."""

LEVELS_MOST = 100
"""Number of delegations from a task down to the one that asks."""

logger = logging.getLogger(__name__)

T = TypeVar("T")

Ask = Callable[[str, Mapping[str, object]], Awaitable[object]]
Give = Callable[[int, str | None], Awaitable[object]]
"""Answers a question by its number, or declines its form; raises CorralError."""


class InputRequired(Exception):
    """Reports that a modern client has to be asked before its call can go on."""

    def __init__(self, requests: Mapping[str, object], state: Mapping[str, object] | None) -> None:
        super().__init__("input is required")
        self.requests = requests
        self.state = state

    def result(self) -> dict[str, object]:
        """Returns the result of the call."""
        found: dict[str, object] = {"resultType": "input_required", "inputRequests": dict(self.requests)}
        if self.state is not None:
            found["requestState"] = codec.encode(self.state).decode()
        return found


class Questions:
    """Knows the open questions of tasks."""

    def __init__(self, approvals: Approvals, tasks: Tasks, bus: Bus) -> None:
        self._approvals = approvals
        self._tasks = tasks
        self.bus = bus

    def open(self) -> list[Approval]:
        """Returns all that are open."""
        return self._approvals.open()

    def below(self, root: str) -> list[Approval]:
        """Returns the open questions of a task and of what it delegates."""
        return [each for each in self._approvals.open() if self.is_below(each.task, root)]

    def is_below(self, task: str, root: str) -> bool:
        """Returns whether a task is another one, or was delegated by it or by what is below it."""
        above: str | None = task
        for _ in range(LEVELS_MOST):
            if above == root:
                return True
            found = None if above is None else self._tasks.find(above)
            if found is None:
                return False
            above = found.parent
        return False


class Person:
    """Represents the person at a client that has declared elicitation, during one call."""

    def __init__(
        self, questions: Questions, ask: Ask | None, params: Mapping[str, object], related: str | None = None
    ) -> None:
        self._related = related
        self._questions = questions
        self._ask = ask
        self._responses = codec.as_object(params.get("inputResponses")) or {}
        self.give: Give = self._nobody
        state = _state_of(params.get("requestState"))
        task = state.get("task")
        self.task = task if isinstance(task, str) else None
        """The task with which the call goes on; None of one that begins."""
        self._asked = {each for each in codec.as_array(state.get("asked")) or [] if isinstance(each, int)}

    async def _nobody(self, _number: int, _answer: str | None) -> object:
        raise AssertionError("a call of a tool sets it")

    async def take_responses(self) -> None:
        """Gives the answers with which a modern client goes on."""
        for key, response in self._responses.items():
            number = key.removeprefix(KEY)
            if key.startswith(KEY) and number.isdecimal() and int(number) in self._asked:
                question = next((each for each in self._questions.open() if each.id == int(number)), None)
                if question is not None:
                    await self._take(question, codec.as_object(response) or {})
        self._responses = {}

    async def beside(self, task: str, work: Awaitable[T]) -> T:
        """Returns what `work` returns, and asks meanwhile the questions of a task and of what it delegates."""
        working = asyncio.ensure_future(work)
        try:
            await self._while_open(lambda: self._questions.below(task), working, task)
            return await working
        finally:
            working.cancel()
            await asyncio.wait([working])

    async def ask_all(self, numbers: Sequence[int]) -> None:
        """Asks these questions, and returns when each has ended, or the client has said that it has no answer."""
        await self._while_open(lambda: [each for each in self._questions.open() if each.id in numbers], None, None)

    async def _while_open(
        self,
        listed: Callable[[], list[Approval]],
        working: "asyncio.Future[Any] | None",  # Any: its result is the caller's
        task: str | None,
    ) -> None:
        """Asks what is listed, until `working` is done; without that until nothing is asked any more."""
        changed = asyncio.Event()

        def on_event(_event: Event) -> bool:
            changed.set()
            return False  # nothing is queued

        changes = self._questions.bus.subscribe(("approval.*",), where=on_event)
        asking: dict[int, asyncio.Task[None]] = {}
        try:
            while working is None or not working.done():
                changed.clear()
                found = {each.id: each for each in listed()}
                for number in asking.keys() - found.keys():
                    asking[number].cancel()
                new = [each for number, each in found.items() if number not in self._asked]
                if new and self._ask is None:
                    new = new[:ONE_TIME_MOST]
                    asked = sorted(self._asked | {each.id for each in new})
                    state = {"asked": asked} if task is None else {"task": task, "asked": asked}
                    raise InputRequired(input_requests(new), state)
                for each in new:
                    self._asked.add(each.id)
                    asking[each.id] = asyncio.ensure_future(self._put(each))
                asking = {number: each for number, each in asking.items() if not each.done()}
                if working is None and not asking:
                    return
                noticed = asyncio.ensure_future(changed.wait())
                others = [] if working is None else [working]
                try:
                    waited = [noticed, *asking.values(), *others]
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    noticed.cancel()
        finally:
            changes.close()
            for one in asking.values():
                one.cancel()
            if asking:
                await asyncio.wait(asking.values())

    async def _put(self, question: Approval) -> None:
        assert self._ask is not None, "a modern client is asked by results"
        try:
            params = params_of(question)
            if self._related is not None:
                params["_meta"] = {RELATED_TASK: {"taskId": self._related}}
            result = codec.as_object(await self._ask(ELICIT, params)) or {}
        except CorralError as error:
            logger.info("cannot ask a client question %d: %s", question.id, error.message)
            return
        await self._take(question, result)

    async def _take(self, question: Approval, result: Mapping[str, object]) -> None:
        """Answers a question with what the person has said; one that has ended meanwhile stays as it is."""
        action, answer = result.get("action"), None
        if action == "accept":
            given = (codec.as_object(result.get("content")) or {}).get("answer")
            if not isinstance(given, str):
                return
            answer = given
        elif action == "decline" and question.options and not question.can_decline:
            answer = "deny"
        elif action != "decline" or not question.can_decline:
            return
        try:
            await self.give(question.id, answer)
        except CorralError as error:
            logger.info("cannot answer question %d: %s", question.id, error.message)


def can_be_asked(capabilities: Mapping[str, object]) -> bool:
    """Returns whether a client with these capabilities fills in forms: without a mode it does."""
    modes = codec.as_object(capabilities.get("elicitation"))
    return modes is not None and (not modes or "form" in modes)


def input_requests(questions: Sequence[Approval]) -> dict[str, object]:
    """Returns the requests that a modern client answers, each under the key of its question."""
    return {f"{KEY}{each.id}": {"method": ELICIT, "params": params_of(each)} for each in questions}


def params_of(question: Approval) -> dict[str, object]:
    """Returns the params of an elicitation: a form with one field."""
    field: dict[str, object] = {"type": "string", "title": "Answer"}
    if question.options:
        field["enum"] = question.options
    if question.default is not None and len(question.default) <= OPTION_CHARS:
        field["default"] = question.default
    return {
        "mode": "form",
        "message": f"{question.agent}: {question.question}",
        "requestedSchema": {"type": "object", "properties": {"answer": field}, "required": ["answer"]},
    }


def _state_of(written: object) -> dict[str, object]:
    if written is None:
        return {}
    found: dict[str, object] | None = None
    if isinstance(written, str):
        try:
            found = codec.as_object(codec.decode(written.encode("utf-8", "surrogatepass")))
        except ValueError:
            found = None
    if found is None:
        raise InvalidParams('cannot go on: "requestState" is none of corral', key="requestState")
    return found


async def complete(
    receiver: Receiver, arguments: Mapping[str, object], params: Mapping[str, object], caller: Caller
) -> Mapping[str, object]:
    """Returns the arguments with what the person gives."""
    form = form_of(receiver, arguments)
    if form is None or has_response(params):
        return completed(receiver, arguments, params)
    if caller.ask is None:
        raise InputRequired({FORM_KEY: {"method": ELICIT, "params": form}}, None)
    try:
        response = await caller.ask(ELICIT, form)
    except CorralError:
        return arguments  # it is refused, and the refusal names what is missing
    return completed(receiver, arguments, {"inputResponses": {FORM_KEY: response}})


def has_response(params: Mapping[str, object]) -> bool:
    """Returns True if a call has the response to a form."""
    return FORM_KEY in (codec.as_object(params.get("inputResponses")) or {})


def form_of(receiver: Receiver, arguments: Mapping[str, object]) -> dict[str, object] | None:
    """Returns the form for what a call leaves out; None if nothing is, or it cannot be asked in a form."""
    fields: dict[str, object] = {}
    for key, schema in _missing(receiver, arguments).items():
        field = {each: value for each, value in schema.items() if each in OF_FIELDS}
        if field.get("type") not in PRIMITIVES:
            return None
        fields[key] = field
    if not fields:
        return None
    schema = {"type": "object", "properties": fields, "required": sorted(fields)}
    title = receiver.title or receiver.name
    return {"mode": "form", "message": f"{title} needs more:", "requestedSchema": schema}


def completed(
    receiver: Receiver, arguments: Mapping[str, object], params: Mapping[str, object]
) -> Mapping[str, object]:
    """Returns the arguments with those that a response to the form gives; others in it are ignored."""
    responses = codec.as_object(params.get("inputResponses")) or {}
    response = codec.as_object(responses.get(FORM_KEY)) or {}
    content = codec.as_object(response.get("content")) or {}
    if response.get("action") != "accept":
        return arguments
    return {**arguments, **{key: content[key] for key in _missing(receiver, arguments) if key in content}}


def _missing(receiver: Receiver, arguments: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Returns the required properties without an argument, with their schemas."""
    if not isinstance(receiver, Spec) or not receiver.ask_missing:
        return {}
    schema = receiver.input_schema or {}
    properties = codec.as_object(schema.get("properties")) or {}
    required = codec.as_array(schema.get("required")) or []
    return {
        key: codec.as_object(properties.get(key)) or {}
        for key in required
        if isinstance(key, str) and key not in arguments
    }
