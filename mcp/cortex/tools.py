"""Defines the tools of the memory server: schemas, argument checks, and the functions that run them.

It guarantees that the published schema and the check of the arguments agree: the check implements the part of JSON
Schema that the tools here use. It must not know a connection.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams

from .memory import Memory

Arguments = Mapping[str, Any]  # Any: JSON that the tool's schema admits
"""What `check` has checked."""


class Tool(NamedTuple):
    """Represents one tool: its entry in `tools/list`, and the function that runs it."""

    name: str
    title: str
    description: str
    input_schema: dict[str, object]
    output_schema: dict[str, object]
    annotations: Mapping[str, object]
    call: Callable[[Memory, Arguments], dict[str, object]]

    def to_wire(self) -> dict[str, object]:
        """Returns the tool object of MCP; clients ignore keys that their revision does not define."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "annotations": {"title": self.title, **self.annotations, "openWorldHint": False},
        }


def _text(longest: int, what: str) -> dict[str, object]:
    return {"type": "string", "minLength": 1, "maxLength": longest, "description": what}


def _name(longest: int, what: str) -> dict[str, object]:
    return {**_text(longest, what), "pattern": r"^[^\u0000-\u001f]+$"}


def _object_of(*required: str, closed: bool = True, **properties: object) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


_NAMESPACE = _name(256, "The part of the memory; the parts know nothing of each other.")
_KEY = _name(512, "A name for the item: storing under it again replaces its content.")
_ID = _name(64, "The id that storing or searching gave.")
_TAGS: dict[str, object] = {"type": "array", "maxItems": 64, "items": _name(128, "A label.")}
_METADATA: dict[str, object] = {"type": "object", "description": "Facts for programs; not searched."}
_TIME: dict[str, object] = {"type": "string", "description": "UTC, RFC 3339."}
_TIME_OR_NULL: dict[str, object] = {"type": ["string", "null"], "description": "UTC, RFC 3339."}
_IDS: dict[str, object] = {"type": "array", "items": {"type": "string"}}

_ITEM_SHAPE: dict[str, object] = {
    "id": {"type": "string"},
    "key": {"type": ["string", "null"]},
    "namespace": {"type": "string"},
    "content": {"type": "string"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "metadata": {"type": "object"},
    "created_at": _TIME,
    "expires_at": _TIME_OR_NULL,
    "archived_at": _TIME_OR_NULL,
}
_FOUND_SHAPE = {**_ITEM_SHAPE, "score": {"type": "number", "description": "Higher is better."}}


def _store(memory: Memory, arguments: Arguments) -> dict[str, object]:
    life = {"ttl_s": float(arguments["ttl_s"])} if "ttl_s" in arguments else {}
    return memory.store(**{**arguments, **life})._asdict()


def _search(memory: Memory, arguments: Arguments) -> dict[str, object]:
    times = {name: _moment(name, arguments[name]) for name in ("since", "until") if name in arguments}
    found = memory.search(**{**arguments, **times, "limit": int(arguments.get("limit", 10))})
    items = [{**item._asdict(), "score": score} for item, score in found.items]
    answer: dict[str, object] = {"items": items, "truncated": found.truncated}
    if found.cursor is not None:
        answer["next_cursor"] = found.cursor
    if found.damaged:
        answer["damaged"] = list(found.damaged)
    return answer


def _retrieve(memory: Memory, arguments: Arguments) -> dict[str, object]:
    item_id, key = arguments.get("id"), arguments.get("key")
    if (item_id is None) == (key is None):
        raise InvalidParams("cannot call cortex_retrieve: give either id or key", field="id", fields=["id", "key"])
    namespace = arguments.get("namespace", None if key is None else "default")
    return memory.retrieve(item_id=item_id, key=key, namespace=namespace)._asdict()


def _consolidate(memory: Memory, arguments: Arguments) -> dict[str, object]:
    return {**memory.consolidate(**arguments)._asdict(), "dry_run": arguments.get("dry_run", True)}


def _moment(name: str, text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise _misfit(name, "format", "must be a time such as 2026-01-31T12:00:00Z") from error


_READS = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True}
_WRITES = {**_READS, "readOnlyHint": False}
_BOOLEAN: dict[str, object] = {"type": "boolean"}

_TOOLS = (
    Tool(
        "cortex_store",
        "Remember",
        "Store a text for later. With a key, storing again replaces the text. Without one, the same "
        "text is kept once in a namespace, and its id comes back with created = false.",
        _object_of(
            "content",
            content={"type": "string", "minLength": 1, "description": "The text."},
            key=_KEY,
            namespace={**_NAMESPACE, "default": "default"},
            tags={**_TAGS, "description": "Labels that a search can require."},
            metadata=_METADATA,
            ttl_s={
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": 3_153_600_000,
                "description": "Forget it after that many seconds; without it, never.",
            },
            idempotency_key=_name(256, "Of this one store: the same again with it, within a week, does nothing."),
        ),
        _object_of("id", "created", closed=False, id={"type": "string"}, created=_BOOLEAN),
        _WRITES,
        _store,
    ),
    Tool(
        "cortex_search",
        "Search the memory",
        "Find texts by words: those with all words of the query, or else with any of them, the best "
        "and newest first. Any text is a valid query.",
        _object_of(
            "query",
            query={"type": "string", "maxLength": 10_000, "description": "Words."},
            namespace={**_NAMESPACE, "description": "Search here only; else everywhere."},
            tags={**_TAGS, "description": "Find only what has all of these labels."},
            metadata={"type": "object", "description": "Find only what has these members with these values."},
            since={**_TIME, "maxLength": 64},
            until={**_TIME, "maxLength": 64},
            limit={"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
            cursor={
                "type": "string",
                "maxLength": 128,
                "description": "The next_cursor of the same search: go on behind it.",
            },
        ),
        _object_of(
            "items",
            "truncated",
            closed=False,
            items={"type": "array", "items": _object_of(*_FOUND_SHAPE, closed=False, **_FOUND_SHAPE)},
            truncated={**_BOOLEAN, "description": "True when more was found than fits into one answer."},
            next_cursor={"type": "string", "description": "Where to go on; absent when that was all."},
            damaged={**_IDS, "description": "Items that were found, but are not what was stored."},
        ),
        _READS,
        _search,
    ),
    Tool(
        "cortex_retrieve",
        "Recall one item",
        "Get one item by its id, or by its key in a namespace.",
        _object_of(id=_ID, key=_KEY, namespace={**_NAMESPACE, "description": 'Of a key "default", of an id any.'}),
        _object_of(*_ITEM_SHAPE, closed=False, **_ITEM_SHAPE),
        _READS,
        _retrieve,
    ),
    Tool(
        "cortex_consolidate",
        "Tidy the memory",
        "Archive what has expired, and all but the newest of texts that differ in case, spacing or "
        "Unicode form only. Nothing is deleted. Without dry_run = false it only says what it would do.",
        _object_of(
            namespace={**_NAMESPACE, "description": "Tidy this part only; else all."},
            dry_run={**_BOOLEAN, "default": True},
        ),
        _object_of("archived", "kept", "dry_run", closed=False, archived=_IDS, kept=_IDS, dry_run=_BOOLEAN),
        _WRITES,
        _consolidate,
    ),
)
TOOLS = {tool.name: tool for tool in _TOOLS}


# -- arguments: the part of JSON Schema that the tools above use

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


def check(schema: Mapping[str, object], value: object, field: str = "arguments") -> None:
    """Checks a value against the schema of a tool here."""
    kind = str(schema["type"])
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise _misfit(field, "type", f"must be of type {kind}")
    if isinstance(value, str):
        _check_text(schema, value, field)
    elif isinstance(value, int | float):
        _check_bounds(schema, value, field, "minimum", "maximum")
        least = schema.get("exclusiveMinimum")
        if isinstance(least, int) and not value > least:
            raise _misfit(field, "exclusiveMinimum", f"must be more than {least}")
    elif (array := as_array(value)) is not None:
        _check_bounds(schema, len(array), field, "minItems", "maxItems")
        items = as_object(schema["items"]) or {}
        for index, each in enumerate(array):
            check(items, each, f"{field}[{index}]")
    elif (members := as_object(value)) is not None and "properties" in schema:
        _check_members(schema, members)


def _check_text(schema: Mapping[str, object], value: str, field: str) -> None:
    _check_bounds(schema, len(value), field, "minLength", "maxLength")
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and re.fullmatch(pattern, value) is None:
        raise _misfit(field, "pattern", "must not contain control characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _misfit(field, "unicode", f"has half of a surrogate pair at {error.start}") from error


def _check_bounds(schema: Mapping[str, object], size: float, field: str, least_rule: str, most_rule: str) -> None:
    least, most = schema.get(least_rule), schema.get(most_rule)
    unit = {"maxLength": " characters", "maxItems": " items"}.get(most_rule, "")
    if isinstance(least, int) and size < least:
        raise _misfit(field, least_rule, f"must be at least {least}{unit}")
    if isinstance(most, int) and size > most:
        raise _misfit(field, most_rule, f"must be at most {most}{unit}")


def _check_members(schema: Mapping[str, object], members: Mapping[str, object]) -> None:
    properties = as_object(schema["properties"]) or {}
    for name in as_array(schema.get("required")) or ():
        if name not in members:
            raise _misfit(str(name), "required", "is missing")
    for name, value in members.items():
        member = as_object(properties.get(name))
        if member is None:
            raise _misfit(name, "additionalProperties", f"is not one of {', '.join(properties)}")
        check(member, value, name)


def _misfit(field: str, rule: str, words: str) -> InvalidParams:
    return InvalidParams(f'cannot take the arguments: "{field}" {words}', field=field, rule=rule)
