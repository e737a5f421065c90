"""Decodes health checks, readiness and smoke tasks: the tables of `health`, `ready`, `smoke` and `[recovery.actions]`.

A table names one way to probe (`exec`, `http`, `tcp`, `mcp`, `log`), its interval, timeout and threshold. That an
action exists, and that the way fits the protocol, is checked by `loader`, which knows both.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from msgspec import Struct

from ..decoding.decoder import decode_inline, decode_key
from ..decoding.keys import COMPUTED, Field, Fields, Key, differing, fields_of, schema_of
from ..decoding.shapes import TEXT, Schema, accepts, closed_object, or_variable
from ..decoding.values import (
    ARGV,
    WEB,
    PositiveSeconds,
    Refused,
    RefusedKey,
    Seconds,
    argv,
    differs,
    is_list,
    is_table,
    json_value,
    matching,
    of_instance,
    port_of,
    quoted,
    signal_name,
    whole,
)

CHECKS_MAX = 20
"""Number of health checks of one agent."""

READY_INTERVAL_S = 0.5
"""Seconds between two probes of a program that is starting, where nothing else is written."""

TIMEOUT_S = 5.0
"""Seconds for the answer to one probe, where nothing else is written."""

PATTERN_MAX = 1000
"""Characters of the regular expression of `ready.log`."""

SMOKE_TIMEOUT_S = 60.0
"""Seconds for a smoke task, where nothing else is written."""

Way = Literal["exec", "http", "tcp", "mcp", "log", "worker"]
"""Ways to probe; `worker` is a function of the agent, which the worker announces and no table names."""

SIGNAL = "signal:"
WORKER_RECOVERY = "function"
"""Recovery by a function of the agent, of a check that the worker itself runs."""

NO_ACTIONS = ("none", "restart")
"""Recoveries that are built in: no names in `[recovery.actions]`."""


@accepts("http or https address", WEB)
def http_url(raw: object) -> str:
    """Accepts an address that can be probed by HTTP."""
    words = 'write an address such as "http://127.0.0.1:8080/health"'
    if not isinstance(raw, str) or not re.fullmatch(r"https?://[!-~]{1,2000}", raw):
        raise Refused(words)
    try:
        parts = urlsplit(of_instance(raw, 0))
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Refused(words) from error
    if not host or parts.username is not None or parts.fragment or port == 0:
        raise Refused(words)
    return raw


tcp_address = matching(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}", '"HOST:PORT"')


@accepts("address", TEXT)
def _tcp(raw: object) -> str:
    is_varied = isinstance(raw, str) and differs(raw)
    address = port_of(tcp_address(of_instance(str(raw), 0) if is_varied else raw))
    if address.endswith((":0", ":00", ":000", ":0000", ":00000")):
        raise Refused("write a port from 1 to 65535")
    return str(raw) if is_varied else address


@accepts("regular expression", TEXT)
def pattern(raw: object) -> str:
    """Accepts a regular expression of Python."""
    if not isinstance(raw, str) or not 0 < len(raw) <= PATTERN_MAX:
        raise Refused(f"write a regular expression of 1 to {PATTERN_MAX} characters")
    try:
        re.compile(raw.encode("utf-8"), re.MULTILINE)
    except (re.error, UnicodeError, OverflowError, RecursionError) as error:
        raise Refused(f"write a regular expression: {error}") from error
    return raw


@accepts("true", {"const": True})
def _yes(raw: object) -> str:
    if raw is not True:
        raise Refused("write mcp = true")
    return ""


@accepts("none, restart, signal:NAME, or the name of an action", TEXT)
def recovery_name(raw: object) -> str:
    """Accepts the recovery from a failure: none, restart, signal:NAME, or the name of an action."""
    if isinstance(raw, str) and raw.startswith(SIGNAL):
        return SIGNAL + signal_name(raw.removeprefix(SIGNAL))
    return str(action_name(raw))


action_name = matching(
    r"[A-Za-z][A-Za-z0-9_-]{0,47}", '"none", "restart", "signal:NAME", or the name of an action in [recovery.actions]'
)
_name = matching(r"[A-Za-z][A-Za-z0-9_-]{0,47}", "a name: letters, digits, _ and -")


class Check(Struct, frozen=True, kw_only=True):
    """Represents a health check. `interval`, `timeout`, `start_delay` None: see `Spec.checks`, which fills them in.

    `target` is the argv of `exec`, the address of `http` and `tcp`, nothing for `mcp`.
    Every `threshold` bad answers in a row are one failure, and for each failure `recovery` is run once.
    """

    name: Annotated[str, _name, Key(default="`exec`, `http`, `tcp` or `mcp`")] = ""
    """Its name in `status` and in events."""
    way: Annotated[Way, COMPUTED]
    target: tuple[str, ...] = ()
    interval: Annotated[PositiveSeconds, Key(default="`[monitoring] health_check_interval`")] | None = None
    """From an answer to the next check."""
    timeout: Annotated[PositiveSeconds, Key(default="`5s`; for `mcp`, `heartbeat_timeout`")] | None = None
    """An answer that takes longer is a bad one."""
    threshold: Annotated[int, whole(1, 1000)] = 1
    """So many bad answers in a row are a failure. `failure_threshold` counts these failures. Write more than 1 if a
    single bad answer should not cause a recovery."""
    start_delay: Annotated[Seconds, Key(default="the interval")] | None = None
    """From Ready to the first check."""
    recovery: Annotated[str, recovery_name] = "none"
    """The action after each failure: `"restart"`, `"signal:SIGHUP"` (any signal that `stop_signal` takes), or the name
    of an action. The next check is 1 s later at most."""


class Readiness(Struct, frozen=True, kw_only=True):
    """Represents the probe by which a program without a protocol becomes Ready: a line of its log, or a good answer."""

    way: Annotated[Way, COMPUTED]
    target: tuple[str, ...]
    interval: PositiveSeconds = READY_INTERVAL_S
    timeout: PositiveSeconds = TIMEOUT_S


class SmokeTask(Struct, frozen=True, kw_only=True):
    """Represents the task that a new worker has to finish before workers of its spec get others; `input` is any JSON."""

    objective: Annotated[str, matching(r"[\s\S]{1,10000}", "1 to 10000 characters")]
    input: Annotated[object, json_value] = None
    timeout: PositiveSeconds = SMOKE_TIMEOUT_S


_WAYS: dict[str, Field] = {
    "exec": Field((argv,)),
    "http": Field((http_url,)),
    "tcp": Field((_tcp,)),
    "mcp": Field((_yes,)),
    "log": Field((pattern,)),
}
SMOKE_KEYS = fields_of(SmokeTask)
CHECK_KEYS = fields_of(Check)
READY_KEYS = fields_of(Readiness)
_HEALTH_WAYS = ("exec", "http", "tcp", "mcp")
_READY_WAYS = ("log", "http", "tcp", "exec")
_NOT_OF_MCP = ("threshold", "recovery")

assert {*_WAYS, "worker"} == set(get_args(Way)), "every way has its rule"


def _schema(ways: Iterable[str], struct: type[Struct]) -> Schema:
    table = schema_of(struct)
    return closed_object({way: or_variable(_WAYS[way].shape.schema) for way in ways} | table["properties"])


def _checks_schema() -> Schema:
    check = _schema(_HEALTH_WAYS, Check)
    return {"anyOf": [check, {"type": "array", "items": check, "maxItems": CHECKS_MAX}]}


@accepts("table, or list of tables", _checks_schema)
def checks(raw: object) -> tuple[Check, ...]:
    """Decodes `health`: one table, or a list of tables with different names."""
    tables = raw if is_list(raw) else [raw]
    if len(tables) > CHECKS_MAX:
        raise Refused(f"write at most {CHECKS_MAX} checks")
    found: dict[str, Check] = {}
    for table in tables:
        way, target, rest = _asked(table, _HEALTH_WAYS, CHECK_KEYS, 'health = { tcp = "127.0.0.1:80" }')
        if way == "mcp":
            for key in _NOT_OF_MCP:
                if key in rest:
                    raise RefusedKey(key, rest[key], "a server that does not answer is always replaced: leave it out")
        rest.setdefault("name", way)
        check = Check(way=way, target=target, **rest)
        if check.name in found:
            raise RefusedKey("name", check.name, "two checks have this name: give each its own")
        found[check.name] = check
    return tuple(found.values())


@accepts("table", lambda: _schema(_READY_WAYS, Readiness))
def readiness(raw: object) -> Readiness:
    """Decodes `ready`: one table."""
    way, target, rest = _asked(raw, _READY_WAYS, READY_KEYS, 'ready = { log = "listening" }')
    if way == "log" and rest:
        key = next(iter(rest))
        raise RefusedKey(key, rest[key], "a log is not asked: leave it out")
    return Readiness(way=way, target=target, **rest)


@accepts("table", lambda: schema_of(SmokeTask))
def smoke_task(raw: object) -> SmokeTask:
    """Decodes `smoke`: one table."""
    example = 'smoke = { objective = "ping" }'
    read = decode_inline(raw, SMOKE_KEYS, example)
    if "objective" not in read:
        raise Refused(f"it needs an objective: write {example}")
    return SmokeTask(**read)


# Any: a table of values of several types, each of which passed its own rule.
def _asked(
    raw: object, ways: tuple[str, ...], keys: Fields, example: str
) -> tuple[Way, tuple[str, ...], dict[str, Any]]:
    read = decode_inline(raw, {way: _WAYS[way] for way in ways} | {**keys}, example)
    named = [way for way in ways if way in read]
    if len(named) != 1:
        raise Refused(f"write one of {quoted(ways)}: {example}")
    target = read.pop(named[0])
    way: Any = named[0]  # one of the literals of Way
    return way, _target(target), read


def _target(value: object) -> tuple[str, ...]:
    if is_list(value):
        return tuple(map(str, value))
    return (str(value),) if value else ()


@accepts("table of commands", {"type": "object", "additionalProperties": ARGV})
def actions(raw: object) -> dict[str, tuple[str, ...]]:
    """Decodes `[recovery.actions]`: NAME = [program, arguments]."""
    if not is_table(raw):
        raise Refused('write a table of commands: [recovery.actions], NAME = ["program"]')
    for name in raw:
        if name in NO_ACTIONS or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,47}", name):
            raise RefusedKey(name, name, f"a name has letters, digits, _ and -, and is none of {quoted(NO_ACTIONS)}")
    command = _WAYS["exec"]
    return {name: decode_key(name, value, {name: command}) for name, value in raw.items()}


def written(value: Check | Readiness | SmokeTask) -> dict[str, object]:
    """Returns the smallest table from which an equal value is made."""
    if isinstance(value, SmokeTask):
        return _written_keys(value, SmokeTask(objective=""))
    way, target = value.way, value.target
    named = {way: list(target) if way == "exec" else True if way == "mcp" else target[0]}
    blank = Check(name=way, way=way) if isinstance(value, Check) else Readiness(way=way, target=())
    return named | _written_keys(value, blank)


def _written_keys(value: Struct, usual: Struct) -> dict[str, object]:
    found = differing(value, usual)
    return found | {key: int(each) for key, each in found.items() if isinstance(each, float) and each.is_integer()}


Checks = Annotated[tuple[Check, ...], checks]
Ready = Annotated[Readiness, readiness]
SmokeOf = Annotated[SmokeTask, smoke_task]
Actions = Annotated[dict[str, tuple[str, ...]], actions]
