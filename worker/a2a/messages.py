"""Encodes a task as messages of A2A 1.0, and follows the remote task by the events about it.

Values in, values out, in the JSON form of the protocol's messages. No error that it makes has a credential.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from yarl import URL

from ..contract.codec import encode
from ..contract.errors import CorralError, ResourceLimitExceeded, TaskFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES
from ..sdk.results import Json as Value
from ..sdk.task import TaskRequest

VERSION = "1.0"
CARD = ".well-known/agent-card.json"
"""Path of a card below the address of its agent."""

ENDED = frozenset({"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"})
ASKS, ASKS_LOGIN = "TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"

WORDS = {
    "TASK_STATE_FAILED": "it has failed",
    "TASK_STATE_REJECTED": "it refuses the task",
    "TASK_STATE_CANCELED": "it was cancelled there",
    ASKS_LOGIN: "it asks for a login, which a task cannot give: write headers",
}
"""Words for an end without an output."""

SHOWN_CHARS = 1000
"""Characters of a remote message that are repeated."""
QUESTION_CHARS = 4000

Json = Any  # a value of the protocol, checked where it is used


JSON_RPC, REST = "JSONRPC", "HTTP+JSON"

PATHS: Mapping[str, tuple[str, str]] = {
    "SendMessage": ("POST", "message:send"),
    "SendStreamingMessage": ("POST", "message:stream"),
    "GetTask": ("GET", "tasks/{id}"),
    "CancelTask": ("POST", "tasks/{id}:cancel"),
    "SubscribeToTask": ("POST", "tasks/{id}:subscribe"),
}
"""Verb and path of each call by HTTP with JSON."""


class Interface(NamedTuple):
    """Represents where and how an agent is spoken to."""

    url: URL
    streams: bool
    binding: str = JSON_RPC


class Call(NamedTuple):
    """Represents the request of one call."""

    verb: str
    url: URL
    body: bytes | None


def call_of(interface: Interface, number: str, method: str, params: Mapping[str, Json]) -> Call:
    """Returns the request of a call in the binding of the interface; `number` is its id in JSON-RPC."""
    if interface.binding == JSON_RPC:
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        return Call("POST", interface.url, encode(body))
    verb, path = PATHS[method]
    for part in path.format(id=quote(str(params.get("id", "")), safe="")).split("/"):
        interface = interface._replace(url=interface.url.joinpath(part, encoded=True))
    return Call(verb, interface.url, None if verb == "GET" else encode(params))


def card_url(url: URL) -> URL:
    """Returns the address of a card, which `url` is itself, or has below it."""
    return url if url.path.endswith(".json") else url / CARD


def interface_of(card: Json, given: URL) -> Interface:
    """Returns the interface that is used: the first of JSON-RPC and HTTP with JSON of A2A 1, at the host that the configuration names."""
    address = str(given.origin())
    offered = _tables(card.get("supportedInterfaces")) if isinstance(card, Mapping) else []
    for each in offered:
        version = str(each.get("protocolVersion", ""))
        binding = each.get("protocolBinding")
        if binding not in (JSON_RPC, REST) or version.partition(".")[0] != "1":
            continue
        try:
            url = given.join(URL(str(each.get("url", ""))))
        except ValueError:
            continue
        if url.scheme not in ("http", "https") or url.origin() != given.origin():
            raise TaskFailed(f"cannot use the agent at {address}: its card leads to another host, {url}", url=str(url))
        capabilities = card.get("capabilities")
        streams = isinstance(capabilities, Mapping) and capabilities.get("streaming") is True
        return Interface(url, streams, binding)
    names = [f"{each.get('protocolBinding')} {each.get('protocolVersion')}" for each in offered]
    if not names and isinstance(card, Mapping) and card.get("protocolVersion"):
        names = [f"version {card['protocolVersion']}"]
    text = f"cannot speak with the agent at {address}: it offers {', '.join(names)[:200] or 'nothing'}; JSONRPC or HTTP+JSON 1.0 is needed"
    raise TaskFailed(text, offered=names[:20])


def request_of(task: TaskRequest) -> dict[str, object]:
    """Returns the message that begins a task: the objective as text, the input as data, the session as context."""
    parts: list[dict[str, object]] = []
    if task.objective:
        parts.append({"text": task.objective, "mediaType": "text/plain"})
    if task.input is not None or not parts:
        parts.append({"data": task.input, "mediaType": "application/json"})
    message: dict[str, object] = {"messageId": f"{task.id}-{task.delivery}", "role": "ROLE_USER", "parts": parts}
    return {**message, "contextId": task.session} if task.session else message


def reply_of(task: TaskRequest, remote: "RemoteTask", answer: str, number: int) -> dict[str, object]:
    """Returns the message that answers a question of the remote task."""
    message: dict[str, object] = {
        "messageId": f"{task.id}-{task.delivery}-{number}",
        "role": "ROLE_USER",
        "taskId": remote.id,
        "parts": [{"text": answer, "mediaType": "text/plain"}],
    }
    return {**message, "contextId": remote.context} if remote.context else message


def error_of(error: Json, address: str) -> CorralError:
    """Returns the error that an error of JSON-RPC stands for."""
    fields = error if isinstance(error, Mapping) else {}
    code, words = fields.get("code"), str(fields.get("message", ""))[:SHOWN_CHARS]
    return TaskFailed(f"cannot run the task at {address}: {words or code}", code=code)


class RemoteTask:
    """Holds what is known of a remote task."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.id = ""
        self.context = ""
        self.state = ""
        self.words = ""
        """The text of its last message."""
        self._message: Sequence[Mapping[str, Json]] | None = None  # parts of an answer without a task
        self._artifacts: dict[str, list[Mapping[str, Json]]] = {}
        self._sizes: dict[str, int] = {}

    @property
    def is_over(self) -> bool:
        """Returns whether nothing more comes by itself: it has ended, or waits for an answer."""
        return self._message is not None or self.state in ENDED or self.state in (ASKS, ASKS_LOGIN)

    def take(self, event: Json) -> list[Value]:
        """Takes the result of a call, or an event of a stream; returns the parts of output that it adds."""
        if not isinstance(event, Mapping):
            raise self._unreadable(event)
        if isinstance(message := event.get("message"), Mapping):
            self._message = _parts(message)
            return [_value(self._message)]
        if isinstance(task := event.get("task"), Mapping):
            self._take_task(task)
        elif isinstance(update := event.get("statusUpdate"), Mapping):
            self._take_status(update)
        elif isinstance(update := event.get("artifactUpdate"), Mapping):
            return self._take_artifact(update.get("artifact"), appends=update.get("append") is True)
        else:
            raise self._unreadable(event)
        return []

    def output(self) -> Value:
        """Returns the output of a task that has ended."""
        if self._message is not None:
            return _value(self._message)
        if self.state != "TASK_STATE_COMPLETED":
            words = f": {self.words}" if self.words else ""
            text = f"cannot run the task at {self._address}: {WORDS.get(self.state, self.state)}{words}"
            raise TaskFailed(text, state=self.state, remote_task=self.id)
        values = [_value(parts) for parts in self._artifacts.values() if parts]
        if not values:
            return self.words or None
        return values[0] if len(values) == 1 else values

    def _take_task(self, task: Mapping[str, Json]) -> None:
        self.id = str(task.get("id", ""))[:SHOWN_CHARS]
        self.context = str(task.get("contextId", ""))[:SHOWN_CHARS]
        self._take_status(task)
        if "artifacts" in task:
            self._artifacts.clear()
            self._sizes.clear()
            for artifact in _tables(task["artifacts"]):
                self._take_artifact(artifact, appends=False)

    def _take_status(self, update: Mapping[str, Json]) -> None:
        self.id = str(update.get("taskId") or self.id)[:SHOWN_CHARS]
        self.context = str(update.get("contextId") or self.context)[:SHOWN_CHARS]
        status = update.get("status")
        if not isinstance(status, Mapping) or not isinstance(status.get("state"), str):
            raise self._unreadable(update)
        self.state = status["state"]
        message = status.get("message")
        value = _value(_parts(message)) if isinstance(message, Mapping) else None
        text = value if isinstance(value, str) else "" if value is None else encode(value).decode()
        self.words = text[:QUESTION_CHARS]

    def _take_artifact(self, artifact: Json, *, appends: bool) -> list[Value]:
        if not isinstance(artifact, Mapping):
            raise self._unreadable(artifact)
        name, parts = str(artifact.get("artifactId", ""))[:SHOWN_CHARS], _parts(artifact)
        is_new = name not in self._artifacts
        kept = self._artifacts.setdefault(name, [])
        if not appends:
            kept.clear()
            self._sizes[name] = 0
        self._sizes[name] += len(name) + sum(len(encode(part)) for part in parts)
        if sum(self._sizes.values()) > MAX_MESSAGE_BYTES:
            text = f"cannot take the output of {self._address}: it exceeds {MAX_MESSAGE_BYTES} bytes"
            raise ResourceLimitExceeded(text, limit="max_output_size_bytes", value=MAX_MESSAGE_BYTES)
        kept.extend(parts)
        return [_value([part]) for part in parts] if appends or is_new else []

    def _unreadable(self, event: Json) -> TaskFailed:
        shown = repr(event)[:200]
        return TaskFailed(f"cannot read an answer of {self._address}: {shown}", answer=shown)


def _tables(value: Json) -> list[Mapping[str, Json]]:
    """Returns the objects of a list; none where it is no list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _parts(of: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    return _tables(of.get("parts"))


def _value(parts: Sequence[Mapping[str, Json]]) -> Value:
    """Returns texts as one text, one other part as its value, several as a list."""
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    if parts and len(texts) == len(parts):
        return "".join(texts)
    values = [part.get("text", part.get("data", dict(part))) for part in parts]
    return values[0] if len(values) == 1 else values or None
