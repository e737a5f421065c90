"""The language rule of docs/how-to/work-on-corral.md, as a test: docstrings, comments, messages, help texts and names.

`python tests/layout/test_language.py ROOM...` prints the findings of rooms such as supervisor/tasks, without a room those of all.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("cli", "mcp", "supervisor", "worker")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VERB = re.compile(r"(?:[A-Z][a-z]*-)?[A-Z]?[a-z]*[^s\W]s[,:]?")
"""A verb in the third person, as far as its letters show it: it ends with one s."""

NO_VERBS = _words(
    "Agents Always Arguments As Bytes Conditions Connections Descriptors Entries Events Fields "
    "Findings Globs Goes Has Hears Ids Inodes Is Its Keys Lines Methods Options Params Paths Patterns "
    "Refusals Rows Says Seconds Sessions Statements Tables Tasks Teams Tells This Trees Units Us Values "
    "Was Words Workers"
)
"""Words that end with one s and are no verb, or none of the field (tells, hears, says: sends, receives, reports)."""

CLASS_STARTS = frozenset(("A", "An", "Base", "Raised"))
"""Beside a verb, a class may begin so; or with the name of what it is on the wire or in a file, in backquotes."""

UNITS = _words(
    "Seconds Milliseconds Microseconds Nanoseconds Minutes Hours Days Bytes KiB MiB Bits Bit Number Lines "
    "Characters Percent Fraction Ratio Factor Pages Index Version Flag Flags Code Exit Signal Port Mode"
)
"""First words of the docstring of a number."""

QUESTION = re.compile(
    r"(?:(?:\A|[.!?]\s+|\n\s*\n\s*|[:;]\s+|\s-\s+)(?:Who|Whose|Whom|What|Whoever)\b"
    r"|[:;]\s+(?:who|whose|whom|what|whoever)\b)"
)
"""The beginning of a sentence, or what follows a colon, that asks instead of naming the thing."""

PERSON = re.compile(r"\b(?:he|him|his|himself|whoever|somebody)\b", re.IGNORECASE)
"""Words for people, said of a process, a client or a caller."""

METAPHORS = _words(
    "midwife nursery crew crews benched keeper keepers diary chronicle visit visits glance outlook "
    "testimony brood ears ear warden nest kin shelf family families board steering cradle turnstile "
    "notebook errand timetable conductor ensemble ensembles roster staffing offspring lineage offering "
    "waitlist doom tell tells told hear hears heard hearing say says said"
)
"""Words that no module, class, function or variable is named with."""

KEPT_NAMES: dict[str, frozenset[str]] = {}
"""Names with such a word that stay, by room: fields of the wire or of a file, and the field's own terms."""

ROOM_LINES = range(5, 16)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(NamedTuple):
    """A place that breaks the rule."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text}"


class Text(NamedTuple):
    """A piece of prose in a module."""

    line: int
    text: str


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}

ROOMS = sorted({module.rpartition(".")[0] for module in MODULES})


of_one_room = lru_cache(maxsize=40)
"""Keeps what is known of the modules of a room: those of all would make each collection of garbage slow."""


def files(room: str) -> list[Path]:
    """Returns the modules of a room, without those of the rooms inside it."""
    return [path for module, path in MODULES.items() if module.rpartition(".")[0] == room]


@of_one_room
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@of_one_room
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


@of_one_room
def docstrings(path: Path) -> dict[ast.AST, Text]:
    """Returns the docstrings of a module: those of Python, and the strings below an assignment."""
    found: dict[ast.AST, Text] = {}
    for node in nodes(path):
        found_body = getattr(node, "body", None)
        if not isinstance(found_body, list):
            continue
        body = cast(list[ast.AST], found_body)
        owners = [node, *body]
        for i, child in enumerate(body):
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                text = child.value.value
                if isinstance(text, str):
                    found[owners[i]] = Text(child.lineno, text)
    return found


@of_one_room
def prose(path: Path) -> list[Text]:
    """Returns docstrings, comments (a block is one) and strings of at least three words."""
    found: list[Text] = []
    for node in nodes(path):
        if isinstance(node, ast.Constant):
            value = node.value
            if isinstance(value, str) and len(value.split()) >= 3:
                found.append(Text(node.lineno, value))
    block: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.lstrip("#! ")
        if line != last + 1 and block:
            found.append(Text(start, " ".join(block)))
            block = []
        if not block:
            start = line
        block.append(text)
        last = line
    if block:
        found.append(Text(start, " ".join(block)))
    return found


def is_verb(word: str) -> bool:
    return VERB.fullmatch(word) is not None and word.rstrip(",:") not in NO_VERBS


def is_command(node: ast.AST) -> bool:
    """Returns True for a function that click makes a command of: its docstring is a help text, an imperative."""
    if not isinstance(node, Function):
        return False
    called = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    return any(re.search(r"\b(?:command|group)\b", ast.unparse(each)) for each in called)


def first_lines(path: Path) -> Iterator[Finding]:
    for node, (line, text) in docstrings(path).items():
        first, _, rest = text.strip().partition(" ")
        if is_command(node):
            is_right = first[:1].isupper() and not is_verb(first)
        elif isinstance(node, Function):
            is_right = is_verb(first) and not rest.startswith("of ")
        elif isinstance(node, ast.ClassDef):
            is_right = is_verb(first) or first in CLASS_STARTS or first.startswith("`")
        else:
            continue
        if not is_right:
            yield Finding(path, line, f"begins with no verb: {text.strip().splitlines()[0]}")


def questions(path: Path) -> Iterator[Finding]:
    for line, text in prose(path):
        for match in QUESTION.finditer(text):
            around = " ".join(text[match.start() : match.start() + 60].split())
            at = line + text[: match.end()].count("\n")
            yield Finding(path, at, f"a sentence begins with a pronoun: {around}")


def persons(path: Path) -> Iterator[Finding]:
    for line, text in prose(path):
        for match in PERSON.finditer(text):
            around = " ".join(text[max(0, match.start() - 30) : match.start() + 40].split())
            at = line + text[: match.start()].count("\n")
            yield Finding(path, at, f"a process is it: {around}")


def is_number(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    return isinstance(node, ast.UnaryOp) and is_number(node.operand)


def constants(path: Path) -> Iterator[Finding]:
    for node, (line, text) in docstrings(path).items():
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        elif isinstance(node, ast.AnnAssign):
            target = node.target
        else:
            continue
        is_constant = isinstance(target, ast.Name) and target.id.isupper()
        first = re.split(r"\W", text.strip(), maxsplit=1)[0]
        if is_constant and is_number(node.value) and first not in UNITS:
            yield Finding(path, line, f"begins with no unit: {text.strip().splitlines()[0]}")


def words(name: str) -> Iterator[str]:
    """Yields the words of a name: `log_stream`, `LogStream` and `LOG_STREAM` are the same two."""
    for part in name.split("_"):
        found = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", part)
        yield from (word.lower() for word in found)


def definitions(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the names that a module defines: itself, classes, functions, arguments, variables, attributes."""
    yield 1, path.stem
    for node in nodes(path):
        if isinstance(node, Function | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def metaphors(path: Path) -> Iterator[Finding]:
    room = ".".join(path.relative_to(ROOT).parent.parts)
    kept = KEPT_NAMES.get(room, frozenset())
    for line, name in definitions(path):
        if name not in kept and not METAPHORS.isdisjoint(words(name)):
            yield Finding(path, line, f"a name is a metaphor: {name}")


def rooms_explained(path: Path) -> Iterator[Finding]:
    if path.name == "__init__.py" and path.parent.parent != ROOT:
        text = ast.get_docstring(tree(path)) or ""
        if len(text.splitlines()) not in ROOM_LINES:
            yield Finding(path, 1, "a room is explained in 5 to 15 lines")


RULES = (first_lines, questions, persons, constants, metaphors, rooms_explained)


def findings(room: str) -> list[Finding]:
    return sorted({found for path in files(room) for rule in RULES for found in rule(path)})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("room", ROOMS)
def test_a_room_keeps_the_rule(rule: Callable[[Path], Iterator[Finding]], room: str) -> None:
    found = [str(each) for path in files(room) for each in rule(path)]
    assert found == []


def main(rooms: list[str]) -> int:
    """Prints the findings of rooms, and how many each has."""
    for room in [room.strip("/").replace("/", ".") for room in rooms] or ROOMS:
        found = findings(room)
        for each in found if rooms else ():
            print(each)
        print(f"{room}: {len(found)} findings")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
