"""Reads what an agent says about itself at `initialize`, and makes errors of its refusals.

Values in, values out.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ..contract.codec import as_array, as_object, encode
from ..contract.errors import CorralError, PermissionDenied, SpawnFailed, TaskFailed

PROTOCOL_VERSION = 1

SIGN_IN = -32000
"""Code of ACP for a request that needs authentication."""

SHOWN_CHARS = 300


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
