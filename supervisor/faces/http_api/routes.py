"""Finds the method of a request by the routes of the table, makes its params, and gives the status of its answer.

A path is split before it is decoded, so that a key may hold any character (`%2F` is no separator). A segment that a route
spells out goes before a key. Values of a path and a query are text, which becomes what the Struct of the params says; a repeated key
is a list, and a comma separates nothing. The Struct itself is checked by the table, as for every other caller. This module
must not know aiohttp or the daemon: the OpenAPI document takes the same statuses.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Struct

from corral.worker.contract import codec
from corral.worker.contract.errors import (
    CLASSES,
    Conflict,
    CorralError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    NotFound,
    Overloaded,
    ParseError,
    PermissionDenied,
    ShuttingDown,
    Timeout,
    WorkerFailed,
)
from corral.worker.methods.faces import Route
from corral.worker.methods.method import AnyMethod

from ..http.face import TENANT_KEY

PREFIX = "/api/v1"

KEY_HEADERS = {"Idempotency-Key": "idempotency_key", "If-Match": "expected"}
"""Headers that stand for a key of the params, of the methods that have it."""


class Match(NamedTuple):
    """Represents the method of a request, and the keys of its params that the path has."""

    method: AnyMethod
    route: Route
    keys: dict[str, str]


class VerbRefused(MethodNotFound):
    """Raised for a path that exists, with a verb that it does not serve; `allowed` are those it serves."""

    def __init__(self, path: str, verb: str, allowed: list[str]) -> None:
        super().__init__(f'cannot serve {verb} of "{path}": it serves {", ".join(allowed)}', path=path, allowed=allowed)
        self.allowed = allowed

    @property
    def name(self) -> str:
        """Returns the name in the table of errors."""
        return MethodNotFound.__name__


@dataclass
class _Node:
    literals: dict[str, "_Node"] = field(default_factory=dict[str, "_Node"])
    key: "_Node | None" = None
    methods: dict[str, list[tuple[AnyMethod, Route]]] = field(default_factory=dict[str, list[tuple[AnyMethod, Route]]])


class Router:
    """Finds methods by verb and path."""

    def __init__(self, methods: Mapping[str, AnyMethod]) -> None:
        self._root = _Node()
        for method in methods.values():
            for route in method.faces.routes:
                node = self._root
                for word, is_key in route.segments:
                    if is_key:
                        node.key = node.key or _Node()
                        node = node.key
                    else:
                        node = node.literals.setdefault(word, _Node())
                node.methods.setdefault(route.verb, []).append((method, route))

    def match(self, verb: str, raw_path: str, *, streams: bool) -> Match:
        """Returns the method of a request; `raw_path` is the undecoded path below PREFIX."""
        words = raw_path.removeprefix("/").split("/")
        found = _reached(self._root, words) if all(words) else []
        if not any(node.methods for node, _ in found):
            raise NotFound(f'cannot find "{PREFIX}{raw_path}"', path=f"{PREFIX}{raw_path}")
        asked = "GET" if verb == "HEAD" else verb
        for node, values in found:
            for method, route in _in_order(node.methods.get(asked, ()), streams=streams):
                decoded = map(_decoded, values)
                return Match(method, route, dict(zip(route.keys, decoded, strict=True)))
        allowed = sorted({each for node, _ in found for each in node.methods})
        raise VerbRefused(f"{PREFIX}{raw_path}", verb, allowed)


def _reached(root: _Node, words: list[str]) -> list[tuple[_Node, list[str]]]:
    """Returns the nodes that a path leads to, with the values of their keys; spelled-out segments go first."""
    reached: list[tuple[_Node, list[str]]] = [(root, [])]
    for word in words:
        level: list[tuple[_Node, list[str]]] = []
        for node, values in reached:
            if (literal := node.literals.get(word)) is not None:
                level.append((literal, values))
            if node.key is not None:
                level.append((node.key, [*values, word]))
        reached = level
    return reached


def _in_order(entries: Iterable[tuple[AnyMethod, Route]], *, streams: bool) -> list[tuple[AnyMethod, Route]]:
    """Returns the methods of one verb and path that can answer: of a stream and a plain one that which is asked for."""
    able = [entry for entry in entries if streams or not entry[0].faces.only_streams]
    return sorted(able, key=lambda entry: not entry[0].faces.only_streams)


def _decoded(word: str) -> str:
    try:
        return unquote(word, errors="strict")
    except UnicodeDecodeError:
        raise InvalidParams(f'cannot read "{word}" of the path: it is not UTF-8', key="path", value=word) from None


MAX_QUERY_FIELDS = 1000

IN_QUERY = ("GET", "HEAD", "DELETE")
"""Verbs whose params are in the query; others have a body."""


def params_of(verb: str, match: Match, query: str, body: bytes) -> dict[str, object]:
    """Returns the params of a request."""
    fields = fields_of(match.method.params)
    name = match.method.name
    if verb not in IN_QUERY and query.partition("=")[0] == TENANT_KEY and "&" not in query:
        query = ""  # it binds the client, for any method
    if verb in IN_QUERY:
        if body:
            words = f'cannot call "{name}": {verb} has its params in the query, and no body'
            raise InvalidParams(words, key="body", method=name)
        given = _of_query(name, query, fields)
    else:
        if query:
            key = query.partition("=")[0]
            words = f'cannot call "{name}": "{key}" belongs into the body, not into the query'
            raise InvalidParams(words, key=key, method=name)
        given = object_of(body)
    for key, text in match.keys.items():
        value = _typed([text], fields[key])
        if key in given and given[key] != value:
            words = f'cannot call "{name}": "{key}" is {text!r} in the path and another in the body'
            raise InvalidParams(words, key=key, value=text, method=name)
        given[key] = value
    return given


def object_of(body: bytes) -> dict[str, object]:
    """Returns the JSON object of a body; an empty one has no keys."""
    if not body:
        return {}
    try:
        found = codec.as_object(codec.decode(body))
    except ValueError as error:
        raise ParseError(f"cannot read the body as JSON: {error}") from error
    if found is None:
        raise InvalidRequest("cannot read the body: it is no JSON object")
    return found


@cache
def fields_of(params: type[Struct]) -> dict[str, Any]:
    """Returns the types of the keys of a Struct, by name."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(params)}


def text_value(text: str, type_: object) -> object:
    """Returns a text of a query, path or header as a value of a type; as it is where the type has no such value."""
    return _typed([text], type_)


def _of_query(name: str, query: str, fields: Mapping[str, Any]) -> dict[str, object]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidParams(f'cannot call "{name}": its query cannot be read: {error}', key="query") from None
    texts: dict[str, list[str]] = {}
    for key, text in pairs:
        if key == TENANT_KEY and key not in fields:  # it binds the client, for any method
            continue
        texts.setdefault(key, []).append(text)
    given: dict[str, object] = {}
    for key, values in texts.items():
        if key not in fields:
            known = sorted(fields)
            words = f'cannot call "{name}": there is no key "{key}"; it has {", ".join(known) or "none"}'
            raise InvalidParams(words, key=key, method=name, known=known)
        if len(values) > 1 and not is_list(fields[key]):
            raise InvalidParams(f'cannot call "{name}": "{key}" is there {len(values)} times', key=key, method=name)
        given[key] = _typed(values, fields[key])
    return given


def is_list(type_: object) -> bool:
    """Returns whether the values of a type are lists."""
    return any(get_origin(each) is list or each is list for each in _alternatives(type_))


def _alternatives(type_: Any) -> list[object]:
    """Returns the types of a union, without annotations."""
    if get_origin(type_) is Annotated:
        return _alternatives(get_args(type_)[0])
    if get_origin(type_) in (Union, types.UnionType):
        return [found for each in get_args(type_) for found in _alternatives(each)]
    return [type_]


def _typed(texts: list[str], type_: object) -> object:
    """Returns texts as a value of a type. The table refuses a text that has none."""
    value: object = texts if is_list(type_) else texts[0]
    alternatives = _alternatives(type_)
    if value == texts[0] and int in alternatives and texts[0].isdecimal():
        return int(texts[0])  # a union with text, too
    if value == texts[0] and (str in alternatives or object in alternatives):
        return value
    try:
        return msgspec.to_builtins(msgspec.convert(value, type=type_, strict=False))
    except msgspec.ValidationError:
        return [_plain(each) for each in texts] if is_list(type_) else _plain(texts[0])


def _plain(text: str) -> object:
    """Returns a text as the JSON that it is, else as it is."""
    try:
        return codec.decode(text.encode())
    except ValueError:
        return text


ERROR_STATUSES: Mapping[str, int] = {cls.__name__: cls.http_status for cls in CLASSES.values()}
"""HTTP status of each class; one without a token or with an unknown one is 401."""

MESSAGES: Mapping[int, CorralError] = {
    400: InvalidRequest("cannot read the body: it is no JSON"),
    401: PermissionDenied("cannot answer: the token is missing or unknown"),
    403: PermissionDenied('cannot call "agent.add": reader may only read', method="agent.add", needs="admin"),
    404: NotFound('cannot find "crawler": there is no such agent', name="crawler"),
    406: InvalidRequest("cannot answer: the client does not take application/json"),
    408: Timeout("cannot wait longer for the body"),
    409: Conflict('cannot add "crawler": the name is taken', name="crawler"),
    412: Conflict('cannot change "crawler": it has changed meanwhile', name="crawler", reason="stale"),
    413: InvalidRequest("cannot read the body: it has more than 16 MiB"),
    415: InvalidRequest('cannot read the body: its type is "text/plain"'),
    422: InvalidParams('cannot use "instances": -1 is less than 0', key="instances"),
    429: Overloaded("cannot queue the task: the queue is full", retry_after_s=1.0),
    431: InvalidRequest("cannot parse the request: got more than 8190 bytes"),
    500: InternalError("cannot answer: a defect of corral, which its log has"),
    502: WorkerFailed('cannot finish the task: worker "crawler-1" died', worker="crawler-1"),
    503: ShuttingDown("cannot start anything: the daemon stops"),
    504: Timeout("cannot wait longer than 30 s: it goes on"),
}
"""An example of each refusal, by status."""


def success(method: AnyMethod, route: Route) -> int:
    """Returns the status of an answer: 201 for what was added, 202 for what was only accepted."""
    if method.name == "task.submit":
        return 202
    is_added = route.verb == "POST" and method.name.rpartition(".")[2].startswith("add")
    return 201 if is_added else 200
