"""Decodes single values: each rule takes a value as it is written, and returns the decoded one or raises Refused.

Durations become float seconds, sizes int bytes, lists tuples. A rule knows its value only: not the
key, not the file, not the machine.
"""

import ipaddress
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeGuard, cast
from urllib.parse import urlsplit

from corral.mcp.pool import validation
from corral.worker.contract.codec import encode
from corral.worker.contract.errors import (
    Conflict,
    InvalidParams,
    NotFound,
    Overloaded,
    PermissionDenied,
    ResourceLimitExceeded,
    TaskFailed,
    Timeout,
    ToolFailed,
    WorkerFailed,
)

from .shapes import STRINGS, TEXT, Rule, Schema, Shape, accepts, narrows, or_variable, shape_of, unchanged

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
DAY_S = 86_400.0
COUNT_MAX = 1_000_000_000
"""Number up to which the bound of a count is worth a word."""
DURATION_MAX_S = 36_525 * DAY_S
SIZE_MAX_BYTES = (1 << 63) - 1
CONFIG_DEPTH_MAX = 32
SCHEMA_BYTES_MAX = 64 * KIB
PROTOCOL_VERSIONS = ("auto", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
# Those that can ask a program to end; the ones that stop or continue it are not among them.
# fmt: off
SIGNALS = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL",
    "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGURG", "SIGXCPU",
    "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
)
# fmt: on


class Refused(ValueError):
    """Raised by a rule: `item` is the culprit where it is not the whole value."""

    def __init__(self, reason: str, item: object = ...) -> None:
        super().__init__(reason)
        self.reason = reason
        self.item = item

    def below(self, key: str, raw: object) -> "RefusedKey":
        """Returns the same refusal as one of a key, `raw` being its whole value."""
        return RefusedKey(key, raw if self.item is ... else self.item, self.reason)


class RefusedKey(Refused):
    """Raised about one key of a table that is a value; `path` names it, from the outermost table on."""

    def __init__(self, key: str, item: object, reason: str) -> None:
        super().__init__(reason, item)
        self.path: tuple[str, ...] = (key,)

    def below(self, key: str, raw: object) -> "RefusedKey":
        """Returns the same refusal as one of a key inside the value of `key`."""
        self.path = (key, *self.path)
        return self


WEB: Schema = {"type": "string", "pattern": "^https?://"}
ARGV: Schema = {"type": "array", "items": TEXT, "minItems": 1}

DURATION_TEXT = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
SIZE_TEXT = re.compile(r"(\d{1,15})(\.\d{1,15})? ?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_SIZE_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
}


def _number_or_text(kind: str, text: re.Pattern[str]) -> Schema:
    return {"anyOf": [{"type": kind, "minimum": 0}, {"type": "string", "pattern": f"^{text.pattern}$"}]}


@accepts("duration", _number_or_text("number", DURATION_TEXT))
def duration(raw: object) -> float:
    """Returns seconds, from a number of them or a text with a unit."""
    number: float | None = None
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        number = raw
    elif isinstance(raw, str) and (match := DURATION_TEXT.fullmatch(raw)):
        number = float(match[1]) * _DURATION_UNITS[match[2]]
    if number is None:
        raise Refused('write seconds as a number, or a duration such as "500ms", "30s", "5m", "1h"')
    if not 0 <= number <= DURATION_MAX_S:  # NaN is refused here too
        raise Refused(f"write a duration from 0 to {DURATION_MAX_S / DAY_S:.0f} days")
    return float(number)


@narrows(
    lambda before: Shape(
        f"{before.unit}, above 0", {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, *before.schema["anyOf"][1:]]}
    )
)
def above_zero(seconds: float) -> float:
    """Returns the same duration, unless it is 0."""
    if seconds <= 0:
        raise Refused("write a duration above 0")
    return seconds


@narrows(lambda before: Shape("whole seconds", before.schema))
def whole_seconds(seconds: float) -> int:
    """Returns the same duration as an int, unless there is a fraction."""
    if seconds != math.floor(seconds):
        raise Refused("write whole seconds: the kernel counts no finer")
    return int(seconds)


@accepts("size", _number_or_text("integer", SIZE_TEXT))
def size(raw: object) -> int:
    """Returns bytes, from a number of them or a text with a unit."""
    number: int | None = None
    if isinstance(raw, int) and not isinstance(raw, bool):
        number = raw
    elif isinstance(raw, str) and (match := SIZE_TEXT.fullmatch(raw)):
        unit = _SIZE_UNITS[match[3]]
        number = int(match[1]) * unit + int(float(match[2] or 0) * unit)
    if number is None:
        raise Refused('write bytes as a whole number, or a size such as "64MiB", "2GiB", "500MB"')
    if not 0 <= number <= SIZE_MAX_BYTES:
        raise Refused(f"write a size from 0 to {SIZE_MAX_BYTES} bytes")
    return number


def duration_text(seconds: float) -> str:
    """Returns a duration above 0 as a file has it, in the largest unit that it is a whole number of."""
    units = ((DAY_S, "d"), (3600, "h"), (60, "m"), (1, "s"))
    return next((f"{seconds / unit:.0f}{name}" for unit, name in units if seconds % unit == 0), f"{seconds * 1000:g}ms")


def size_text(number: int, between: str = "") -> str:
    """Returns bytes as a file has them, in the largest unit that they are a whole number of."""
    units = ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
    return next((f"{number // unit}{between}{name}" for unit, name in units if number % unit == 0), str(number))


def between(minimum: int, maximum: int | None) -> Callable[[int], int]:
    """Returns a rule for a number in a range, both ends included; `maximum` None is no bound."""

    def shape(before: Shape) -> Shape:
        number, *rest = before.schema["anyOf"]
        words = f"{before.unit}, {size_text(minimum, ' ')}"
        if maximum is None:
            return Shape(f"{words} or more", {"anyOf": [{**number, "minimum": minimum}, *rest]})
        bounded = {**number, "minimum": minimum, "maximum": maximum}
        return Shape(f"{words} to {size_text(maximum, ' ')}", {"anyOf": [bounded, *rest]})

    @narrows(shape)
    def rule(number: int) -> int:
        if maximum is None and number < minimum:
            raise Refused(f"write at least {minimum}")
        if maximum is not None and not minimum <= number <= maximum:
            raise Refused(f"write a value from {minimum} to {maximum}")
        return number

    return rule


def whole(minimum: int, maximum: int) -> Callable[[object], int]:
    """Returns a rule for an int in a range, both ends included, or a float without a fraction; true and false are no numbers."""
    words = f"{minimum} or more" if maximum > COUNT_MAX else f"{minimum} to {maximum}"

    @accepts(words, {"type": "integer", "minimum": minimum, "maximum": maximum})
    def rule(raw: object) -> int:
        number = int(raw) if isinstance(raw, float) and raw.is_integer() else raw
        if isinstance(number, bool) or not isinstance(number, int) or not minimum <= number <= maximum:
            raise Refused(f"write a whole number from {minimum} to {maximum}")
        return number

    return rule


@accepts("boolean", {"type": "boolean"})
def boolean(raw: object) -> bool:
    """Accepts true or false, and nothing that stands for them."""
    if not isinstance(raw, bool):
        raise Refused("write true or false")
    return raw


def did_you_mean(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Returns the end of a refusal that names the nearest known word; "" where none is near."""
    near = get_close_matches(word, list(known), 1, likeness)
    return f'; did you mean "{near[0]}"?' if near else ""


def one_of(choices: Sequence[str]) -> Callable[[object], str]:
    """Returns a rule for one of a few words."""

    @accepts(", ".join(choices), {"enum": list(choices)})
    def rule(raw: object) -> str:
        if isinstance(raw, str) and raw in choices:
            return raw
        guess = did_you_mean(raw, choices, 0.5) if isinstance(raw, str) else ""
        raise Refused(f"write one of {quoted(choices)}{guess}")

    return rule


def matching(pattern: str, words: str) -> Callable[[object], str]:
    """Returns a rule for a string that `pattern` matches whole; `words` describe the string in the error."""

    @accepts(words, {"type": "string", "pattern": f"^({pattern})$".replace(r"\0", r"\x00")})
    def rule(raw: object) -> str:
        if not isinstance(raw, str) or not re.fullmatch(pattern, raw):
            raise Refused(f"write {words}")
        return raw

    return rule


@accepts("path", {"type": "string", "minLength": 1})
def file_path(raw: object) -> str:
    """Accepts a path, absolute or not."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise Refused("write a path as a string")
    if raw.startswith("~"):
        raise Refused('write the whole path: "~" is not expanded')
    return raw


def each(rule: Rule, words: str) -> Callable[[object], tuple[Any, ...]]:  # Any: what `rule` returns
    """Returns a rule for a list whose items all pass `rule`; `words` name the items."""

    def shape(_before: Shape) -> Shape:
        unit, schema = shape_of((rule,))
        return Shape(f"list of {unit if 'enum' in schema else words}", {"type": "array", "items": or_variable(schema)})

    @narrows(shape)
    def all_of(raw: object) -> tuple[Any, ...]:
        if not is_list(raw):
            raise Refused(f"write a list of {words}")
        items: list[object] = []
        for item in raw:
            try:
                items.append(rule(item))
            except Refused as refused:
                raise Refused(f"in a list of {words}: {refused.reason}", item) from refused
        return tuple(items)

    return all_of


RETRY_WORDS = ("worker-death", "any", "never")
RETRY_ERRORS = tuple(
    kind.__name__ for kind in (TaskFailed, ToolFailed, Timeout, WorkerFailed, ResourceLimitExceeded)
) + tuple(kind.__name__ for kind in (NotFound, Conflict, PermissionDenied, Overloaded))
"""Errors of an attempt after which another one may be worth it."""

_REASONS: Schema = {"enum": [*RETRY_WORDS, *RETRY_ERRORS]}


@accepts(
    "worker-death, any, never, the name of an error, or a list of these",
    {"anyOf": [_REASONS, {"type": "array", "items": _REASONS, "minItems": 1}]},
)
def retry_reasons(raw: object) -> str | tuple[str, ...]:
    """Accepts the reasons to retry a task: a word, or a list of words and of errors' names; "never" stands alone."""
    if isinstance(raw, str):
        return one_of((*RETRY_WORDS, *RETRY_ERRORS))(raw)
    names = each(one_of((*RETRY_WORDS[:2], *RETRY_ERRORS)), "reasons")(raw)
    if not names:
        raise Refused('write "never" in place of an empty list')
    return names


@accepts("string", TEXT)
def argument(raw: object) -> str:
    """Accepts a string that execve(2) can take."""
    if not isinstance(raw, str) or "\0" in raw:
        raise Refused("write every argument as a string without NUL")
    return raw


@accepts("list of strings", ARGV)
def argv(raw: object) -> tuple[object, ...]:
    """Accepts a program and its arguments."""
    if isinstance(raw, str):
        raise Refused(f"write a list: {_as_list(raw)}")
    items = each(argument, "strings")(raw)
    if not items or not items[0]:
        raise Refused("write a list that starts with the program")
    # A path may have spaces; the name of a program in PATH has none.
    if len(words := str(items[0]).split()) > 1 and "/" not in words[0]:
        advice = f"no shell is used: write {_as_list(str(items[0]), items[1:])}"
        raise Refused(f"the first item is the program alone, and {advice}", items[0])
    return items


_OF_A_SHELL = re.compile(r"[|&;<>`*?]|\$[A-Za-z_({]|(^|\s)(cd|export|source|exec|ulimit)\s|^\w+=")


def _as_list(line: str, more: Sequence[object] = ()) -> str:
    """Returns the list in place of a command line: its words, or a shell where only that can run it."""
    words = ["sh", "-c", line] if _OF_A_SHELL.search(line) else split_words(line)
    return json.dumps([*words, *more], ensure_ascii=False)


@accepts('"MODULE:NAME"', {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"})
def module_and_name(raw: object) -> str:
    """Accepts the agent of the Python SDK: a module, and the name in it."""
    words = 'write "MODULE:NAME"'
    if not isinstance(raw, str):
        raise Refused(words)
    module, _, name = raw.partition(":")
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", raw) and not module.endswith(".py"):
        return raw
    path = re.fullmatch(r"(?:\./)?((?:[A-Za-z_]\w*/)*[A-Za-z_]\w*)(?:\.py)?", module)
    guess = f"{path[1].replace('/', '.')}:{name or 'agent'}" if path else ""
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", guess):
        words += f', such as "{guess}": a module as import writes it, and the name of the agent in it'
    raise Refused(words)


@accepts("table of strings", STRINGS)
def variables(raw: object) -> dict[str, str]:
    """Accepts a table of environment variables."""
    if not is_table(raw):
        raise Refused('write a table of strings: environment = { NAME = "value" }')
    environment: dict[str, str] = {}
    for name, value in raw.items():
        if not name or "=" in name or "\0" in name:
            raise RefusedVariable(name, value, "a name is not empty and has no = and no NUL")
        if not isinstance(value, str):
            text = json.dumps(value) if isinstance(value, int | float) else "..."
            raise RefusedVariable(name, value, f'write a string: {dotted([name])} = "{text}"')
        if "\0" in value:
            raise RefusedVariable(name, value, "the value of a variable has no NUL")
        environment[name] = value
    return environment


class RefusedVariable(RefusedKey):
    """Raised about one variable of an environment. A value that could be a secret is not repeated."""

    def __init__(self, name: str, value: object, reason: str) -> None:
        shown = value if isinstance(value, bool | int | float) else kind_of(value)
        super().__init__(name, shown, reason)


@accepts("http or https address", WEB)
def web_url(raw: object) -> str:
    """Accepts the address of a remote MCP server or a webhook, without userinfo, which would end up in lists and logs."""
    words = 'write "https://HOST/PATH"'
    pattern = r"https?://[^\s/?#@]+(:[0-9]{1,5})?([/?][^\s#]*)?"
    if not isinstance(raw, str) or not re.fullmatch(pattern, raw):
        raise Refused(words, "..." if isinstance(raw, str) and "@" in raw else raw)
    if "${secret:" in raw:
        raise Refused("${secret:NAME} is not expanded in an address: send it in headers")
    try:
        port = urlsplit(raw).port
    except ValueError as error:  # a port above 65535, half of an IPv6 address
        raise Refused(f"{words}; a port is at most 65535, an IPv6 address [in brackets]") from error
    if port == 0:
        raise Refused("write a port of at least 1")
    return raw


@accepts("http or https address", WEB)
def push_address(raw: object) -> str:
    """Accepts the beginning of addresses of push notifications; its port may be `*`."""
    found = web_url(re.sub(r":\*(?=/|$)", "", raw, count=1) if isinstance(raw, str) else raw)
    return raw if isinstance(raw, str) else found


@accepts("table of strings", STRINGS)
def http_headers(raw: object) -> dict[str, str]:
    """Accepts names and values of HTTP headers (RFC 9110, 5.1 and 5.5)."""
    if not is_table(raw):
        raise Refused('write a table: { Authorization = "Bearer ${secret:TOKEN}" }')
    for name, value in raw.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise RefusedVariable(name, value, "this is no name of an HTTP header")
        if not isinstance(value, str) or not re.fullmatch(r"[\t\x20-\x7e]*", value):
            raise RefusedVariable(name, value, "write a string of printable ASCII characters")
    return {name: str(value) for name, value in raw.items()}


PERMISSIONS = ("ask", "allow", "deny")
PERMISSION_RULES_MAX = 100


@accepts(f"table of {', '.join(PERMISSIONS)}", {"type": "object", "additionalProperties": {"enum": list(PERMISSIONS)}})
def rules_of_actions(raw: object) -> dict[str, str]:
    """Accepts a table of globs of actions, each with what holds for them."""
    words = " or ".join(f'"{word}"' for word in PERMISSIONS)
    if not is_table(raw):
        raise Refused('write a table: { read = "allow", "*rm -rf*" = "deny" }')
    if len(raw) > PERMISSION_RULES_MAX:
        raise Refused(f"write at most {PERMISSION_RULES_MAX} rules", "...")
    for glob, word in raw.items():
        if not re.fullmatch(r"[^\x00-\x1f\x7f]{1,128}", glob):
            raise RefusedKey(glob, word, "a glob has 1 to 128 characters")
        if word not in PERMISSIONS:
            raise RefusedKey(glob, word, f"write {words}")
    return {glob: str(word) for glob, word in raw.items()}


@accepts("string", TEXT)
def signing_key(raw: object) -> str:
    """Accepts the key of a signature, which is shown nowhere."""
    if not isinstance(raw, str) or "\0" in raw:
        raise Refused('write a string: "${secret:NAME}"', "...")
    return raw


@accepts("table", {"type": "object"})
def free_table(raw: object) -> dict[str, object]:
    """Accepts a table of the agent's own. It travels as JSON, so it holds only values that JSON has."""
    if not is_table(raw):
        raise Refused("write a table")
    return {name: _json_value(value, 1) for name, value in raw.items()}


@accepts("table, a JSON Schema", {"type": "object"})
def json_schema(raw: object) -> dict[str, object]:
    """Accepts a JSON Schema that values can be validated against here, at a bounded cost and without fetching anything."""
    schema = free_table(raw)
    if (size := len(encode(schema))) > SCHEMA_BYTES_MAX:
        raise Refused(f"its {size} bytes are more than {SCHEMA_BYTES_MAX}", "...")
    try:
        validation.Schema(schema)
    except InvalidParams as error:
        raise Refused(str(error.data["reason"]), "...") from error
    return schema


@accepts("any value", {})
def json_value(raw: object) -> object:
    """Accepts a value that JSON has."""
    return _json_value(raw, 1)


def _json_value(value: object, depth: int) -> object:
    if depth > CONFIG_DEPTH_MAX:
        raise Refused(f"write at most {CONFIG_DEPTH_MAX} levels", "...")
    if is_table(value):
        return {name: _json_value(inner, depth + 1) for name, inner in value.items()}
    if is_list(value):
        return [_json_value(inner, depth + 1) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("JSON, in which it is handed to the agent, has no such number", value)
    if isinstance(value, str | bool | int | float):
        return value
    raise Refused("JSON, in which it is handed to the agent, has no such value: quote it", value)


@accepts("name of a signal", {"enum": list(SIGNALS)})
def signal_name(raw: object) -> str:
    """Accepts the name of a signal that can ask a program to end."""
    if isinstance(raw, str) and raw in SIGNALS:
        return raw
    guess = f"SIG{raw}"
    example = guess if guess in SIGNALS else "SIGTERM"
    raise Refused(f'write a signal that ends a program by its name, such as "{example}"')


@accepts(", ".join(PROTOCOL_VERSIONS), {"enum": list(PROTOCOL_VERSIONS)})
def protocol_revision(raw: object) -> str:
    """Accepts the word auto, or a revision of MCP. Without quotes it is a date to TOML."""
    if not isinstance(raw, str):
        raise Refused('write "auto", or a revision in quotes such as "2025-11-25"')
    return one_of(PROTOCOL_VERSIONS)(raw)


@narrows(unchanged)
def port_of(address: str) -> str:
    """Returns the same HOST:PORT, unless the port is above 65535."""
    if int(address.rpartition(":")[2]) > 65_535:
        raise Refused("write a port from 0 to 65535")
    return address


def place_of(address: str) -> tuple[str, int]:
    """Returns host and port of HOST:PORT; every name of the loopback address that people write is one host."""
    host, _, port = address.rpartition(":")
    bare = host.strip("[]").lower()
    return "127.0.0.1" if bare == "localhost" else bare, int(port)


def is_loopback(address: str) -> bool:
    """Returns whether programs of this machine alone can reach HOST:PORT."""
    try:
        return ipaddress.ip_address(place_of(address)[0]).is_loopback
    except ValueError:  # a name
        return False


Seconds = Annotated[float, duration]
PositiveSeconds = Annotated[Seconds, above_zero]
Bytes = Annotated[int, size]
Level = Literal["debug", "info", "warning", "error"]
file_paths = each(file_path, "paths")
Path = Annotated[str, file_path]
HttpAddress = Annotated[str, matching(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}", '"HOST:PORT"'), port_of]
HttpAuth = Literal["token", "none"]
"""Whether a service over HTTP asks for a bearer token."""
Paths = Annotated[tuple[str, ...], file_paths]
Account = Annotated[
    str, matching(r"[A-Za-z_][A-Za-z0-9_.@-]{0,254}\$?|[0-9]{1,9}", 'a name or a number as a string: "corral"')
]
VariableNames = Annotated[
    tuple[str, ...], each(matching(r"[^=\0]+", 'the name of a variable: "PATH"'), "names of variables")
]


def quoted(words: Iterable[str]) -> str:
    """Returns the words in quotes, with commas between."""
    return ", ".join(f'"{word}"' for word in words)


def split_words(command: str) -> list[str]:
    """Splits a command line as a shell does."""
    try:
        return shlex.split(command)
    except ValueError:  # a quote that nobody closed
        return command.split()


def is_table(raw: object) -> TypeGuard[Mapping[str, object]]:
    """Returns whether a value is a table of TOML."""
    if not isinstance(raw, Mapping):
        return False
    keys = cast("Mapping[object, object]", raw)  # isinstance leaves the types unknown
    return all(isinstance(key, str) for key in keys)


def is_list(raw: object) -> TypeGuard[Sequence[object]]:
    """Returns whether a value is an array of TOML."""
    return isinstance(raw, list | tuple)


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Mapping, "a table"),
    ((list, tuple), "a list"),
    (str, "a string"),
    (bool, "a boolean"),
    ((int, float), "a number"),
)


def kind_of(value: object) -> str:
    """Names the value's type in TOML's words, for a value that is not to be repeated."""
    words = [word for kinds, word in _KINDS if isinstance(value, kinds)]
    return words[0] if words else f"a {type(value).__name__}"


def dotted(path: Iterable[str]) -> str:
    """Returns a key as TOML writes it, with quotes where it needs them."""
    bare = re.compile("[A-Za-z0-9_-]+")
    return ".".join(part if bare.fullmatch(part) else json.dumps(part) for part in path)


_DIFFERS = re.compile(r"\$\{(?:instance|port:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-3][0-9]{3}))\}")
"""Forms that differ between workers. A port is at most 63,999: plus a thousand workers it is one still."""


def differs(text: str) -> bool:
    """Returns True if a text has `${instance}` or `${port:N}`."""
    return _DIFFERS.search(text) is not None


def of_instance(text: str, instance: int) -> str:
    """Returns the text for one worker: `${instance}` is its number, `${port:N}` is N plus its number."""
    return _DIFFERS.sub(lambda found: str(int(found[1] or 0) + instance), text)
