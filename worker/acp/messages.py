"""Reads and writes the messages of ACP: what an agent says about itself, the content of a prompt turn, and how the turn ended.

Values in, values out; a refusal becomes a typed error.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..contract.codec import as_array, as_object, decode, encode
from ..contract.errors import CorralError, PermissionDenied, ResourceLimitExceeded, SpawnFailed, TaskFailed
from ..sdk.results import Json
from ..sdk.task import TaskRequest

PROTOCOL_VERSION = 1

SIGN_IN = -32000
"""Code of ACP for a request that needs authentication."""

SHOWN_CHARS = 300

EARLIER_CHARS = 200_000
"""Characters of earlier turns that a new ACP session is told, the latest ones."""

OUTPUT_CHARS = 2_000
"""Characters of the last message in the data of an error."""

_FENCED = re.compile(r"\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)

_LIMITS = {"max_tokens": "max_tokens", "max_turn_requests": "max_turn_requests"}
"""Stop reasons that are a limit of the agent's own, by the name of the limit."""


class Method(NamedTuple):
    """Represents a way to sign in that an agent offers."""

    id: str
    name: str
    variables: tuple[str, ...]

    def __str__(self) -> str:
        words = f'"{self.id}" ({self.name})' if self.name else f'"{self.id}"'
        return f"{words}, by {' and '.join(self.variables)}" if self.variables else words


class AgentInfo(NamedTuple):
    """Holds what an agent can do, by its answer to `initialize`."""

    name: str
    version: str
    loads: bool
    resumes: bool
    closes: bool
    embeds: bool
    methods: tuple[Method, ...]


def info_of(answer: object) -> AgentInfo:
    """Reads the answer to `initialize`."""
    fields = as_object(answer)
    version = None if fields is None else fields.get("protocolVersion")
    if fields is None or version != PROTOCOL_VERSION:
        text = f"cannot speak ACP version {version!r:.100} with it: {PROTOCOL_VERSION} is the only one"
        raise SpawnFailed(text, result="exec-failed", reason="protocol", value=version)
    own = as_object(fields.get("agentInfo")) or {}
    able = as_object(fields.get("agentCapabilities")) or {}
    sessions = as_object(able.get("sessionCapabilities")) or {}
    prompts = as_object(able.get("promptCapabilities")) or {}
    return AgentInfo(
        name=str(own.get("title") or own.get("name") or "")[:SHOWN_CHARS],
        version=str(own.get("version") or "")[:SHOWN_CHARS],
        loads=able.get("loadSession") is True,
        resumes=as_object(sessions.get("resume")) is not None,
        closes=as_object(sessions.get("close")) is not None,
        embeds=prompts.get("embeddedContext") is True,
        methods=tuple(_methods(fields)),
    )


def is_sign_in(error: CorralError) -> bool:
    """Returns True if an agent refuses because nobody is signed in."""
    return error.data.get("code") == SIGN_IN or "authentication required" in error.message.lower()


def sign_in_words(info: AgentInfo, asked: str | None, error: CorralError | None) -> str:
    """Returns what to do so that an agent is signed in: after a refusal, with the method of the spec if it has one."""
    reply = f" ({error.message[:SHOWN_CHARS]})" if error is not None else ""
    known = ", ".join(map(str, info.methods)) or "none that it names"
    if asked is not None:
        return f'it refuses to sign in by auth_method "{asked}"{reply}; its methods: {known}'
    return (
        f"it is not signed in{reply}; sign in by hand, as the user of the agent and with the same HOME, or write auth_method"
        f" and the key in environment; its methods: {known}"
    )


def sign_in_failed(info: AgentInfo, asked: str | None, error: CorralError | None) -> SpawnFailed:
    """Returns the error of a start that sign-in has kept from its end."""
    words = f"cannot start the ACP agent: {sign_in_words(info, asked, error)}"
    methods = [method.id for method in info.methods]
    return SpawnFailed(words, result="exec-failed", reason="authentication", methods=methods)


def words_of(error: CorralError) -> str:
    """Returns an error of the agent in words, with its details: many say no more than "Internal error"."""
    details = {key: value for key, value in error.data.items() if key != "code"}
    if not details:
        return error.message
    return f"{error.message}: {encode(details).decode()[:SHOWN_CHARS]}"


def turn_refused(info: AgentInfo, error: CorralError) -> CorralError:
    """Returns the error of a task whose turn an agent has refused."""
    if not is_sign_in(error):
        words = f"cannot run the task: the agent answers with an error: {words_of(error)}"
        return TaskFailed(words, **{"code": error.code, **error.data})
    methods = [method.id for method in info.methods]
    text = f"cannot run the task: {sign_in_words(info, None, error)}"
    return PermissionDenied(text, reason="authentication", methods=methods)


def _methods(fields: Mapping[str, object]) -> list[Method]:
    found: list[Method] = []
    for each in as_array(fields.get("authMethods")) or []:
        one = as_object(each) or {}
        if not isinstance(one.get("id"), str):
            continue
        variables = [as_object(var) or {} for var in as_array(one.get("vars")) or []]
        names = tuple(str(var.get("name"))[:SHOWN_CHARS] for var in variables[:10])
        found.append(Method(str(one["id"])[:SHOWN_CHARS], str(one.get("name") or "")[:SHOWN_CHARS], names))
    return found[:20]


def blocks_of(
    task: TaskRequest, *, embeds: bool, earlier: Sequence[Mapping[str, Json]] = ()
) -> list[dict[str, object]]:
    """Returns the content blocks of a prompt: the objective, and what else the task has."""
    found: list[dict[str, object]] = []
    if earlier:
        found.append(_text(_conversation(earlier)))
    if task.objective:
        found.append(_text(task.objective))
    for name, value in (("input", task.input), ("context", task.context)):
        if value is None:
            continue
        is_text = isinstance(value, str)
        written = value if is_text else encode(value).decode()
        if embeds:
            resource = {
                "uri": f"corral:///tasks/{task.id}/{name}",
                "mimeType": "text/plain" if is_text else "application/json",
                "text": written,
            }
            found.append({"type": "resource", "resource": resource})
        else:
            found.append(_text(f"The {name} of the task:\n\n{written}"))
    for key in ("constraints", "scope"):
        if value := task.boundaries.get(key):
            found.append(_text(f"The {key} of the task: {encode(value).decode()}"))
    if words := _form(task.output_format):
        found.append(_text(words))
    return found or [_text("Begin.")]


def output_of(text: str, others: Sequence[Json], output_format: Json) -> Json:
    """Returns the output of a turn: its last message, as JSON where the task asks for such.

    Content that is no text makes it an object, `{"text", "content"}`.
    """
    if others:
        return {"text": text, "content": list(others)}
    if _wants_json(output_format):
        fenced = _FENCED.fullmatch(text)
        try:
            return decode((fenced[1] if fenced else text).encode())
        except ValueError:
            return text  # the daemon holds it to the schema, and says why it does not fit
    return text


def error_of(answer: object, text: str) -> CorralError | None:
    """Returns the error for a turn that has not come to its end; None if it has."""
    fields = as_object(answer)
    reason = fields.get("stopReason") if fields is not None else None
    if reason == "end_turn":
        return None
    facts: dict[str, object] = {"stop_reason": reason, "output": text[-OUTPUT_CHARS:]}
    if limit := _LIMITS.get(str(reason)):
        words = f"cannot finish the turn: the agent's own limit {limit} is reached"
        return ResourceLimitExceeded(words, limit=limit, value=None, **facts)
    if reason == "refusal":
        return TaskFailed("cannot finish the turn: the agent refuses to continue", **facts)
    if reason == "cancelled":
        return TaskFailed("cannot finish the turn: the agent has cancelled it itself", **facts)
    shown = encode(answer)[:OUTPUT_CHARS].decode("utf-8", "replace")
    return TaskFailed(f"cannot read the end of the turn: {shown}", **facts)


def tokens_of(answer: object) -> int:
    """Returns the tokens that a turn has used, by the response to `session/prompt`; 0 where the agent does not say."""
    fields = as_object((as_object(answer) or {}).get("usage")) or {}
    return _count(fields.get("totalTokens")) or _count(fields.get("inputTokens")) + _count(fields.get("outputTokens"))


def cost_cents_of(update: Mapping[str, object]) -> float | None:
    """Reads the cost of the whole session in a `usage_update`, in US cents; None if it has none."""
    cost = as_object(update.get("cost")) or {}
    amount, currency = cost.get("amount"), cost.get("currency")
    if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
        return None
    return float(amount) * 100 if currency in (None, "USD") else None


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


def _conversation(messages: Sequence[Mapping[str, Json]]) -> str:
    lines: list[str] = []
    left = EARLIER_CHARS
    for message in reversed(messages):
        content = message.get("content")
        words = content if isinstance(content, str) else encode(content).decode()
        line = f"{message.get('role')}: {words}"
        if (left := left - len(line)) < 0:
            break
        lines.append(line)
    return "\n\n".join(["The conversation until now:", *reversed(lines)])


def _form(output_format: Json) -> str:
    fields = as_object(output_format) or {}
    words = [str(fields["description"])] if fields.get("description") else []
    if _wants_json(output_format):
        schema = encode(fields["schema"]).decode()
        words.append(f"Answer with one JSON value alone, which is valid by this schema: {schema}")
    return "\n".join(words)


def _wants_json(output_format: Json) -> bool:
    schema = as_object((as_object(output_format) or {}).get("schema"))
    return schema is not None and schema.get("type") != "string"
