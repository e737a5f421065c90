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
from typing import Any, NamedTuple, cast

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

MAX_STATES = 500
"""Number of states of one pattern: its characters and classes, each as often as it is repeated."""

FEW_STATES = 20
"""Number of states below which a pattern takes one step for each character, whatever its form and the text; beyond, it may be one for each state."""

MAX_WORK = 2_000_000
"""Number of steps of one check, of 25 ns at most: places in the schema times places in the value, and what patterns take."""

MAX_PLACES = 300_000
"""Number of places in a value, however simple its schema."""

EXPLAINED_WORK = 2_000
"""Number of steps up to which the library explains in its own words what is wrong: it takes 2 µs for each, beyond that more
than as many (10,000 members that were not evaluated took minutes)."""

LOCATED_WORK, LOCATED_PLACES = 100_000, 10_000
"""Numbers of steps and of places up to which it says where something is wrong, whatever the schema."""

CHARACTERS_A_STEP = 64

PLAIN_ARGUMENTS = 20
PLAIN_CHARACTERS = 1_000

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
_BRANCHES = frozenset({"anyOf", "oneOf", "not", "if", "contains", "propertyNames"}) | _UNEVALUATED
"""Keywords whose error holds the errors of all their branches: it is not told by the first one alone."""

AGAIN = 3
"""Number of times that a schema with an `unevaluated…` keyword has those checked that apply to the same value: once for
itself, and then to know what they have evaluated. Nested, this grows by 2.62 a level (measured with jsonschema_rs 0.4x)."""

logger = logging.getLogger(__name__)


class _Uncheckable(Exception):
    """Raised for a schema that is not applied; never leaves this module."""


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
    def __init__(self, checked: "_Checked", cost: "_Cost") -> None:
        self._checked = checked
        self._cost = cost
        self._is_light = cost.of(_PLAIN) <= MAX_WORK and cost.returns <= 1

    def check(self, exposed: str, arguments: Mapping[str, object]) -> None:
        size = _PLAIN if self._is_light and _is_plain(arguments) else _size_of(arguments, self._cost.places_max)
        if self._cost.of(size) > MAX_WORK:
            logger.debug("the arguments of %s are not checked: it could take too long", exposed)
            return
        try:
            if self._checked.is_valid(arguments):
                return
            exact = _size_of(arguments, MAX_PLACES) if size is _PLAIN else size
            found = self._checked.faults(arguments, self._cost.of(exact), exact.places, "argument")
        except (ValueError, TypeError, OverflowError) as error:  # JSON cannot express them: sending raises
            logger.debug("the arguments of %s are not checked: %s", exposed, error)
            return
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
            self._cost = measure.taken()
            self._checked = _Checked(_compile(schema), measure.has_branches)
        except _Uncheckable as error:
            raise InvalidParams(f"cannot use the schema: {error}", reason=str(error)) from error

    def faults(self, value: object) -> list[dict[str, str]]:
        """Returns the errors of a value, at most ERRORS_MAX, each with `path`, `rule` and `reason`; empty if it is valid."""
        size = _size_of({"": value}, self._cost.places_max)
        if self._cost.of(size) > MAX_WORK:
            raise ResourceLimitExceeded(
                "cannot check the value against its schema: it could take too long",
                limit="schema_steps",
                value=MAX_WORK,
            )
        try:
            found = self._checked.faults(value, self._cost.of(size), size.places, "value")
        except (ValueError, TypeError, OverflowError) as error:  # JSON cannot express them
            reason = str(error).partition("\n")[0][:TEXT_MAX]
            return [{"path": "", "rule": "type", "reason": f"it cannot be read: {reason}"}]
        return [{"path": key, "rule": rule, "reason": reason} for key, rule, reason in found]


def _validator(exposed: str, tool: Tool) -> _Validator | None:
    schema = tool.input_schema
    if schema == {"type": "object"} or not schema:
        return None  # every call sends an object
    try:
        measure = _Measure(schema)
        cost = measure.taken()
        return _Validator(_Checked(_compile(schema), measure.has_branches), cost)
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


class _Size(NamedTuple):
    """Represents the size of a value: its places, their depth, its characters, and those of each text up to MAX_STATES."""

    places: int
    depth: int
    characters: int
    first_characters: int


class _Cost(NamedTuple):
    """Represents the cost of a schema: the places that one value can be checked against, and what its patterns take.

    `states` are the steps of patterns for each character, `bounded_states` those of patterns that end after MAX_STATES
    characters; `returns` is the number of recursive references.
    """

    places: int = 0
    states: int = 0
    bounded_states: int = 0
    returns: int = 0

    def of(self, size: _Size) -> int:
        """Returns the number of steps of a check of a value."""
        if size.places > MAX_PLACES:
            return MAX_WORK + 1
        growth = self.returns**size.depth if self.returns > 1 else 1
        texts = size.characters // CHARACTERS_A_STEP
        patterns = self.states * size.characters + self.bounded_states * size.first_characters
        return growth * (self.places * (size.places + texts) + patterns)

    def plus(self, other: "_Cost", times: int) -> "_Cost":
        """Returns the cost together with that of a part which is checked so many times."""
        return _Cost(*(own + times * more for own, more in zip(self, other, strict=True)))

    @property
    def places_max(self) -> int:
        """Returns the number of places of a value from which on it is too large in any case."""
        return min(MAX_PLACES, MAX_WORK // max(1, self.places))


_PLAIN = _Size(1 + PLAIN_ARGUMENTS, 2, PLAIN_ARGUMENTS * PLAIN_CHARACTERS, PLAIN_ARGUMENTS * MAX_STATES)
"""The size of PLAIN_ARGUMENTS arguments without nested values, at most."""


class _Measure:
    """Counts what one value can be checked against.

    References are followed, so that a short schema which doubles itself thirty times counts with its expanded size. A
    recursive reference counts as one place; their number determines the growth of the cost with each level of the
    value.
    """

    def __init__(self, schema: Mapping[str, object]) -> None:
        self._schema = schema
        self._known: dict[int, _Cost] = {}
        self._open: set[int] = set()
        self._nodes = 0
        self._patterns = 0
        self.has_branches = False
        """Whether a part that was counted has branches."""

    def taken(self) -> _Cost:
        """Returns the cost of the schema."""
        return self._of(self._schema, 0)

    def _of(self, value: object, depth: int) -> _Cost:
        fields, items = as_object(value), as_array(value)
        if fields is None and items is None:
            return _Cost()
        known = self._known.get(id(value))
        if known is not None:
            return known
        if id(value) in self._open:
            return _Cost(places=1, returns=1)
        self._nodes += 1
        if self._nodes > MAX_SCHEMA_NODES or depth > MAX_DEPTH:
            raise _Uncheckable("its schema is too large")
        self._open.add(id(value))
        parts = self._parts(fields) if fields is not None else [(each, 1) for each in items or ()]
        cost = _Cost(places=1 + len(items or ())) if fields is None else self._of_patterns(fields)
        for each, times in parts:
            cost = cost.plus(self._of(each, depth + 1), times)
            if cost.places > MAX_WORK or cost.states + cost.bounded_states > MAX_WORK:
                raise _Uncheckable("its schema is too wide")
        self._open.discard(id(value))
        if not cost.returns or not self._open:
            self._known[id(value)] = cost
        return cost

    def _of_patterns(self, fields: dict[str, object]) -> _Cost:
        """Returns the cost of the patterns of one place, and of the place."""
        pattern = fields.get("pattern")
        named = as_object(fields.get("patternProperties")) or {}
        cost = _Cost(places=1)
        for each in [*named, *([pattern] if isinstance(pattern, str) else [])]:
            self._patterns += 1
            cost = cost.plus(_cost_of_pattern(each), 1)
        if self._patterns > MAX_PATTERNS:
            raise _Uncheckable("its schema has too many patterns")
        return cost

    def _parts(self, fields: dict[str, object]) -> list[tuple[object, int]]:
        """Returns the parts of a schema that apply to a value to which the schema applies, and how often each is checked."""
        parts = list[tuple[object, int]]()
        again = 1 if _UNEVALUATED.isdisjoint(fields) else AGAIN
        self.has_branches = self.has_branches or not _BRANCHES.isdisjoint(fields)
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


_TOKEN = re.compile(r"\\[pPu]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[:=!<]*|\{(\d+)(,?)(\d*)\}|.", re.DOTALL)
"""One part of a pattern; its groups are the numbers of a repetition."""


def _cost_of_pattern(pattern: str) -> _Cost:
    """Returns the steps that a pattern takes for each character, at most: one for each state that is reached at the same time.

    The library takes linear time in the text, by a table of sets of states; where the table gets too large, each set is
    computed again for each character (13 µs for 500 states, measured). A pattern without an open end that matches at the
    beginning alone ends after as many characters as it has states.
    """
    sizes = [0]
    last = 0
    is_open = "|" in pattern or not pattern.startswith("^")
    for found in _TOKEN.finditer(pattern):
        token = found[0]
        if token.startswith("("):
            sizes.append(0)
        elif token == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif token in ("*", "+", "?", "^", "$", "|"):
            is_open = is_open or token in ("*", "+")
        elif found[1] is not None:
            is_open = is_open or bool(found[2] and not found[3])
            sizes[-1] += last * (max(1, int(found[3] or found[1])) - 1)
        else:
            last = 1
            sizes[-1] += last
        if sum(sizes) > MAX_STATES:
            raise _Uncheckable("its schema has a pattern that repeats too much")
    states = sum(sizes)
    if states < FEW_STATES:
        return _Cost(states=1)
    return _Cost(states=states) if is_open else _Cost(bounded_states=states)


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


def _size_of(value: Mapping[str, object], limit: int) -> _Size:
    """Returns the size of a value; counting ends at the limit of places."""
    places, depth, characters, first = 1, 1, 0, 0
    level: list[object] = [value]
    while level and places <= limit:
        depth += 1
        below = list[object]()
        for each in level:
            places += 1
            if isinstance(each, str):
                characters += len(each)
                first += min(len(each), MAX_STATES)
            elif isinstance(each, dict):
                fields = cast("dict[str, object]", each)
                below.extend(fields.values())
                keys = sum(map(len, fields))
                characters, first = characters + keys, first + min(keys, MAX_STATES * len(fields))
            elif isinstance(each, list):
                below.extend(cast("list[object]", each))
        level = below
    return _Size(places, depth, characters, first)


# -- what is wrong


class _Checked:
    """Holds a compiled schema, and tells what is wrong with a value as exactly as there is time for."""

    def __init__(self, compiled: Any, has_branches: bool) -> None:  # of a C extension
        self._compiled = compiled
        self._has_branches = has_branches

    def is_valid(self, value: object) -> bool:
        """Returns whether a value is valid; raises what the library does for one that JSON cannot express."""
        return bool(self._compiled.is_valid(value))

    def faults(self, value: object, work: int, places: int, noun: str) -> list[tuple[str, str, str]]:
        """Returns path, rule and reason of what is wrong, ERRORS_MAX at most; `work` is the number of steps of a check."""
        if self.is_valid(value):
            return []
        if work <= EXPLAINED_WORK:
            return [_explain(error, noun) for error in islice(self._compiled.iter_errors(value), ERRORS_MAX)]
        if work <= LOCATED_WORK and places <= LOCATED_PLACES:
            return [_located(each, noun) for each in islice(self._compiled.evaluate(value).errors(), ERRORS_MAX)]
        if self._has_branches:
            return [("", "", f"the {noun} is too long to say what breaks its schema")]
        try:
            self._compiled.validate(value)
        except ValueError as error:  # the library's ValidationError is one
            if not hasattr(error, "instance_path"):
                raise
            return [_explain(error, noun)]
        return []


def _located(error: Mapping[str, str], noun: str) -> tuple[str, str, str]:
    """Returns the path of an invalid part, the violated rule, and a text of both."""
    rule = error["schemaLocation"].rpartition("/")[2]
    names = [part.replace("~1", "/").replace("~0", "~") for part in error["instanceLocation"].split("/")[1:]]
    key = _path([int(name) if re.fullmatch("[0-9]{1,9}", name) else name for name in names])
    return key, rule, f'{noun} "{key}" breaks the rule "{rule}"' if key else f'it breaks the rule "{rule}"'


def _explain(error: Any, noun: str) -> tuple[str, str, str]:
    """Returns the path of the invalid part, the violated rule, and a text of both without the value."""
    kind = error.kind  # each has attributes of its own
    rule, path = str(kind.name), list[str | int](error.instance_path)
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
