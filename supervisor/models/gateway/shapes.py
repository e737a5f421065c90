"""Knows the three shapes of API: their paths, their errors, and what of a request is changed. Values in, values out."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import Struct

from corral.supervisor.config.declared.models import Kind

from .usage import Usage, usage_of


class Endpoint(Struct, frozen=True, kw_only=True):
    """Represents where and how a provider is asked; `problem` tells why it cannot be, "" if it can.

    `retries` are further tries, `timeout_s` bounds the wait for an answer and for each part of it, `concurrent` the calls at a
    time.
    """

    name: str
    kind: Kind
    base: str
    key: str = ""
    headers: dict[str, str] = {}
    model: str = ""
    retries: int = 2
    timeout_s: float = 600.0
    concurrent: int = 100
    problem: str = ""


GEMINI = r"/v1(?:alpha|beta)?/(?:models|tunedModels)/[^/:]{1,200}"
GENERATE = r"(?:generateContent|streamGenerateContent|embedContent|batchEmbedContents)"

ROUTES: Mapping[Kind, tuple[tuple[str, re.Pattern[str]], ...]] = {
    "openai": (
        ("POST", re.compile(r"/v1/(chat/completions|completions|responses|embeddings)")),
        ("GET", re.compile(r"/v1/models(/[^/]{1,200}(/[^/]{1,200})?)?")),
    ),
    "anthropic": (
        ("POST", re.compile(r"/v1/messages(/count_tokens)?")),
        ("GET", re.compile(r"/v1/models(/[^/]{1,200})?")),
    ),
    "gemini": (
        ("POST", re.compile(rf"{GEMINI}:({GENERATE}|countTokens)")),
        ("GET", re.compile(r"/v1(alpha|beta)?/models(/[^/:]{1,200})?")),
    ),
}
"""Methods and paths that are passed on: all else of a provider (files, batches, administration) is not counted, and not served."""

BILLED: Mapping[Kind, re.Pattern[str]] = {
    "openai": re.compile(r"/v1/(chat/completions|completions|responses|embeddings)"),
    "anthropic": re.compile(r"/v1/messages"),
    "gemini": re.compile(rf"{GEMINI}:{GENERATE}"),
}
"""Paths whose answers cost tokens."""

USAGE_KEY: Mapping[Kind, str] = {"openai": "usage", "anthropic": "usage", "gemini": "usageMetadata"}
"""The key of the usage in an answer, by kind."""

OUTPUTS = ("choices", "output", "content", "candidates")
"""Keys of an answer that have its output."""

TEXTS = frozenset({"text", "content", "arguments", "reasoning_content", "thinking", "refusal"})
"""Keys of texts within that."""

NAMED = re.compile(r"(/v1(?:alpha|beta)?/(?:models|tunedModels)/)[^/:]{1,200}(:[A-Za-z]+|)")
"""Path of Gemini with the name of a model between the groups."""

CHARS_PER_TOKEN = 4
"""Characters of a token, about, where a provider tells no usage."""

ASKED = re.compile(rb'"stream"\s*:\s*true')

KEPT_REQUEST = re.compile(
    r"accept|content-type|user-agent|idempotency-key|openai-(organization|project|beta)|anthropic-(version|beta)|x-stainless-.*|x-goog-api-client"
)
"""Headers of a request that are passed on."""

KEPT_ANSWER = re.compile(
    r"content-type|cache-control|retry-after|retry-after-ms|x-should-retry|request-id|x-request-id|openai-.*|x-ratelimit-.*|anthropic-.*"
)
"""Headers of an answer that are passed on."""

OPENAI_TYPES: Mapping[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
GEMINI_STATUSES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
ANTHROPIC_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Refused(Exception):
    """Reports that a call is not passed on: the status of the answer, and the reason; `facts` are for programs."""

    def __init__(
        self, status: int, reason: str, *, retry_after_s: float | None = None, facts: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.facts = dict(facts or {})


class Place(NamedTuple):
    """Represents what a path of the gateway names: a model, and the path of the provider's API from its version on."""

    model: str
    path: str


def place_of(path: str) -> Place:
    """Returns what a path, `/NAME/v1/…`, names; both are "" where it names nothing."""
    _, _, rest = path.partition("/")
    name, slash, below = rest.partition("/")
    return Place(name, f"/{below}") if slash else Place("", "")


def is_served(kind: Kind, method: str, path: str) -> bool:
    """Returns whether a method of a path is passed on."""
    return any(method == way and pattern.fullmatch(path) for way, pattern in ROUTES[kind])


def target(kind: Kind, base: str, path: str, model: str) -> str:
    """Returns the address at the provider: that of an OpenAI-shaped one has the version already, one of Gemini the model."""
    if kind == "gemini" and model and (found := NAMED.fullmatch(path)):
        return f"{base}{found[1]}{quote(model)}{found[2]}"
    return base + (path.removeprefix("/v1") if kind == "openai" else path)


def credentials(kind: Kind, key: str) -> dict[str, str]:
    """Returns the headers that hold the key of a provider."""
    if not key:
        return {}
    if kind == "openai":
        return {"Authorization": f"Bearer {key}"}
    return {"x-api-key" if kind == "anthropic" else "x-goog-api-key": key}


def without_key(query: str) -> str:
    """Returns a query without the key of a worker, which clients of Gemini may pass there."""
    return "&".join(part for part in query.split("&") if not part.startswith("key="))


def given_key(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Returns the key with which a worker calls, in the header of any shape or in the query; "" without one."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    found = headers.get("x-api-key") or headers.get("x-goog-api-key")
    return found or query.get("key", "")


class Edited(NamedTuple):
    """Represents a request as it is sent on; `hides_usage` is true if the caller has not asked for the usage in its stream."""

    body: bytes
    hides_usage: bool


def edited(kind: Kind, path: str, body: bytes, model: str, *, asks_usage: bool = True) -> Edited:
    """Returns a request with the provider's name of the model, and, if `asks_usage`, with a request for the usage of a stream.

    The bytes are left as they are where nothing has to be changed.
    """
    is_completion = kind == "openai" and path.endswith("completions")
    asks = asks_usage and is_completion and ASKED.search(body) is not None
    if kind == "gemini":  # its path has the name
        return Edited(body, False)
    if not model and not asks:
        return Edited(body, False)
    try:
        table: Any = msgspec.json.decode(body)  # Any: JSON
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise Refused(400, "the body is not a JSON object")
    if model:
        table["model"] = model
    hides = False
    if asks and table.get("stream") is True:
        options = table.get("stream_options")
        options = options if isinstance(options, dict) else {}
        hides = options.get("include_usage") is not True
        table["stream_options"] = {**options, "include_usage": True}
    return Edited(msgspec.json.encode(table), hides)


def usage_in(kind: Kind, path: str, body: bytes, guessed: int) -> tuple[Usage, bool]:
    """Returns what an answer that does not stream says that it has used, and whether that is estimated.

    A model that has answered without a usage is estimated: `guessed` tokens of input, and of its output one for each
    CHARS_PER_TOKEN. An answer that costs no tokens, or is none of a model, has none.
    """
    if not BILLED[kind].fullmatch(path):
        return Usage(), False
    try:
        table: Any = msgspec.json.decode(body)  # Any: JSON
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Usage(), False
    if isinstance(table, list) and table:  # a stream as one array, whose last figures count
        table = {"candidates": table, **(table[-1] if isinstance(table[-1], dict) else {})}
    if not isinstance(table, dict):
        return Usage(), False
    reported = usage_of(kind, table.get(USAGE_KEY[kind]))
    if reported is not None:
        return reported, False
    chars = sum(_text_chars(table.get(key)) for key in OUTPUTS)
    return Usage(input=guessed, output=-(-chars // CHARS_PER_TOKEN)), True


def _text_chars(value: object) -> int:
    """Returns the number of characters that a model has written somewhere in a value: texts, and arguments of tools."""
    if isinstance(value, list):
        return sum(map(_text_chars, value))
    if not isinstance(value, dict):
        return 0
    found = 0
    for key, each in value.items():
        if key in TEXTS and isinstance(each, str):
            found += len(each)
        elif isinstance(each, dict | list):
            found += _text_chars(each)
    return found


def error_body(kind: Kind, refused: Refused) -> bytes:
    """Returns a refusal in the shape of a provider's error; `corral` has the facts."""
    own = {"corral": refused.facts} if refused.facts else {}
    text = f"corral: {refused.reason}"
    if kind == "anthropic":
        word = ANTHROPIC_TYPES.get(refused.status, "api_error")
        return msgspec.json.encode({"type": "error", "error": {"type": word, "message": text, **own}})
    if kind == "gemini":
        word = GEMINI_STATUSES.get(refused.status, "UNKNOWN")
        return msgspec.json.encode({"error": {"code": refused.status, "message": text, "status": word, **own}})
    word, code = OPENAI_TYPES.get(refused.status, ("server_error", None))
    return msgspec.json.encode({"error": {"message": text, "type": word, "param": None, "code": code, **own}})


def error_event(kind: Kind, refused: Refused) -> bytes:
    """Returns a failure within a stream as an event of it, by which the official clients raise their error."""
    body = error_body(kind, refused)
    return b"event: error\ndata: " + body + b"\n\n" if kind == "anthropic" else b"data: " + body + b"\n\n"
