"""Reads a configuration file: the files that it includes, merged into one document, and the variables in its strings.

Guarantees that each name is in one file, that a file is read once, and that an error names the file and the line
that it is about. Sections of defaults, and those of the daemon, are in the main file alone: a file that is added
changes nothing of another's agents.

`${NAME}` and `${NAME:-default}` come from an environment and a file `.env`. A value remembers the text that it was
written as, so that an error, `show` and `export` repeat that text and not what a variable held. `${secret:NAME}`,
`${instance}` and `${port:BASE}` belong to the start of a worker and are left as they are.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from corral.worker.contract.errors import InvalidParams

from ..decoding.decoder import Document, Expanded, KeyPath, Part
from ..decoding.keys import Field
from ..decoding.values import Refused, each, is_list, is_table, matching
from ..secrets.secrets import read_text
from .spec import Spec

# --- variables ------------------------------------------------------------------------------------

DOTENV = ".env"
"""Name of the file of variables beside the configuration file."""

_LATER = r"\$\{(?:instance|secret:[^}]*|port:[^}]*)\}"
_REFERENCE = re.compile(rf"\$\$|{_LATER}|\$\{{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}}]*))?\}}|\$\{{[^}}]*\}}?")
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")


class Unset(Refused):
    """Raised about a variable that is not set and has no default; `item` is the reference."""


@dataclass(frozen=True)
class Variables:
    """Holds the values of variables: those of `environ` win over those of the file `.env` in `folder`."""

    environ: Mapping[str, str]
    dotenv: Mapping[str, str]
    folder: str = ""

    @classmethod
    def beside(cls, folder: str, environ: Mapping[str, str]) -> "Variables":
        """Makes the variables for a configuration file in a folder."""
        name = f"{folder}/{DOTENV}"
        try:
            found = parsed(read_text(name, encoding="utf-8-sig"))
        except FileNotFoundError:
            found = {}
        except (OSError, ValueError) as error:
            why = error.strerror or "" if isinstance(error, OSError) else str(error)
            reason = why[:1].lower() + why[1:]
            raise InvalidParams(f'cannot read "{name}": {reason}', file=name, key=None, reason=reason) from error
        return cls(environ, found, folder)

    def expanded(self, text: str) -> str:
        """Returns a text with its variables replaced; an Expanded if there were some."""
        if "$" not in text:
            return text
        found = _REFERENCE.sub(self._value, text)
        return text if found == text else Expanded(found, text)

    def _value(self, match: re.Match[str]) -> str:
        whole, name, default = match[0], match[1], match[2]
        if whole == "$$":
            return "$"
        if re.fullmatch(_LATER, whole):
            return whole
        if name is None:
            advice = "write ${NAME} or ${NAME:-default}, and $${ for the characters themselves"
            raise Refused(f"this is no reference to a variable: {advice}", whole)
        value = self.environ.get(name, self.dotenv.get(name))
        if default is not None:
            return value or default
        if value is None:
            beside = f' nor in "{self.folder}/{DOTENV}"' if self.folder else ""
            raise Unset(
                f'the variable "{name}" is not set, neither in the environment{beside}: write'
                f" ${{{name}:-default}} for a default, $${{{name}}} for the text itself",
                whole,
            )
        return value

    def used_by(self, value: object) -> dict[str, str]:
        """Returns the variables that the strings of a value refer to, those that are set."""
        names = [match[1] for text in _texts(value) for match in _REFERENCE.finditer(text)]
        known = {**self.dotenv, **self.environ}
        return {name: known[name] for name in names if name in known}


NO_VARIABLES = Variables({}, {})


def parsed(text: str) -> dict[str, str]:
    """Parses the lines `NAME=VALUE` of a file `.env`.

    `export` may stand before, `#` begins a comment after a space, and quotes around a value are removed. In double
    quotes a backslash stands before n, t, a quote, a dollar and itself.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} has no NAME=VALUE")
        found[match[1]] = _unquoted(match[2])
    return found


_LITERAL = re.compile(r"\$(?:\{[A-Za-z_][A-Za-z0-9_]*(?::-[^}]*)?\}|[A-Za-z_][A-Za-z0-9_]*)")


def literal_warnings(specs: Iterable[Spec]) -> list[str]:
    """Returns a line for each variable that stays as it is written: `$NAME` in an environment, `${NAME}` in a file of it."""
    found: dict[str, None] = {}
    for spec in specs:
        for name, value in spec.environment.items():
            if "${" not in value and (match := _LITERAL.search(value)):
                text = f"{match[0]} stays as it is: write ${{{match[0][1:]}}} for the variable"
                found[f'"{spec.name}", environment {name}: {text}'] = None
        path = spec.process.environment_file
        for match in () if path is None else _LITERAL.finditer(_text_of(path)):
            found[f'"{path}": {match[0]} stays as it is: no variable is expanded there'] = None
    return list(found)


def _text_of(path: str) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError):  # the start of its worker tells
        return ""


def _unquoted(value: str) -> str:
    quoted = re.fullmatch(r"""(["'])(.*?)(?<!\\)\1(?:\s+#.*)?""", value)
    if quoted is None:
        return re.sub(r"(^|\s+)#.*", "", value)
    if quoted[1] == "'":
        return quoted[2]
    escapes = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
    return re.sub(r'\\([nt"\\$])', lambda match: escapes[match[1]], quoted[2])


def expand(value: object, variables: Variables, path: KeyPath, refuse: Callable[[KeyPath, Refused], None]) -> object:
    """Returns a value with the variables in all of its strings replaced; one that cannot be stays, and is refused."""
    if isinstance(value, str):
        try:
            return variables.expanded(value)
        except Refused as refused:
            refuse(path, refused)
            return value
    if is_table(value):
        return {key: expand(each, variables, (*path, key), refuse) for key, each in value.items()}
    if is_list(value):
        return [expand(each, variables, path, refuse) for each in value]
    return value


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif is_table(value):
        for each in value.values():
            yield from _texts(each)
    elif is_list(value):
        for each in value:
            yield from _texts(each)


# --- several files --------------------------------------------------------------------------------

DEPTH_MAX = 8
"""Number of files that may include one another in a row."""

FILES_MAX = 1000
"""Number of files of one configuration."""

NAMED: tuple[KeyPath, ...] = (
    ("agents",),
    ("teams",),
    ("workflows",),
    ("schedules",),
    ("templates",),
    ("stores",),
    ("models",),
    ("pools",),
    ("tenants",),
    ("tiers",),
    ("mcp", "servers"),
    ("mcp", "profiles"),
)
"""Tables of tables with names, which may be in any file."""

WITH_EXPRESSIONS = frozenset({"workflows", "templates"})
"""Tables whose strings have `${…}` of their own: those of workflows have no variables, those of templates are expanded later."""

_patterns = Field((each(matching(r"[^\x00]+", "the path of a file"), "paths"),))


def merged(document: Document, variables: Variables, *, expands: bool = True) -> dict[str, object]:
    """Returns the tables of a file and of all that it includes, mistakes noted; without `expands` variables of `include` alone are replaced."""
    return _Reading(document, variables, expands=expands).tables(document.main, document.main.tables())


def files_of(document: Document, variables: Variables) -> list[str]:
    """Returns the paths of the document's file and of all that it includes, without links; mistakes are noted."""
    reading = _Reading(document, variables, expands=False)
    reading.tables(document.main, document.main.tables())
    return sorted(reading.seen)


def expanded(
    document: Document, path: KeyPath, value: object, variables: Variables, part: Part | None = None
) -> object:
    """Returns a value with its variables expanded; those that cannot be stay, and are noted."""

    def refuse(where: KeyPath, refused: Refused) -> None:
        document.note(document.error(where, refused.item, refused.reason, part=part))

    return expand(value, variables, path, refuse)


class _Reading:
    def __init__(self, document: Document, variables: Variables, *, expands: bool) -> None:
        self._expands = expands
        self._document = document
        self._variables = variables
        self.seen: set[str] = set()

    def tables(self, part: Part, raw: dict[str, object]) -> dict[str, object]:
        """Returns the main file's tables with those of the included files."""
        self.seen.add(os.path.realpath(part.source))
        top = {key: value for key, value in raw.items() if key != "include"}
        top = self._expanded(part, top)
        self._include(part, raw.get("include", []), top, [part.source])
        return top

    def _expanded(self, part: Part, top: Mapping[str, object]) -> dict[str, object]:
        return {
            key: value
            if key in WITH_EXPRESSIONS or not (self._expands or key == "include")
            else expanded(self._document, (key,), value, self._variables, part)
            for key, value in top.items()
        }

    def _include(self, part: Part, raw: object, top: dict[str, object], chain: list[str]) -> None:
        document = self._document
        with document.collecting():
            patterns = self._expanded(part, {"include": raw})["include"]
            names = document.decode_key(("include",), patterns, {"include": _patterns}, part=part)
            for pattern in names:
                for path in self._found(part, pattern):
                    with document.collecting():
                        self._read(part, path, top, chain)

    def _found(self, part: Part, pattern: str) -> list[str]:
        whole = os.path.join(part.directory, pattern)
        if not glob.has_magic(pattern):
            return [whole]
        return sorted(path for path in glob.glob(whole, recursive=True) if os.path.isfile(path))

    def _read(self, by: Part, path: str, top: dict[str, object], chain: list[str]) -> None:
        document = self._document

        def refused(reason: str) -> InvalidParams:
            return document.error(("include",), path, reason, part=by)

        real = os.path.realpath(path)
        if real in map(os.path.realpath, chain):
            raise refused(f"it closes a circle: {' includes '.join([*chain, path])}")
        if real in self.seen:
            return
        if len(chain) >= DEPTH_MAX or len(self.seen) >= FILES_MAX:
            raise refused(f"write at most {DEPTH_MAX} levels and {FILES_MAX} files")
        self.seen.add(real)
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise refused((error.strerror or str(error)).lower()) from error
        except UnicodeError as error:
            raise refused("it is not UTF-8") from error
        part = Part(path, text, os.path.dirname(real))
        raw = part.tables()
        self._merge(part, self._expanded(part, {k: v for k, v in raw.items() if k != "include"}), top)
        self._include(part, raw.get("include", []), top, [*chain, path])

    def _merge(self, part: Part, own: Mapping[str, object], top: dict[str, object]) -> None:
        document = self._document
        rest: dict[str, object] = dict(own)
        mcp = rest.pop("mcp", None)
        if is_table(mcp):
            rest |= {f"mcp.{key}": value for key, value in mcp.items()}
        for key, tables in rest.items():
            path = tuple(key.split("."))
            with document.collecting():
                if path not in NAMED:
                    reason = (
                        f'write it in "{document.source}": an included file has agents,'
                        " servers, templates, stores, models, tenants, tiers, teams, workflows, schedules and profiles alone"
                    )
                    raise document.error(path, None, reason, part=part)
                if not is_table(tables):
                    raise document.error(path, tables, f"write a table: [{key}.NAME]", part=part)
                self._enter(part, path, tables, top)

    def _enter(self, part: Part, path: KeyPath, tables: Mapping[str, object], top: dict[str, object]) -> None:
        document = self._document
        place = top
        for each_key in path:
            inner = place.setdefault(each_key, {})
            if not isinstance(inner, dict):
                return  # a mistake of the main file, which is told there
            place = inner
        for name, table in tables.items():
            full = (*path, name)
            if name in place:
                other = document.place_of(full)
                reason = f"{other} has this name too: it can be in one file only"
                document.note(document.error(full, None, reason, part=part))
                continue
            place[name] = table
            document.share(full, part)
