"""Describes a command line that cannot be parsed in plain English: the option or argument, the value, what to write.

It translates the errors of click, and those of the daemon about a param that an option set. Knows no single command.
"""

import re
from difflib import get_close_matches

import click

from corral.worker.contract.errors import CorralError, InvalidParams

OPTIONS = {
    "every_s": "--every",
    "timeout_s": "--timeout",
    "idempotency_key": "--key",
    "not_before": "--at",
    "max_attempts": "--max-attempts",
    "session": "--session",
    "priority": "--priority",
    "timezone": "--timezone",
    "cron": "--cron",
    "instances": "N",
}
"""Param of a method -> the option or argument that sets it."""

_LEFT_OUT = "leave it out"
OTHER_OPTIONS: dict[str, dict[str, str]] = {
    "corral": {
        "-v": "did you mean --version?",
        "-V": "did you mean --version?",
        "--failed": 'did you mean "corral status --failed"?',
    },
    "corral status": {
        **dict.fromkeys(("-w", "--watch", "--wach", "-f", "-n"), 'did you mean "corral top"?'),
        **dict.fromkeys(("-a", "--all"), f"it shows all: {_LEFT_OUT}"),
        **dict.fromkeys(("-o", "-q"), "did you mean --json?"),
    },
    "corral logs": {
        **dict.fromkeys(("-u", "--unit"), 'write the name alone: "corral logs NAME"'),
        **dict.fromkeys(("--lines", "-e", "--nostream"), "did you mean --tail?"),
        **dict.fromkeys(("-t", "--timestamps"), f"it prints times: {_LEFT_OUT}"),
        **dict.fromkeys(("--err", "--out"), "did you mean --stream?"),
        **dict.fromkeys(("-x", "-b", "-r"), "did you mean --since?"),
    },
    "corral start": {
        **dict.fromkeys(("-d", "--detach"), f"agents run in the background: {_LEFT_OUT}"),
        **dict.fromkeys(("--build", "--watch"), "a reload starts again what has changed"),
        **{
            "--name": 'did you mean "corral add NAME -- COMMAND"?',
            "-i": 'did you mean "corral scale"?',
            "--scale": 'did you mean "corral scale"?',
        },
    },
    "corral stop": dict.fromkeys(("-t", "--time", "--timeout"), 'the key is "process.shutdown_grace_period"'),
    "corral restart": {
        **dict.fromkeys(("-t", "--time", "--timeout"), 'the key is "process.shutdown_grace_period"'),
        "--update-env": f"it does: {_LEFT_OUT}",
    },
    "corral signal": dict.fromkeys(("-s", "--signal"), 'did you mean "corral signal NAME HUP"?'),
    "corral run": {
        "-d": "did you mean --detach?",
        **dict.fromkeys(("--rm", "-i", "-t", "-it"), 'did you mean "corral exec"?'),
    },
    "corral rm": dict.fromkeys(("-f", "--force"), f"it asks nothing: {_LEFT_OUT}"),
    "corral scale": {"--replicas": 'did you mean "corral scale NAME N"?'},
    "corral stats": {"--no-stream": f"it prints once: {_LEFT_OUT}"},
    "corral events": {"--once": f"it prints once: {_LEFT_OUT}"},
    "corral diff": {"-f": 'did you mean "corral reload --dry-run"?'},
    "corral reload": {"": 'did you mean "corral restart"?'},
}
"""Command -> options of other supervisors -> what to write; "" is an argument."""

_REPR = re.compile(r"^(?:'(?P<text>.*)'|(?P<number>-?[0-9.]+)) is not ", re.DOTALL)


def usage_error(error: click.ClickException, arguments: list[str]) -> InvalidParams:
    """Returns the error for a command line that click refuses."""
    key, value = "", ""
    at = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption):
        key = error.option_name
        words = f"{key} is no option{_near(error)}"
        if re.fullmatch(r"-[0-9.]+", key):
            words = f"{key}: must be 0 or more"
        elif at is not None and key in (others := OTHER_OPTIONS.get(at.command_path, {})):
            words = f"{key} is no option; {others[key]}"
        elif at is not None and any(each.name == "assignments" for each in at.command.params):
            words += f"; keys are written {key.lstrip('-').replace('-', '_')}=VALUE"
        elif at is not None and at.command.name == "add" and "--" not in arguments:
            words += "; write -- before the command that is added"
    elif isinstance(error, click.MissingParameter):
        key = _name(error.param)
        words = f"{key} is missing"
    elif isinstance(error, click.BadParameter):
        key = _name(error.param)
        value, rule = _refused(error)
        words = f"{key} {value}: {rule}".strip() if rule else f"{key}: {error.message.rstrip('.')}"
    elif isinstance(error, click.BadOptionUsage):
        key = error.option_name
        words = f"{key} needs a value" if "requires" in error.message else f"{key} takes no value"
    else:
        words = _other(error, at)
    words = f"cannot read the command line: {words}"
    if at is not None and isinstance(error, click.MissingParameter):
        words += f'; "{at.command_path} --help" shows its arguments'
    return InvalidParams(words, **({"key": key, "value": value} if key else {}))


def with_option(error: CorralError) -> str:
    """Returns the message of an error; one about a param of a method names the option that sets it."""
    data = error.data
    option = OPTIONS.get(str(data.get("key")))
    if option is None or "method" not in data or "reason" not in data:
        return error.message
    return f"cannot use {option} {data.get('value', '')}: {data['reason']}"


def _other(error: click.ClickException, at: click.Context | None) -> str:
    message = error.format_message().strip().rstrip(".")
    if found := re.search(r"unexpected extra arguments? \((.*)\)", message, re.DOTALL):
        words = f'unexpected "{found[1]}"'
        if at is None:
            return words
        return f"{words}; " + OTHER_OPTIONS.get(at.command_path, {}).get(
            "", f'"{at.command_path} --help" shows its arguments'
        )
    return message[:1].lower() + message[1:]


def _near(error: click.NoSuchOption) -> str:
    near = get_close_matches(error.option_name, error.possibilities or (), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _name(parameter: click.Parameter | None) -> str:
    if parameter is None:
        return "a value"
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.make_metavar(click.Context(click.Command(None))).strip("[]").rstrip(".")


def _refused(error: click.BadParameter) -> tuple[str, str]:
    """Returns the value that one of click's own types refused, and its rule; "" for the words of another check."""
    found = _REPR.match(error.message)
    kind = None if error.param is None else error.param.type
    if found is None or kind is None:
        return "", ""
    value = found["text"] if found["text"] is not None else found["number"]
    shown = value if re.fullmatch(r"[\w.-]+", value) else f'"{value}"'
    if isinstance(kind, click.Choice):
        return shown, f"write {', '.join(map(str, kind.choices[:-1]))} or {kind.choices[-1]}"
    if isinstance(kind, click.IntRange | click.FloatRange):
        number = "a whole number" if isinstance(kind, click.IntRange) else "a number"
        return shown, f"write {number}{_range(kind)}"
    if kind in (click.INT, click.FLOAT):
        return shown, "write a whole number" if kind is click.INT else "write a number"
    return "", ""


def _range(kind: click.IntRange | click.FloatRange) -> str:
    least, most = kind.min, kind.max
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    if least is not None:
        return f" {'above' if kind.min_open else 'of at least'} {least:g}"
    return "" if most is None else f" of at most {most:g}"
