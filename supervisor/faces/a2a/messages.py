"""Translates between tasks and the messages of A2A 1.0, in the JSON form of its Protocol Buffers.

A message's text is the objective, its data the input; its context is the session. The output is one artifact.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from corral.worker.contract.approvals import Approval
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound
from corral.worker.contract.records import Task

VERSION = "1.0"
VERSION_HEADER = "A2A-Version"

BINDINGS = ("JSONRPC", "HTTP+JSON")

STATES: Mapping[str, str] = {
    "queued": "TASK_STATE_SUBMITTED",
    "running": "TASK_STATE_WORKING",
    "succeeded": "TASK_STATE_COMPLETED",
    "failed": "TASK_STATE_FAILED",
    "timeout": "TASK_STATE_FAILED",
    "cancelled": "TASK_STATE_CANCELED",
}
"""The state in A2A by that of a task."""

INPUT_REQUIRED = "TASK_STATE_INPUT_REQUIRED"
"""The state of a running task that asks a question."""

ARTIFACT = "output"

FILE = frozenset({"url", "raw", "filename", "mediaType"})
"""Keys of the part of a file: its address or, in base64, its bytes."""

REASONS: Mapping[int, str] = {
    -32001: "TASK_NOT_FOUND",
    -32002: "TASK_NOT_CANCELABLE",
    -32003: "PUSH_NOTIFICATION_NOT_SUPPORTED",
    -32004: "UNSUPPORTED_OPERATION",
    -32005: "CONTENT_TYPE_NOT_SUPPORTED",
    -32007: "EXTENDED_AGENT_CARD_NOT_CONFIGURED",
    -32009: "VERSION_NOT_SUPPORTED",
}
"""Reasons by the code of an error of A2A."""

Json = Any  # a value of the protocol, checked where it is used


class A2aError(Exception):
    """Raised about a request that is answered with an error of A2A or JSON-RPC."""

    def __init__(self, code: int, message: str, *, http_status: int = 500, **facts: object) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = http_status
        self.message = message
        self.facts = facts

    def to_json(self) -> dict[str, object]:
        """Returns the error as JSON-RPC has it."""
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": REASONS.get(self.code, "INVALID_REQUEST"),
            "domain": "a2a-protocol.org",
            "metadata": {key: str(value) for key, value in self.facts.items()},
        }
        return {"code": self.code, "message": self.message, "data": [info]}


def error_of(error: CorralError) -> A2aError:
    """Returns an error of the method table as one of A2A."""
    if isinstance(error, InvalidParams):
        return A2aError(-32602, error.message)
    if isinstance(error, NotFound):
        return A2aError(-32001, error.message)
    return A2aError(-32603, error.message, http_status=error.http_status, name=error.name)


def wanted(message: Json, agent: str, context: str) -> dict[str, object]:
    """Returns the params of a task for a message."""
    texts: list[str] = []
    data: list[object] = []
    for part in _parts_of(message):
        if isinstance(text := part.get("text"), str):
            texts.append(text)
        elif "data" in part:
            data.append(part["data"])
        elif "url" in part:
            data.append({key: part[key] for key in ("url", "filename", "mediaType") if key in part})
        else:
            raise A2aError(-32005, "cannot take a part that is neither text, data nor url")
    params: dict[str, object] = {
        "agent": agent,
        "objective": "\n".join(texts),
        "session": context,
        "context": {"a2a": {key: message[key] for key in ("messageId", "metadata") if key in message}},
    }
    if data:
        params["input"] = data[0] if len(data) == 1 else data
    return params


def _parts_of(message: Json) -> Sequence[Mapping[str, Json]]:
    parts: Json = message.get("parts") if isinstance(message, dict) else None
    is_valid = isinstance(parts, list) and parts and all(isinstance(p, dict) for p in parts)
    if not is_valid or not isinstance(message.get("messageId"), str) or not message["messageId"]:
        raise A2aError(-32602, 'cannot take the message: it needs "messageId" and "parts"')
    if message.get("role") != "ROLE_USER":
        raise A2aError(-32602, f'cannot take a message of role "{message.get("role")}"')
    found: Sequence[Mapping[str, Json]] = parts
    return found


def parts_of(value: object) -> list[dict[str, object]]:
    """Returns an output, or an input, as parts: text as text, the table of a file as that, anything else as data."""
    if value is None:
        return []
    if isinstance(value, dict) and _is_file(value):
        return [dict(value)]
    if isinstance(value, str):
        return [{"text": value, "mediaType": "text/plain"}]
    return [{"data": value, "mediaType": "application/json"}]


def _is_file(value: Mapping[str, object]) -> bool:
    """Returns whether a table is the part of a file: its address or its bytes, with a name or a type."""
    keys = value.keys()
    has_one = len({"url", "raw"} & keys) == 1 and not keys.isdisjoint({"filename", "mediaType"})
    return has_one and keys <= FILE and all(isinstance(each, str) for each in value.values())


def task_of(
    task: Task,
    history: int | None = None,
    *,
    artifacts: bool = True,
    question: Approval | None = None,
    turns: Sequence[Approval] = (),
) -> dict[str, object]:
    """Returns a task as A2A has it, with the question that it asks, and at most `history` messages, None for all.

    `turns` are its questions that have ended; the last messages count.
    """
    found: dict[str, object] = {"id": task.id, "contextId": context_of(task), "status": status_of(task, question)}
    if artifacts and (parts := parts_of(task.output)):
        found["artifacts"] = [{"artifactId": ARTIFACT, "name": ARTIFACT, "parts": parts}]
    if history is None or history > 0:
        parts = [*parts_of(task.objective or None), *parts_of(task.input)]
        messages = [_message(task, "request", "ROLE_USER", parts)]
        for turn in turns:
            messages.append(_asking(task, turn))
            if turn.state == "answered" and turn.answer is not None:
                reply = parts_of(turn.answer)
                messages.append(_message(task, f"answer-{turn.id}", "ROLE_USER", reply))
        found["history"] = messages if history is None else messages[-history:]
    return found


def _message(task: Task, name: str, role: str, parts: Sequence[Mapping[str, object]]) -> dict[str, object]:
    return {
        "messageId": f"{task.id}-{name}",
        "taskId": task.id,
        "contextId": context_of(task),
        "role": role,
        "parts": list(parts),
    }


def _asking(task: Task, question: Approval) -> dict[str, object]:
    """Returns a question as a message of the agent, its options as data."""
    parts = parts_of(question.question)
    if question.options:
        parts += parts_of({"options": question.options})
    return _message(task, f"question-{question.id}", "ROLE_AGENT", parts)


def context_of(task: Task) -> str:
    """Returns the context of a task: its session, or the task itself where it has none."""
    return task.session or task.id


def status_of(task: Task, question: Approval | None = None) -> dict[str, object]:
    """Returns the status of a task, with a question or the reason of a failure as a message of the agent."""
    at = task.finished_at or task.started_at or task.created_at
    status: dict[str, object] = {"state": STATES[task.state], "timestamp": at}
    if task.error is not None:
        status["message"] = _message(task, "error", "ROLE_AGENT", parts_of(task.error.message))
    elif question is not None and task.state == "running":
        status |= {"state": INPUT_REQUIRED, "timestamp": question.asked_at}
        status["message"] = _asking(task, question)
    return status


def status_update(task: Task, question: Approval | None = None) -> dict[str, object]:
    """Returns the event of a changed status."""
    return {"statusUpdate": {"taskId": task.id, "contextId": context_of(task), "status": status_of(task, question)}}


def artifact_update(task: Task, value: object, *, append: bool, last: bool = False) -> dict[str, object]:
    """Returns the event of a part of the output, or of the whole."""
    return {
        "artifactUpdate": {
            "taskId": task.id,
            "contextId": context_of(task),
            "artifact": {"artifactId": ARTIFACT, "name": ARTIFACT, "parts": parts_of(value)},
            "append": append,
            "lastChunk": last,
        }
    }


def card_of(
    name: str, description: str, capabilities: Sequence[str], url: str, version: str, *, pushes: bool = False
) -> dict[str, object]:
    """Returns the card of an agent; `pushes` says whether it sends push notifications."""
    words = description or f"The agent {name}."
    skills = [{"id": each, "name": each, "description": words, "tags": [each]} for each in (capabilities or [name])]
    text, data = "text/plain", "application/json"
    return {
        "name": name,
        "description": words,
        "version": version,
        "supportedInterfaces": [
            {"url": url, "protocolBinding": binding, "protocolVersion": VERSION} for binding in BINDINGS
        ],
        "capabilities": {"streaming": True, "pushNotifications": pushes, "extendedAgentCard": False},
        "securitySchemes": {"token": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}},
        "securityRequirements": [{"schemes": {"token": {"list": []}}}],
        "defaultInputModes": [text, data],
        "defaultOutputModes": [text, data],
        "skills": skills,
    }
