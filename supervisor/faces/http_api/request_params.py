"""Makes the params of a method of a request: the keys of its path, with its query or its JSON body.

Values of a path and a query are text, which becomes what the params' Struct says; a repeated key is a list, and a comma
separates nothing. The Struct itself is checked by the table, as for every other caller. This module must not know HTTP or the daemon.
"""

import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams, InvalidRequest, ParseError

from ..http.face import TENANT_KEY
from .routes import Match

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
