"""Evaluates `${…}` and `when` of a workflow: parses a text into a tree of a few known forms, and evaluates it over JSON.

Known are names, `a.b` and `a["b"]` and `a[0]`, comparisons, `in`, `and`, `or`, `not`, constants, lists and `len()`: no
calls beside that, no arithmetic, nothing that could reach the program. A text is bounded in length and depth, its
result in size. The caller gives the names and their values.
"""

import ast
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from corral.worker.contract import codec

MAX_CHARS = 1000
"""Characters of one expression."""

MAX_DEPTH = 40
"""Number of levels of one expression's tree, and of the tables and lists in which expressions stand."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of JSON that one template makes at most: as much as a message holds."""

MAX_INTEGER = 2**64
"""Number that every whole number of an expression is below, for readers of JSON with 64 bits."""

MAX_ENDS = 20
"""Number of `}` that are tried as the end of one `${`: one may stand in a string of it."""

_SURROGATE = re.compile("[\ud800-\udfff]")

CONSTANTS: Mapping[str, object] = {"true": True, "false": False, "null": None}

_COMPARISONS: dict[type[ast.cmpop], Callable[[object, object], bool]] = {
    ast.Eq: lambda a, b: _equal(a, b),
    ast.NotEq: lambda a, b: not _equal(a, b),
    ast.Lt: lambda a, b: _less(a, b),
    ast.GtE: lambda a, b: not _less(a, b),
    ast.Gt: lambda a, b: _less(b, a),
    ast.LtE: lambda a, b: not _less(b, a),
    ast.In: lambda a, b: _contains(b, a),
    ast.NotIn: lambda a, b: not _contains(b, a),
}


class BadExpression(ValueError):
    """Raised where an expression cannot be parsed, or has no value, with the `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Use(NamedTuple):
    """Represents a name that an expression uses, and the path into its value, as far as that is constant."""

    name: str
    path: tuple[object, ...]


def uses(template: object) -> frozenset[Use]:
    """Returns the names that the `${…}` in all texts of a JSON value use."""
    return frozenset(use for tree in _trees(template, 0) for use in _uses(tree))


def condition_uses(text: str) -> frozenset[Use]:
    """Returns the names that a condition uses."""
    return frozenset(_uses(_tree(text)))


def value_of(template: str, names: Mapping[str, object]) -> object:
    """Returns the value of a text that is one `${…}`, as it is, however large."""
    tree = _parts(template)[0]
    assert isinstance(tree, ast.expr), "it was checked when it was read"
    return _evaluate(tree, names)


def is_reference(template: object) -> bool:
    """Returns whether a value is a text that is one `${…}` and nothing beside it."""
    if not isinstance(template, str):
        return False
    parts = _parts(template)
    return len(parts) == 1 and isinstance(parts[0], ast.expr)


def rendered(template: object, names: Mapping[str, object]) -> object:
    """Replaces the `${…}` in a JSON value by their values; alone one becomes the value itself, in a text JSON; `$${` is a plain `${`."""
    return _Rendering(names).of(template)


def holds(text: str, names: Mapping[str, object]) -> bool:
    """Returns whether a condition is met: null, false, 0, and an empty value are not."""
    return bool(_evaluate(_tree(text), names))


class _Rendering:
    def __init__(self, names: Mapping[str, object]) -> None:
        self._names = names
        self._room = MAX_BYTES

    def of(self, template: object) -> object:
        if isinstance(template, str):
            return self._text(template)
        if (table := codec.as_object(template)) is not None:
            return {key: self.of(value) for key, value in table.items()}
        if (items := codec.as_array(template)) is not None:
            return [self.of(item) for item in items]
        return template

    def _text(self, template: str) -> object:
        parts = _parts(template)
        if len(parts) == 1 and isinstance(parts[0], ast.expr):
            value = _evaluate(parts[0], self._names)
            self._charge(_encoded(value))
            return value
        words: list[str] = []
        for part in parts:
            value = part if isinstance(part, str) else _evaluate(part, self._names)
            word = value if isinstance(value, str) else _encoded(value).decode()
            self._charge(word)
            words.append(word)
        return "".join(words)

    def _charge(self, made: bytes | str) -> None:
        self._room -= len(made)
        if self._room < 0:
            raise BadExpression(f"it makes more than {MAX_BYTES} bytes")


def _encoded(value: object) -> bytes:
    try:
        return codec.encode_with_margin(value)
    except ValueError as error:
        raise BadExpression("its value is nested too deeply") from error


# --- reading --------------------------------------------------------------------------------------


def _trees(template: object, depth: int) -> Iterator[ast.expr]:
    if depth > MAX_DEPTH:
        raise BadExpression(f"it is deeper than {MAX_DEPTH} levels")
    if isinstance(template, str):
        yield from (part for part in _parts(template) if isinstance(part, ast.expr))
    elif (table := codec.as_object(template)) is not None:
        for value in table.values():
            yield from _trees(value, depth + 1)
    elif (items := codec.as_array(template)) is not None:
        for item in items:
            yield from _trees(item, depth + 1)


@lru_cache(4096)
def _parts(template: str) -> tuple[str | ast.expr, ...]:
    """Returns the plain pieces of a text and the trees of its `${…}`, in order."""
    parts: list[str | ast.expr] = []
    plain, place = "", 0
    while (begin := template.find("${", place)) >= 0:
        if begin > 0 and template[begin - 1] == "$":  # `$${` stands for itself
            plain += template[place : begin - 1] + "${"
            place = begin + 2
            continue
        plain += template[place:begin]
        tree, place = _reference(template, begin + 2)
        parts += [plain, tree] if plain else [tree]
        plain = ""
    plain += template[place:]
    return (*parts, plain) if plain or not parts else tuple(parts)


def _reference(template: str, begin: int) -> tuple[ast.expr, int]:
    """Returns the tree of a reference whose text begins at `begin`, and the place after its `}`."""
    first: BadExpression | None = None
    end = begin - 1
    for _ in range(MAX_ENDS):
        end = template.find("}", end + 1)
        if end < 0:
            break
        try:
            return _tree(template[begin:end]), end + 1
        except BadExpression as error:
            first = first or error
    raise first or BadExpression('"${" has no "}"')


@lru_cache(4096)
def _tree(text: str) -> ast.expr:
    if not 0 < len(text.strip()) <= len(text) <= MAX_CHARS:
        raise BadExpression(f"an expression has 1 to {MAX_CHARS} characters")
    try:
        with warnings.catch_warnings():  # of Python, about what is odd in Python
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise BadExpression(f'"{_short(text)}" is no expression: {reason}') from error
    _check(tree, 0)
    return tree


def _check(tree: ast.AST, depth: int) -> None:
    """Refuses forms that `_evaluate` does not know."""
    if depth > MAX_DEPTH:
        raise BadExpression(f"it is deeper than {MAX_DEPTH} levels")
    inner: list[ast.expr] = []
    match tree:
        case ast.Constant(value=value):
            is_finite = not isinstance(value, float) or math.isfinite(value)
            if value is not None and not (isinstance(value, str | int | float) and is_finite):
                raise BadExpression(f"{_words(tree)} is no JSON value")
            if isinstance(value, str) and _SURROGATE.search(value) is not None:
                raise BadExpression("half of a surrogate pair is no text")
            if isinstance(value, int) and value >= MAX_INTEGER:
                raise BadExpression("it has a whole number of more than 64 bits")
        case ast.Name():
            pass
        case ast.Attribute(value=inside):
            inner = [inside]
        case ast.Subscript(value=inside, slice=key):
            inner = [inside, key]
        case ast.Compare(left=left, ops=kinds, comparators=others):
            if not all(type(kind) in _COMPARISONS for kind in kinds):
                raise BadExpression("write == or != in place of is")
            inner = [left, *others]
        case ast.BoolOp(values=values) | ast.List(elts=values):
            inner = values
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=inside):
            inner = [inside]
        case ast.Call(func=ast.Name(id="len"), args=[inside], keywords=[]):
            inner = [inside]
        case ast.Call():
            raise BadExpression(f"{_words(tree)}: no function but len(x) is known")
        case ast.BinOp():
            reason = 'arithmetic is not known; a name with "-" is written a["b-c"]'
            raise BadExpression(f"{_words(tree)}: {reason}")
        case _:
            raise BadExpression(f"{_words(tree)}: this form is not known")
    for each in inner:
        _check(each, depth + 1)


def _uses(tree: ast.expr) -> Iterator[Use]:
    """Yields the names of a tree, each with the constant part of the path into it."""
    path: list[object] = []
    inside: ast.expr = tree
    while isinstance(inside, ast.Attribute | ast.Subscript):
        if isinstance(inside, ast.Attribute):
            path.append(inside.attr)
        elif isinstance(inside.slice, ast.Constant):
            path.append(inside.slice.value)
        else:
            path.clear()  # the path beyond it is not constant
            yield from _uses(inside.slice)
        inside = inside.value
    if isinstance(inside, ast.Name):
        if inside.id not in CONSTANTS:
            yield Use(inside.id, tuple(reversed(path)))
        return
    for each in ast.iter_child_nodes(inside):
        if isinstance(each, ast.expr) and not _is_len(inside, each):
            yield from _uses(each)


def _is_len(call: ast.expr, name: ast.expr) -> bool:
    return isinstance(call, ast.Call) and call.func is name


# --- evaluating -----------------------------------------------------------------------------------


def _evaluate(tree: ast.expr, names: Mapping[str, object]) -> object:
    match tree:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            if name in CONSTANTS:
                return CONSTANTS[name]
            if name not in names:
                raise BadExpression(f'there is no "{name}" here')
            return names[name]
        case ast.Attribute(value=inside, attr=key):
            return _member(tree, _evaluate(inside, names), key)
        case ast.Subscript(value=inside, slice=index):
            return _member(tree, _evaluate(inside, names), _evaluate(index, names))
        case ast.BoolOp(op=kind, values=values):
            found: object = None
            for each in values:
                found = _evaluate(each, names)
                if bool(found) is isinstance(kind, ast.Or):
                    break
            return found
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, names)
        case ast.UnaryOp(operand=operand):
            return -_number(_evaluate(operand, names))
        case ast.Compare():
            return _compared(tree, names)
        case ast.List(elts=values):
            return [_evaluate(each, names) for each in values]
        case ast.Call(args=[inside]):
            return _length(tree, _evaluate(inside, names))
        case _:
            raise AssertionError("the tree was checked when it was read")


def _member(tree: ast.Attribute | ast.Subscript, value: object, key: object) -> object:
    """Returns the value of a table or a list under a key."""
    if isinstance(key, str) and (table := codec.as_object(value)) is not None:
        if key in table:
            return table[key]
    elif isinstance(key, int) and not isinstance(key, bool):
        items = codec.as_array(value)
        if items is not None and -len(items) <= key < len(items):
            return items[key]
    what = codec.encode(key).decode()
    raise BadExpression(f"{_words(tree.value)}, {_kind(value)}, has no {_short(what)}")


def _compared(tree: ast.Compare, names: Mapping[str, object]) -> bool:
    left = _evaluate(tree.left, names)
    for kind, other in zip(tree.ops, tree.comparators, strict=True):
        right = _evaluate(other, names)
        if not _COMPARISONS[type(kind)](left, right):
            return False
        left = right
    return True


def _equal(a: object, b: object) -> bool:
    """Compares as JSON does: true is not 1, nor is [true] equal to [1]."""
    way: list[Iterator[tuple[object, object]]] = [iter([(a, b)])]
    while way:  # no calls within calls: values may be nested more deeply
        pair = next(way[-1], None)
        if pair is None:
            way.pop()
            continue
        inner = _paired(*pair)
        if inner is not None:
            way.append(inner)
        elif isinstance(pair[0], bool) or isinstance(pair[1], bool):
            if pair[0] is not pair[1]:
                return False
        elif pair[0] != pair[1]:
            return False
    return True


def _paired(a: object, b: object) -> Iterator[tuple[object, object]] | None:
    """Yields the pairs of values of two lists of one length, or two tables of the same keys; None for other values."""
    if (items := codec.as_array(a)) is not None and (others := codec.as_array(b)) is not None:
        return zip(items, others, strict=True) if len(items) == len(others) else None
    one, other = codec.as_object(a), codec.as_object(b)
    if one is not None and other is not None and one.keys() == other.keys():
        return ((each, other[key]) for key, each in one.items())
    return None


def _less(a: object, b: object) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        return a < b
    return _number(a) < _number(b)


def _contains(whole: object, part: object) -> bool:
    if isinstance(whole, str) and isinstance(part, str):
        return part in whole
    if (table := codec.as_object(whole)) is not None:
        return isinstance(part, str) and part in table
    if (items := codec.as_array(whole)) is not None:
        return any(_equal(item, part) for item in items)
    raise BadExpression(f"{_kind(part)} cannot be looked for in {_kind(whole)}")


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadExpression(f"{_kind(value)} has no order: compare numbers, or texts")
    return value


def _length(tree: ast.Call, value: object) -> int:
    for sized in (value if isinstance(value, str) else None, codec.as_object(value), codec.as_array(value)):
        if sized is not None:
            return len(sized)
    raise BadExpression(f"{_words(tree)}: {_kind(value)} has no length")


def _kind(value: object) -> str:
    """Names a value's type in the words of JSON; the value itself may be long, or a secret."""
    if value is None or isinstance(value, bool):
        return codec.encode(value).decode()
    for kind, word in ((str, "a text"), (int | float, "a number"), (list, "a list")):
        if isinstance(value, kind):
            return word
    return "a table"


def _words(tree: ast.AST) -> str:
    return _short(ast.unparse(tree))


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 80 else f"{one_line[:76]} ..."
