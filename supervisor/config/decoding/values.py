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
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeGuard, cast
from urllib.parse import urlsplit

from corral.mcp.pool.validation import Schema
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

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
DAY_S = 86_400.0
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


Rule = Callable[[Any], Any]  # Any: each rule takes the result of the one before

DURATION_TEXT = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
SIZE_TEXT = re.compile(r"(\d{1,15})(\.\d{1,15})? ?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_SIZE_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
}


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


def above_zero(seconds: float) -> float:
    """Returns the same duration, unless it is 0."""
    if seconds <= 0:
        raise Refused("write a duration above 0")
    return seconds


def whole_seconds(seconds: float) -> int:
    """Returns the same duration as an int, unless there is a fraction."""
    if seconds != math.floor(seconds):
        raise Refused("write whole seconds: the kernel counts no finer")
    return int(seconds)


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


@dataclass(frozen=True)
class Between:
    """Refuses a number outside of a range, both ends included; `maximum` None is no bound."""

    minimum: int
    maximum: int | None

    def __call__(self, number: int) -> int:
        """Returns the same number, unless it is outside."""
        if self.maximum is None and number < self.minimum:
            raise Refused(f"write at least {self.minimum}")
        if self.maximum is not None and not self.minimum <= number <= self.maximum:
            raise Refused(f"write a value from {self.minimum} to {self.maximum}")
        return number


def at_least(minimum: int) -> Between:
    """Returns a rule for a number that is not below `minimum`."""
    return Between(minimum, None)


def between(minimum: int, maximum: int) -> Between:
    """Returns a rule for a number in a range, both ends included."""
    return Between(minimum, maximum)


@dataclass(frozen=True)
class Whole:
    """Accepts an int in a range, both ends included, and a float without a fraction; true and false are no numbers."""

    minimum: int
    maximum: int

    def __call__(self, raw: object) -> int:
        """Returns the int."""
        number = int(raw) if isinstance(raw, float) and raw.is_integer() else raw
        if isinstance(number, bool) or not isinstance(number, int):
            number = self.minimum - 1  # refused below
        if self.minimum <= number <= self.maximum:
            return number
        raise Refused(f"write a whole number from {self.minimum} to {self.maximum}")


def whole(minimum: int, maximum: int) -> Whole:
    """Returns a rule for a whole number in a range, both ends included."""
    return Whole(minimum, maximum)


def boolean(raw: object) -> bool:
    """Accepts true or false, and nothing that stands for them."""
    if not isinstance(raw, bool):
        raise Refused("write true or false")
    return raw


@dataclass(frozen=True)
class OneOf:
    """Accepts one of a few words."""

    choices: tuple[str, ...]

    def __call__(self, raw: object) -> str:
        """Returns the word."""
        if isinstance(raw, str) and raw in self.choices:
            return raw
        near = get_close_matches(raw, self.choices, 1, 0.5) if isinstance(raw, str) else []
        guess = f'; did you mean "{near[0]}"?' if near else ""
        raise Refused(f"write one of {quoted(self.choices)}{guess}")


def one_of(choices: Sequence[str]) -> OneOf:
    """Returns a rule for one of a few words."""
    return OneOf(tuple(choices))


@dataclass(frozen=True)
class Available:
    """Refuses words that are reserved for a later version; `missing` has them, each with the advice."""

    missing: tuple[tuple[str, str], ...]

    def __call__(self, word: str) -> str:
        """Returns the same word, unless it is one of them."""
        for each_missing, advice in self.missing:
            if word == each_missing:
                raise Refused(f"not available in this version: {advice}")
        return word


@dataclass(frozen=True)
class Matching:
    """Accepts a string that `pattern` matches whole; `words` describe the string in the error."""

    pattern: str
    words: str

    def __call__(self, raw: object) -> str:
        """Returns the string."""
        if not isinstance(raw, str) or not re.fullmatch(self.pattern, raw):
            raise Refused(f"write {self.words}")
        return raw


def matching(pattern: str, words: str) -> Matching:
    """Returns a rule for a string that `pattern` matches whole; `words` describe the string in the error."""
    return Matching(pattern, words)


def file_path(raw: object) -> str:
    """Accepts a path, absolute or not."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise Refused("write a path as a string")
    if raw.startswith("~"):
        raise Refused('write the whole path: "~" is not expanded')
    return raw


@dataclass(frozen=True)
class Each:
    """Accepts a list of which every item passes `rule`; `words` name the items."""

    rule: Rule
    words: str

    def __call__(self, raw: object) -> tuple[object, ...]:
        """Returns the items."""
        if not is_list(raw):
            raise Refused(f"write a list of {self.words}")
        items: list[object] = []
        for item in raw:
            try:
                items.append(self.rule(item))
            except Refused as refused:
                raise Refused(f"in a list of {self.words}: {refused.reason}", item) from refused
        return tuple(items)


def each(rule: Rule, words: str) -> Each:
    """Returns a rule for a list of which every item passes `rule`; `words` name the items."""
    return Each(rule, words)


RETRY_WORDS = ("worker-death", "any", "never")
RETRY_ERRORS = tuple(
    kind.__name__ for kind in (TaskFailed, ToolFailed, Timeout, WorkerFailed, ResourceLimitExceeded)
) + tuple(kind.__name__ for kind in (NotFound, Conflict, PermissionDenied, Overloaded))
"""Errors of an attempt after which another one may be worth it."""


def retry_reasons(raw: object) -> str | tuple[str, ...]:
    """Accepts the reasons to retry a task: a word, or a list of words and of errors' names; "never" stands alone."""
    if isinstance(raw, str):
        return str(one_of((*RETRY_WORDS, *RETRY_ERRORS))(raw))
    names = each(one_of((*RETRY_WORDS[:2], *RETRY_ERRORS)), "reasons")(raw)
    if not names:
        raise Refused('write "never" in place of an empty list')
    return tuple(map(str, names))


def argument(raw: object) -> str:
    """Accepts a string that execve(2) can take."""
    if not isinstance(raw, str) or "\0" in raw:
        raise Refused("write every argument as a string without NUL")
    return raw


def argv(raw: object) -> tuple[object, ...]:
    """Accepts a program and its arguments."""
    if isinstance(raw, str):
        raise Refused(f"write a list: {_as_list(raw)}")
    items: tuple[object, ...] = each(argument, "strings")(raw)
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


def push_address(raw: object) -> str:
    """Accepts the beginning of addresses of push notifications; its port may be `*`."""
    found = web_url(re.sub(r":\*(?=/|$)", "", raw, count=1) if isinstance(raw, str) else raw)
    return raw if isinstance(raw, str) else found


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


def signing_key(raw: object) -> str:
    """Accepts the key of a signature, which is shown nowhere."""
    if not isinstance(raw, str) or "\0" in raw:
        raise Refused('write a string: "${secret:NAME}"', "...")
    return raw


def free_table(raw: object) -> dict[str, object]:
    """Accepts a table of the agent's own. It travels as JSON, so it holds only values that JSON has."""
    if not is_table(raw):
        raise Refused("write a table")
    return {name: _json_value(value, 1) for name, value in raw.items()}


def json_schema(raw: object) -> dict[str, object]:
    """Accepts a JSON Schema that values can be validated against here, at a bounded cost and without fetching anything."""
    schema = free_table(raw)
    if (size := len(encode(schema))) > SCHEMA_BYTES_MAX:
        raise Refused(f"its {size} bytes are more than {SCHEMA_BYTES_MAX}", "...")
    try:
        Schema(schema)
    except InvalidParams as error:
        raise Refused(str(error.data["reason"]), "...") from error
    return schema


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


def signal_name(raw: object) -> str:
    """Accepts the name of a signal that can ask a program to end."""
    if isinstance(raw, str) and raw in SIGNALS:
        return raw
    guess = f"SIG{raw}"
    example = guess if guess in SIGNALS else "SIGTERM"
    raise Refused(f'write a signal that ends a program by its name, such as "{example}"')


def protocol_revision(raw: object) -> str:
    """Accepts the word auto, or a revision of MCP. Without quotes it is a date to TOML."""
    if not isinstance(raw, str):
        raise Refused('write "auto", or a revision in quotes such as "2025-11-25"')
    return str(one_of(PROTOCOL_VERSIONS)(raw))


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
