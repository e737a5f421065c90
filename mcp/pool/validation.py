"""Validates the arguments of a call against the tool's input schema, before they are sent to the server.

A schema is hostile input. Nothing is fetched for it, patterns are matched in linear time, and the cost of a check is
estimated beforehand: a schema that refers to the network, does not compile or could take long is not applied, and the
server checks the arguments itself. A bad schema never prevents a call.
"""

import importlib
import logging
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Protocol, cast

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded

from ..protocol.messages import Tool

MAX_SCHEMA_NODES = 20_000
"""Number of objects and lists in a schema."""

MAX_DEPTH = 100
"""Number of levels of a schema or of arguments."""

MAX_PATTERNS = 100
MAX_PATTERN_BYTES = 256 * 1024
"""Bytes of one compiled pattern."""

MAX_WORK = 2_000_000
"""Number of steps of one check, about 0.1 s: places in the schema times places in the arguments."""

MAX_PLAIN_WORK = 4 * MAX_WORK
"""Number of steps for a schema without patterns, whose steps are short, where the value must be checked."""

CHARACTERS_A_STEP = 64

PLAIN_ARGUMENTS = 20
PLAIN_CHARACTERS = 1_000
PLAIN_STEPS = 1 + PLAIN_ARGUMENTS * (1 + PLAIN_CHARACTERS // CHARACTERS_A_STEP)
"""Number of places of PLAIN_ARGUMENTS arguments without nested values, at most."""

ERRORS_MAX = 5
TEXT_MAX = 120
"""Characters of a schema's text in an error."""

KEPT = 4096
"""Number of tools whose validators are cached."""

_DYNAMIC = frozenset({"$dynamicRef", "$recursiveRef"})
_NAMES = frozenset({"$id", "id"})
_DATA = frozenset({"const", "default", "example", "examples"})
_DEFINITIONS = frozenset({"$defs", "definitions"})
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
_IN_PLACE = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", "dependentSchemas", "dependencies"}
)
_UNEVALUATED = frozenset({"unevaluatedProperties", "unevaluatedItems"})

AGAIN = 3
"""Number of times that a schema with an `unevaluated…` keyword has those checked that apply to the same value: once for
itself, and then to know what they have evaluated. Nested, this grows by 2.62 a level (measured with jsonschema_rs 0.4x)."""

logger = logging.getLogger(__name__)


class _Uncheckable(Exception):
    """Raised for a schema that is not applied; never leaves this module."""


class _Kind(Protocol):
    name: str


class _Error(Protocol):
    kind: _Kind
    instance_path: list[str | int]


class Validators:
    """Caches the validators of tools, each compiled at the first call of its tool."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tool, _Validator | None]] = {}

    def check(self, exposed: str, tool: Tool, arguments: Mapping[str, object]) -> None:
        """Checks the arguments of a call, if the schema can be applied."""
        # By identity, because a listing creates new tools. The tool is kept, so that its id is not reused.
        found = self._known.get(id(tool))
        if found is None:
            if len(self._known) >= KEPT:
                self._known.clear()
            found = tool, _validator(exposed, tool)
            self._known[id(tool)] = found
        validator = found[1]
        if validator is not None:
            validator.check(exposed, arguments)

    def forget(self, tools: Iterable[Tool]) -> None:
        """Drops the validators of tools that are no longer listed."""
        for tool in tools:
            self._known.pop(id(tool), None)


class _Validator:
    """Holds a compiled schema and its cost."""

    def __init__(self, compiled: Any, width: int, returns: int) -> None:  # of a C extension
        self._compiled = compiled
        self._width = width
        self._returns = returns
        self._is_light = width * PLAIN_STEPS <= MAX_WORK and returns <= 1

    def _takes_long(self, arguments: Mapping[str, object]) -> bool:
        size, depth = _weight(arguments, MAX_WORK // self._width)
        growth = self._returns**depth if self._returns > 1 else 1
        return self._width * size * growth > MAX_WORK

    def check(self, exposed: str, arguments: Mapping[str, object]) -> None:
        if not (self._is_light and _is_plain(arguments)) and self._takes_long(arguments):
            logger.debug("the arguments of %s are not checked: it could take too long", exposed)
            return
        try:
            if self._compiled.is_valid(arguments):
                return
            errors = list(islice(self._compiled.iter_errors(arguments), ERRORS_MAX))
        except (ValueError, TypeError, OverflowError) as error:  # JSON cannot express them: sending raises
            logger.debug("the arguments of %s are not checked: %s", exposed, error)
            return
        found = [_explain(error, "argument") for error in errors]
        if found:
            key, rule, reason = found[0]
            text = f'cannot call "{exposed}": {reason}'
            others = [{"key": k, "rule": r, "reason": why} for k, r, why in found]
            raise InvalidParams(text, tool=exposed, key=key, rule=rule, reason=reason, errors=others)


class Schema:
    """Validates values of any kind, such as the output of a task; the schema is hostile input too."""

    def __init__(self, schema: Mapping[str, object] | bool) -> None:
        """Compiles the schema."""
        measured: Mapping[str, object] = {} if isinstance(schema, bool) else schema
        try:
            measure = _Measure(measured)
            self._width, self._returns = measure.taken()
            self._compiled = _compile(schema)
        except _Uncheckable as error:
            raise InvalidParams(f"cannot use the schema: {error}", reason=str(error)) from error
        self._max_work = MAX_WORK if measure.has_patterns else MAX_PLAIN_WORK

    def faults(self, value: object) -> list[dict[str, str]]:
        """Returns the errors of a value, at most ERRORS_MAX, each with `path`, `rule` and `reason`; empty if it is valid."""
        size, depth = _weight({"": value}, self._max_work // max(1, self._width))
        growth = self._returns**depth if self._returns > 1 else 1
        if self._width * size * growth > self._max_work:
            raise ResourceLimitExceeded(
                "cannot check the value against its schema: it could take too long",
                limit="schema_steps",
                value=self._max_work,
            )
        try:
            if self._compiled.is_valid(value):
                return []
            errors = list(islice(self._compiled.iter_errors(value), ERRORS_MAX))
        except (ValueError, TypeError, OverflowError) as error:  # JSON cannot express them
            reason = str(error).partition("\n")[0][:TEXT_MAX]
            return [{"path": "", "rule": "type", "reason": f"it cannot be read: {reason}"}]
        found = [_explain(error, "value") for error in errors]
        return [{"path": key, "rule": rule, "reason": reason} for key, rule, reason in found]


def _validator(exposed: str, tool: Tool) -> _Validator | None:
    schema = tool.input_schema
    if schema == {"type": "object"} or not schema:
        return None  # every call sends an object
    try:
        width, returns = _Measure(schema).taken()
        return _Validator(_compile(schema), width, returns)
    except _Uncheckable as error:
        logger.warning("the arguments of %s are not checked: %s", exposed, error)
        return None


def _compile(schema: Mapping[str, object] | bool) -> Any:  # of a C extension
    # Imported at the first call of a tool: it takes 10 ms and 5 MB.
    rules: Any = importlib.import_module("jsonschema_rs")  # its own types are narrowed here

    def refuse(address: str) -> object:
        raise ValueError(f"nothing is fetched for a schema: {address[:TEXT_MAX]}")

    # A format is an annotation, as in 2020-12: libraries differ in their definitions of times and addresses.
    options = rules.RegexOptions(size_limit=MAX_PATTERN_BYTES, dfa_size_limit=MAX_PATTERN_BYTES)
    try:
        return rules.validator_for(schema, retriever=refuse, pattern_options=options, validate_formats=False)
    except (ValueError, rules.ReferencingError) as error:  # its ValidationError is a ValueError
        reason = str(error).partition("\n")[0][:TEXT_MAX]
        raise _Uncheckable(f"its schema is not usable: {reason}") from error


# -- the cost of a check


class _Measure:
    """Counts the places of a schema that one value can be checked against.

    References are followed, so that a short schema which doubles itself thirty times counts with its expanded size. A
    recursive reference counts as one place; their number determines the growth of the cost with each level of the
    arguments.
    """

    def __init__(self, schema: Mapping[str, object]) -> None:
        self._schema = schema
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()
        self._nodes = 0
        self._patterns = 0

    @property
    def has_patterns(self) -> bool:
        """Returns True if the schema has regular expressions."""
        return self._patterns > 0

    def taken(self) -> tuple[int, int]:
        """Returns the number of places, and of recursive references."""
        return self._of(self._schema, 0)

    def _of(self, value: object, depth: int) -> tuple[int, int]:
        fields, items = as_object(value), as_array(value)
        if fields is None and items is None:
            return (0, 0)
        known = self._known.get(id(value))
        if known is not None:
            return known
        if id(value) in self._open:
            return (1, 1)
        self._nodes += 1
        if self._nodes > MAX_SCHEMA_NODES or depth > MAX_DEPTH:
            raise _Uncheckable("its schema is too large")
        self._open.add(id(value))
        parts = self._parts(fields) if fields is not None else [(each, 1) for each in items or ()]
        width, returns = 1 + len(items or ()), 0
        for each, times in parts:
            more, back = self._of(each, depth + 1)
            width, returns = width + times * more, returns + times * back
            if width > MAX_WORK:
                raise _Uncheckable("its schema is too wide")
        self._open.discard(id(value))
        if not returns or not self._open:
            self._known[id(value)] = width, returns
        return width, returns

    def _parts(self, fields: dict[str, object]) -> list[tuple[object, int]]:
        """Returns the parts of a schema that apply to a value to which the schema applies, and how often each is checked."""
        parts = list[tuple[object, int]]()
        again = 1 if _UNEVALUATED.isdisjoint(fields) else AGAIN
        for key, value in fields.items():
            inner = as_object(value)
            times = again if key in _IN_PLACE else 1
            if key == "$ref" and isinstance(value, str):
                parts.append((self._target(value), times))
            elif key in _DYNAMIC:
                raise _Uncheckable(f"its schema uses {key}")
            elif key in _NAMES and isinstance(value, str) and fields is not self._schema:
                raise _Uncheckable("its schema has another within, with references of its own")
            elif key in _DATA:
                continue
            elif key in _DEFINITIONS and inner is not None:
                continue  # counted at their references
            elif key in _BY_NAME and inner is not None:
                parts.extend((each, times) for each in inner.values())
            else:
                parts.append((value, times))
            if key in ("pattern", "patternProperties"):
                self._patterns += 1 if inner is None else len(inner)
        if self._patterns > MAX_PATTERNS:
            raise _Uncheckable("its schema has too many patterns")
        return parts

    def _target(self, reference: str) -> object:
        # A reference that is escaped twice could be counted at one place and applied from another.
        if (reference != "#" and not reference.startswith("#/")) or "%" in reference:
            raise _Uncheckable(f"its schema refers to {reference[:TEXT_MAX]}")
        value: object = self._schema
        for part in reference.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            fields, items = as_object(value), as_array(value)
            if fields is not None and name in fields:
                value = fields[name]
            elif items is not None and re.fullmatch("[0-9]{1,6}", name) and int(name) < len(items):
                value = items[int(name)]
            else:
                raise _Uncheckable(f"its schema refers to {reference[:TEXT_MAX]}")
        return value


def _is_plain(arguments: Mapping[str, object]) -> bool:
    """Returns True for few arguments without nested values, the usual case, at almost no cost."""
    if len(arguments) > PLAIN_ARGUMENTS:
        return False
    for value in arguments.values():
        kind = type(value)
        if kind is str:
            if len(cast("str", value)) > PLAIN_CHARACTERS:
                return False
        elif kind is dict or kind is list:
            return False
    return True


def _weight(arguments: Mapping[str, object], limit: int) -> tuple[int, int]:
    """Returns the number of places in the arguments, and their depth; counting ends at the limit."""
    size, depth = 1, 1
    level = list(arguments.values())
    while level and size <= limit:
        depth += 1
        below = list[object]()
        for each in level:
            size += 1
            if isinstance(each, str):
                size += len(each) // CHARACTERS_A_STEP
            elif isinstance(each, dict):
                below.extend(cast("dict[str, object]", each).values())
            elif isinstance(each, list):
                below.extend(cast("list[object]", each))
        level = below
    return size, depth


# -- the text of an error


def _explain(error: _Error, noun: str) -> tuple[str, str, str]:
    """Returns the path of the invalid part, the violated rule, and a text of both without the value."""
    kind: Any = error.kind  # each has attributes of its own
    rule = str(kind.name)
    path = list(error.instance_path)
    if rule == "required":
        path.append(str(kind.property))
        words = "is missing"
    elif rule == "additionalProperties":
        unexpected = [str(name) for name in kind.unexpected]
        path.append(unexpected[0] if unexpected else "")
        words = "is not known"
    elif rule == "type":
        words = f"has to be {_short(' or '.join(map(str, kind.types)))}"
    elif rule == "enum":
        words = f"has to be one of {_short(kind.options)}"
    elif rule == "const":
        words = f"has to be {_short(kind.expected_value)}"
    else:
        limit = getattr(kind, "limit", None)
        words = f'breaks the rule "{rule}"' if limit is None else f"breaks {rule} = {_short(limit)}"
    key = _path(path)
    if key:
        return key, rule, f'{noun} "{key}" {words}'
    return key, rule, f"they break {rule}" if noun == "argument" else f"it {words}"


def _path(path: list[str | int]) -> str:
    key = ""
    for part in path:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            key += f".{part}" if key else part
    return key if len(key) <= TEXT_MAX else f"{key[:TEXT_MAX]}…"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…"
