"""Provides the parts that commands share: global options, groups, and parsing of names, times and values.

The Session of the process (`console`) is made before the command line is parsed, and filled meanwhile. Knows no single command.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from itertools import groupby
from keyword import iskeyword
from typing import Any, TypeVar, cast

import click

from corral.worker.contract.errors import CorralError, InvalidParams

from . import render
from .console import ANSWER_S as ANSWER_S
from .console import Session as Session
from .render import duration_s as duration_s
from .render import inner, inners, items

MOST_NUMBER = 2**63 - 1
"""Number of the last possible event or record: an integer of SQLite."""

Option = TypeVar("Option", bound=Callable[..., Any] | click.Command)  # Any: as click has it

END_OF_TIMES = 253_402_300_799.0
"""Seconds from 1970 to the last second of the year 9999."""

COMPLETION_S = 1.0
"""Seconds that a completion in the shell may take."""


# --- options --------------------------------------------------------------------------------------


def global_options() -> list[click.Parameter]:
    """Returns --socket, --token, --tenant, --node, --connect-timeout, --json and --no-color, which stand before the command or after it."""

    def keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
        session_of(context).set_option(parameter.name or "", value)

    def kept(shown: str, text: str, **more: Any) -> click.Option:  # Any: click's keywords
        flags, attributes = declared(shown, text)
        return click.Option(flags, expose_value=False, callback=keep, **attributes, **more)

    of_nodes = complete_names("node.list", "nodes")
    return [
        kept("--socket PATH", "Socket of the daemon; default $CORRAL_SOCKET, else the standard path."),
        kept(
            "--token TOKEN", "Call with the rights of this token; better $CORRAL_TOKEN, which other users cannot see."
        ),
        kept("--tenant NAME", "Act as this tenant; its names need no prefix; default $CORRAL_TENANT."),
        kept(
            "--node NAME",
            "Call this node of the cluster, or all with '*'; default $CORRAL_NODE, else the node that runs the named agent.",
            shell_complete=of_nodes,
        ),
        kept(
            "--connect-timeout D",
            "How long to wait for a daemon that starts; default $CORRAL_CONNECT_TIMEOUT, else 3s.",
            type=duration,
        ),
        kept("--json", "Print JSON for programs."),
        kept("--no-color", "Print without colours."),
    ]


def declared(
    shown: str, text: str, *, has_value: bool = False
) -> tuple[list[str], dict[str, Any]]:  # Any: click's keywords
    """Returns the flags and attributes of an option, by what the help shows of it: `-n, --limit N` and the text.

    One without the name of a value is a flag, unless it `has_value` all the same: one of some words.
    """
    *others, last = shown.split(", ")
    flag, _, metavar = last.partition(" ")
    kind: dict[str, Any] = {"metavar": metavar} if metavar else {} if has_value else {"is_flag": True}
    return [*others, flag], {"help": text, **kind}


def option(shown: str, text: str, *name: str, **more: Any) -> Callable[[Option], Option]:  # Any: click's keywords
    """Defines an option of a command by what the help shows of it; `name` is its parameter, where that is not the flag."""
    flags, attributes = declared(shown, text, has_value="type" in more)
    return click.option(*flags, *name, **attributes, **more)


def session_of(context: click.Context) -> Session:
    """Returns the one Session of this process."""
    return cast("Session", context.find_root().obj)  # cli.__main__ puts it there


class Command(click.Command):
    """A command that takes the global options too, because people write them at the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: whatever click.Command takes
        super().__init__(*args, **kwargs)
        self.params += global_options()


def command(
    name: str,
    cls: type[click.Command] = Command,
    **attributes: Any,  # Any: as click has it
) -> Callable[[Callable[..., Any]], click.Command]:
    """Defines a command by a function that takes the session, then the values of its options."""

    def define(function: Callable[..., Any]) -> click.Command:  # Any: likewise
        return click.command(name, cls=cls, **attributes)(click.pass_obj(function))

    return define


Parameter = Callable[[Any], Any]  # Any: what click's own decorators take
"""An option or an argument, which is named as a param of the method that the command calls."""


def calling(
    name: str, method: str, says: str, *parameters: Parameter, text: str, timeout_s: float | None = ANSWER_S
) -> click.Command:
    """Returns a command that calls a method, and says what it has done: `says` names params, and values of the result as `{0[key]}`."""

    def act(session: Session, /, **params: Any) -> None:  # Any: the values of the parameters
        found = session.call(method, params, timeout_s=timeout_s)
        session.answer(found, says.format(found, **params))

    return _acting(name, act, parameters, text)


def listing(
    name: str, method: str, key: str, nothing: str, table: render.Table, *parameters: Parameter, text: str
) -> click.Command:
    """Returns a command that lists the records under a key of a method's result; without any it says that there is `nothing`."""

    def act(session: Session, /, **params: Any) -> None:  # Any: as above
        session.print_list(session.call(method, params), key, nothing, table)

    return _acting(name, act, parameters, text)


def _acting(name: str, act: Callable[..., None], parameters: Iterable[Parameter], text: str) -> click.Command:
    for add in reversed([*parameters]):
        act = add(act)
    return command(name, help=text)(act)


class AddCommand(Command):
    """A command with NAME whose `command` is exactly the words after the first `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the words before `--` alone, so that a forgotten NAME or `--` is an error."""
        dashes = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, args[:dashes])
        if ctx.params["command"] and not ctx.resilient_parsing:
            words = f'cannot add "{ctx.params["name"]}": write -- before its command'
            raise InvalidParams(words, key="command", value=list(ctx.params["command"]))
        ctx.params["command"] = tuple(args[dashes + 1 :])
        return rest


def selection(names: Iterable[str], selector: Iterable[str]) -> dict[str, object]:
    """Returns the params for names (or globs of names) and the values of `-l`; none where none is given."""
    params: dict[str, object] = {"names": list(names)} if names else {}
    return params | ({"selector": ",".join(selector)} if selector else {})


def given(**params: object) -> dict[str, object]:
    """Returns the params that have a value: an option that is not given is None."""
    return {key: value for key, value in params.items() if value is not None}


def pair(name: str, option: str, text: str) -> tuple[str, str]:
    """Splits `K=V`, an option of the command that adds `name`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidParams(f'cannot add "{name}": {option} {text!r} is not K=V', key=option, value=text)
    return key, value


def assigned(name: str, text: str) -> tuple[str, str]:
    """Splits KEY=VALUE, a change of the table of `name`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        reason = f"{text!r} is not KEY=VALUE"
        raise InvalidParams(f"cannot set {name}: {reason}", key=text, reason=reason)
    return key, value


def toml_value(text: str) -> object:
    """Returns a value in TOML, or the text itself."""
    import tomllib  # noqa: PLC0415 - start-up time: few commands read TOML

    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError):  # a date or an infinite number, which are texts here
        return text
    return found["value"] if len(found) == 1 else text


def typed_pairs(
    refusal: str, option: str, pairs: Iterable[str], schemas: Callable[[], Mapping[str, object]]
) -> dict[str, object]:
    """Parses `K=V` and `K:=JSON`; the JSON Schema of K decides about a V that could be JSON, and is asked for only then."""
    found: dict[str, object] = {}
    doubtful: dict[str, object] = {}
    for text in pairs:
        key, equals, value = text.partition("=")
        if not equals or key in ("", ":"):
            raise InvalidParams(f"{refusal}: {text!r} is not KEY=VALUE", key=option, value=text)
        if key.endswith(":"):
            found[key[:-1]] = json_value(value, key[:-1])
            continue
        found[key] = value
        try:
            parsed = json_value(value if value[:1] != "@" and value != "-" else '""', key)
        except InvalidParams:
            continue  # text, whatever the schema says: the daemon reports the error
        if not isinstance(parsed, str):
            doubtful[key] = parsed
    known = schemas() if doubtful else dict[str, object]()
    for key, parsed in doubtful.items():
        if not _takes_text(inner(known, key)):
            found[key] = parsed
    return found


def _takes_text(schema: Mapping[str, object]) -> bool:
    """Returns True if a value may be text; one without a type is taken as JSON."""
    kinds = items(schema, "type") or [schema.get("type")]
    choices = [*inners(schema, "anyOf"), *inners(schema, "oneOf")]
    options = items(schema, "enum")
    return (
        "string" in kinds
        or any(_takes_text(each) for each in choices)
        or any(isinstance(each, str) for each in options)
    )


class CommandGroup(click.Group):
    """A group of commands that takes the global options too."""

    command_class = Command

    def __init__(
        self,
        *args: Any,  # Any: whatever click.Group takes
        table: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options()
        self.table = table or {}

    def define(self, name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:  # Any: likewise
        """Adds a command with a function that takes the session, then its options."""

        def add(function: Callable[..., Any]) -> click.Command:  # Any: likewise
            made = command(name, **attributes)(function)
            self.add_command(made)
            return made

        return add

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the commands in the order in which they were defined."""
        return [*self.table, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the command, imported now if necessary."""
        module = self.table.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        attribute = cmd_name.replace("-", "_")
        attribute += "_" if iskeyword(attribute) or attribute == "set" else ""
        found = getattr(import_module(f".{module}", __package__), attribute)
        return cast("click.Command", found)  # each name in the table is one: a test looks

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command, or raises a usage error that names the nearest one."""
        if ctx.parent is None and args and args[0] in ALIASES:
            has_names = any(not each.startswith("-") for each in args[1:])
            args = [*(each for each in ALIASES[args[0]] if each != "--all" or not has_names), *args[1:]] or args
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            top = cast("click.Group", ctx.find_root().command).list_commands(ctx.find_root())
            raise unknown_word(ctx.command_path, args[0], self.list_commands(ctx), top)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands of the help text, those of a table with folders under the names of these."""
        headings = {name: module.partition(".")[0].capitalize() for name, module in self.table.items()}
        if self.commands or len(set(headings.values())) == 1:
            return super().format_commands(ctx, formatter)
        known = {name: self.get_command(ctx, name) for name in self.table}
        width = max(map(len, known))
        limit = formatter.width - 6 - width
        for heading, names in groupby(self.table, headings.__getitem__):
            with formatter.section(heading):
                rows = [(name, command) for name in names if (command := known[name]) is not None]
                formatter.write_dl([(name.ljust(width), each.get_short_help_str(limit)) for name, each in rows])
        return None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Prints the help and exits 2 if no command is given, unless the group does something without one."""
        if not args and not self.invoke_without_command and not ctx.resilient_parsing:
            if session_of(ctx).json:  # given before the noun: `corral --json task`
                raise click.UsageError("Missing command", ctx)
            print(ctx.get_help(), file=sys.stderr)
            ctx.exit(2)
        return super().parse_args(ctx, args)


ALIASES = {
    **dict.fromkeys(("ps", "ls", "list"), ("status",)),
    **{"up": ("start", "--all"), "down": ("stop", "--all"), "kill": ("signal", "KILL")},
    **{"cat": ("show",), "rollout": ()},
}
"""Words of docker, pm2, kubectl and systemctl -> the command line that does the same; `up NAME` starts NAME alone."""

OTHER_WORDS = {
    **dict.fromkeys(("ps", "ls", "list", "lst"), ("status", "servers", "list")),
    **dict.fromkeys(("get", "status"), ("status", "servers", "show")),
    **dict.fromkeys(("statistics", "metrics"), ("stats",)),
    **dict.fromkeys(("quotas", "limits"), ("quota",)),
    **dict.fromkeys(("describe", "inspect", "info"), ("show",)),
    **dict.fromkeys(("remove", "delete", "del", "rm"), ("rm", "clear", "cancel")),
    **dict.fromkeys(("kill", "abort", "terminate"), ("signal", "cancel")),
    **dict.fromkeys(("log", "tail"), ("logs", "follow")),
    **dict.fromkeys(("unpause", "continue", "thaw", "start"), ("resume",)),
    **dict.fromkeys(("freeze", "suspend", "stop"), ("pause", "cancel")),
    **dict.fromkeys(("update", "reread", "apply", "daemon-reload"), ("reload",)),
    **{"up": ("start",), "enable": ("start", "resume")},
    **{"down": ("stop",), "disable": ("stop", "pause")},
    **{"exec": ("run",), "trigger": ("run",), "create": ("add", "save"), "reset-failed": ("reset",)},
    **dict.fromkeys(("rerun", "requeue"), ("retry",)),
    **{"watch": ("follow", "top")},
}
"""Names of commands in other supervisors -> names here; the first that the group has is suggested."""

_LISTED = dict.fromkeys(("ps", "ls", "list"), "corral tasks")
_MADE = ("add", "create", "new", "apply")
OTHER_PLACES: dict[str, dict[str, str]] = {
    "corral": {
        **dict.fromkeys(("jobs", "queue", "queues"), "corral tasks"),
        **dict.fromkeys(("cron", "crontab", "timers", "list-timers"), "corral schedules"),
        **dict.fromkeys(("submit", "delegate"), "corral run"),
        **{each: f"corral task {each}" for each in ("cancel", "retry", "wait", "follow", "discard")},
        **{f"{each}s": f"corral {each} list" for each in ("team", "workflow", "checkpoint")},
        **dict.fromkeys(("memories", "sessions", "session"), "corral memory list"),
        **dict.fromkeys(("secrets", "credentials", "credential"), "corral secret list"),
        **dict.fromkeys(("shutdown", "quit", "exit", "halt", "poweroff"), "corral daemon stop"),
        **{"agents": "corral status", "save": "corral checkpoint save"},
        **{
            "exec": "corral run",
            "is-failed": "corral status --failed",
            "fg": "corral attach",
            "jlist": "corral status --json",
            "prettylist": "corral status --json",
        },
        **dict.fromkeys(
            ("list-units", "list-unit-files", "list-sockets", "container", "api-resources"), "corral status"
        ),
        **dict.fromkeys(("pid", "port", "ping", "avail", "l", "is-active", "is-enabled", "stauts"), "corral status"),
        **dict.fromkeys(("list-dependencies", "desc", "env", "network"), "corral show"),
        **dict.fromkeys(("set-property", "label", "annotate"), "corral set"),
        **dict.fromkeys(("cp", "debug"), "corral exec"),
        **dict.fromkeys(("system", "report"), "corral doctor"),
        **{
            "list-jobs": "corral tasks",
            "volume": "corral stores",
            "auth": "corral whoami",
            "explain": "corral man corral.toml",
        },
        **{
            "login": "corral mcp login",
            "undo": "corral rollback",
            "autoscale": "corral scale",
            "port-forward": "corral expose",
        },
        **{
            "drain": "corral node drain",
            "cordon": "corral node drain",
            "uncordon": "corral node resume",
            "dump": "corral export",
        },
        **{
            "daemon-reexec": "corral daemon upgrade",
            "maintail": "journalctl -u corrald",
            "sendSignal": "corral signal",
        },
        **dict.fromkeys(("clear", "flush", "vacuum", "reloadLogs"), "corral logs"),
        **dict.fromkeys(("build", "images", "pull", "push"), "corral package"),
        **dict.fromkeys(("mask", "unmask", "isolate"), "corral stop"),
        "resurrect": "corrald",
        **dict.fromkeys(("web", "ui", "dashboard", "tui", "monit", "htop", "open", "plus"), "corral top"),
        **dict.fromkeys(("attach", "journal"), "corral logs -f"),
        **dict.fromkeys(("check", "validate", "verify", "lint"), "corrald --check"),
        **dict.fromkeys(("config", "configure", "rename"), "corral edit"),
        **dict.fromkeys(("new", "setup", "generate", "ecosystem"), "corral init"),
        **dict.fromkeys(("convert", "migrate", "compose"), "corral import"),
        **dict.fromkeys(("install", "enable", "startup"), "corral install-service"),
        **dict.fromkeys(("serve", "daemonize"), "corrald --detach"),
        "unstartup": "corral uninstall-service",
    },
    "corral task": {**_LISTED, **dict.fromkeys(("run", "submit", *_MADE), "corral run")},
    "corral schedule": dict.fromkeys(("create", "new", "apply"), "corral schedule add"),
    "corral memory": {"set": "corral memory put"},
}
"""Group -> words that are tried there -> the command that does it."""


def unknown_word(path: str, word: str, known: Iterable[str], top: Iterable[str] = ()) -> InvalidParams:
    """Returns the error for a command that does not exist; it suggests one of `top`, too: `corral mcp logs`."""
    from difflib import get_close_matches  # noqa: PLC0415 - start-up time: only for this mistake

    known = list(known)
    elsewhere = OTHER_PLACES.get(path, {}).get(word)
    near = [elsewhere] if elsewhere else []
    near = near or [other for other in OTHER_WORDS.get(word, ()) if other in known][:1]
    if not near and word in top:
        near = [f"corral {word}"]
    near = near or get_close_matches(word, known, 1, 0.5)
    hint = f'did you mean "{near[0]}"?' if near else f'"{path} --help" lists them'
    return InvalidParams(f'cannot run "{path} {word}": no such command; {hint}', command=word, suggestions=near)


def duration(text: str) -> float:
    """Parses the value of an option in seconds: `90`, `1.5`, `500ms`, `30s`, `5m`, `1h` or `2d`."""
    seconds = duration_s(text)
    if seconds is None:
        raise click.BadParameter(f'"{text}" is no duration such as 500ms, 30s, 5m, 1h')
    return seconds


def json_value(text: str, option: str, *, or_text: bool = False) -> object:
    """Reads the value of an option that takes JSON: literal, from `@FILE`, or from stdin with `-`.

    With `or_text` a literal that is no JSON, and does not begin like an object, a list or a quoted text, is itself a text.
    """
    from corral.worker.contract import codec  # noqa: PLC0415 - start-up time: only for commands with such an option

    source = text
    try:
        if text == "-":
            source = sys.stdin.buffer.read().decode("utf-8")
        elif text.startswith("@"):
            with open(text[1:], "rb") as file:
                source = file.read().decode("utf-8")
    except OSError as error:
        words = f'cannot read {option} from "{text[1:]}": {(error.strerror or "").lower()}'
        raise InvalidParams(words, key=option, value=text) from error
    except UnicodeError as error:
        raise InvalidParams(f"cannot read {option}: it is not UTF-8", key=option, value=text) from error
    try:
        return codec.decode(source.encode("utf-8"))
    except ValueError as error:
        if or_text and source is text and not _is_meant_as_json(text):
            return text
        shown = f'"{text}" ' if 0 < len(text) <= 40 else ""
        words = f"cannot read {option} {shown}as JSON: {error}"
        if or_text and source is text:
            words += """; a text that begins with {, [ or " is written in quotes: '"TEXT"'"""
        raise InvalidParams(words, key=option, value=text) from error


def _is_meant_as_json(text: str) -> bool:
    """Returns True for the beginning of an object, a list or a quoted text, and for a number, such as NaN, that JSON has not."""
    try:
        float(text)
    except ValueError:
        return text.lstrip().startswith(("{", "[", '"'))
    return True


def toml_document(path: str) -> dict[str, Any]:
    """Reads the tables of a TOML file."""
    import tomllib  # noqa: PLC0415 - start-up time: only --file needs it

    try:
        return tomllib.loads(text_document(path))
    except tomllib.TOMLDecodeError as error:
        raise InvalidParams(f"cannot read {path!r}: {error}", file=path, reason=str(error)) from error


def admit_msgspec() -> None:
    """Permits the import of msgspec, which the command line keeps out: this command reads a configuration itself."""
    if sys.modules.get("msgspec", sys) is None:  # pyright: ignore[reportUnnecessaryComparison]  see __main__
        del sys.modules["msgspec"]


def text_document(path: str) -> str:
    """Reads a file of text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        words = f"cannot read {path!r}: {(error.strerror or '').lower()}"
        raise InvalidParams(words, file=path, reason="unreadable") from error
    except UnicodeError as error:
        raise InvalidParams(f"cannot read {path!r}: it is not UTF-8", file=path, reason=str(error)) from error


def place(text: str, now: float) -> dict[str, object]:
    """Returns the params of `--since`: `since` for a number, or for one of each node; `since_time` for a time (see `moment`)."""
    if all(node[:1].isalpha() and seq.isdecimal() for node, _, seq in _pairs(text)):
        return {"since": text}
    if not text.isdecimal():
        return {"since_time": moment(text, "--since", now, "a number, 5m,")}
    if len(text) > len(str(MOST_NUMBER)) or int(text) > MOST_NUMBER:
        words = f'cannot read --since "{text}": no number is larger than {MOST_NUMBER}'
        raise InvalidParams(words, key="--since", value=text)
    return {"since": int(text)}


def _pairs(text: str) -> list[tuple[str, str, str]]:
    """Returns the nodes of NODE:NUMBER,NODE:NUMBER… with their numbers."""
    return [each.partition(":") for each in text.split(",")]


def moment(text: str, option: str, now: float, forms: str = "5m,") -> float:
    """Returns Unix seconds from an RFC 3339 time, or from a duration such as `5m`: that long ago.

    A time without a zone is UTC, as every time that corral prints. Times before 1970 become 1970.
    """
    ago_s = duration_s(text)
    if ago_s is not None:
        return max(0.0, now - ago_s)
    from datetime import UTC, datetime  # noqa: PLC0415 - start-up time: only for absolute times

    try:
        when = datetime.fromisoformat(text)
        return min(max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()), END_OF_TIMES)
    except (ValueError, OverflowError) as error:
        words = f'cannot read {option} "{text}": write {forms} or a time such as 2026-01-31T12:00:00Z'
        raise InvalidParams(words, key=option, value=text) from error


def between(since: str | None, until: str | None) -> dict[str, object]:
    """Returns the params `since` and `until` of the options of these names; see `moment`."""
    now = time.time()
    texts = {"since": since, "until": until}
    return {key: moment(text, f"--{key}", now) for key, text in texts.items() if text is not None}


def complete_names(method: str, key: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Returns a completion for the shell: the names that the daemon knows, or none if it does not answer.

    Behind the name of an agent and a hyphen it offers the ids of its workers.
    """

    def complete(context: click.Context, parameter: click.Parameter, start: str) -> list[str]:
        records = _known(context, method, key)
        names = [render.word(r, "name") or render.word(r, "id") for r in records]
        names += [
            render.word(worker, "id")
            for record in records
            if start.startswith(f"{render.word(record, 'name')}-")
            for worker in render.inners(record, "workers")
        ]
        return [name for name in names if name.startswith(start)]

    return complete


def _known(context: click.Context, method: str, key: str) -> list[dict[str, object]]:
    """Returns the records of a daemon that answers soon; none in other cases, and nothing is waited for."""
    session = session_of(context)
    session.set_option("connect_timeout", 0.0)
    try:
        document = session.call(method, {}, timeout_s=COMPLETION_S)
    except CorralError:
        return []  # TAB must not print an error into the line
    return [record for each in key.split(",") for record in render.inners(document, each)]


ALL_KINDS = "agents,mcp_servers,teams,workflows"
complete_agents = complete_names("daemon.status", "agents,mcp_servers")
complete_named = complete_names("daemon.status", ALL_KINDS)


def complete_labels(context: click.Context, parameter: click.Parameter, start: str) -> list[str]:
    """Completes `-l`: each label that the daemon knows, as `key=value`."""
    found = {
        f"{key}={value}"
        for record in _known(context, "daemon.status", ALL_KINDS)
        for key, value in render.inner(record, "labels").items()
    }
    return sorted(label for label in found if label.startswith(start))


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:  # Any: as click has it
    """Adds `-l` to a command with names: `selector` is the tuple of its values (see `selection`)."""
    words = "Select by labels: team=red, team!=red, team or !team; repeatable, all have to hold."
    return option("-l, --selector LABEL", words, multiple=True, shell_complete=complete_labels)(command)


WAIT = option("--wait", "Wait until the change is in force, or taken back (exit 1).")
WAIT_S = option("--timeout D", "Wait at most this long (exit 5).", "timeout_s", type=duration)


def waiting(wait: bool, timeout_s: float | None) -> dict[str, object]:
    """Returns the params of a change that may be waited for; a time limit alone asks for it, too."""
    if timeout_s is not None:
        return {"wait": True, "timeout_s": timeout_s}
    return {"wait": True} if wait else {}


def limit_s(params: Mapping[str, object]) -> float | None:
    """Returns the seconds to wait for the answer to such a change."""
    if not params.get("wait"):
        return ANSWER_S
    timeout_s = params.get("timeout_s")
    return waiting_s(timeout_s if isinstance(timeout_s, float) else None)


def waiting_s(timeout_s: float | None) -> float | None:
    """Returns the seconds to wait for an answer that the daemon itself bounds by `timeout_s`."""
    return None if timeout_s is None else timeout_s + ANSWER_S
