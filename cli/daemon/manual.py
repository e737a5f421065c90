"""Implements `corral man`: makes the manual pages from the commands themselves and from the reference of the configuration."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files

import click

from corral import __version__
from corral.worker.contract.errors import InvalidParams

from ..context import Command, CommandGroup, Session, admit_msgspec, option
from . import roff

PAGES = {"corral": 1, "corrald": 8, "corral.toml": 5}
"""Page -> its section of the manual."""

HELP_S = 20.0
"""Seconds for corrald to print its options."""

FILES = (
    ("/etc/corral/corral.toml, $XDG_CONFIG_HOME/corral/corral.toml", "The configuration: corral.toml(5)."),
    ("/run/corral/corral.sock, $XDG_RUNTIME_DIR/corral/corral.sock", "The control socket."),
    ("/var/lib/corral, $XDG_STATE_HOME/corral", "The store and the logs."),
)
VARIABLES = (
    ("CORRAL_SOCKET", "The control socket."),
    ("CORRAL_CONFIG", "The configuration file."),
    ("CORRAL_STATE_DIR", "The folder of the store and the logs."),
    ("NO_COLOR", "Prints without colours if it is not empty."),
)


@click.command("man", cls=Command)
@click.argument("page", default="corral", metavar="[PAGE]", type=click.Choice([*PAGES]))
@option("--write DIR", "Write all pages into a man folder.", "folder")
@click.pass_context
def man(context: click.Context, page: str, folder: str | None) -> None:
    """Show a manual page: corral, corrald or corral.toml."""
    session: Session = context.obj
    if folder is not None:
        for path, text in pages(context.find_root(), folder).items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            session.print(f"wrote {path}")
        return
    text = page_text(context.find_root(), page)
    viewer = shutil.which("man") if session.is_terminal else None
    if viewer is None:
        session.print(text.rstrip())
        return
    with tempfile.NamedTemporaryFile("w", suffix=f".{PAGES[page]}", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        subprocess.run([viewer, "-l", file.name], check=False)


def pages(root: click.Context, folder: str) -> dict[str, str]:
    """Returns the texts of all pages by path below a man folder."""
    return {
        os.path.join(folder, f"man{section}", f"{name}.{section}"): page_text(root, name)
        for name, section in PAGES.items()
    }


def page_text(root: click.Context, name: str) -> str:
    """Returns one page in roff."""
    lines = _commands(root) if name == "corral" else _daemon() if name == "corrald" else _configuration()
    return "\n".join(lines) + "\n"


# --- corral(1) ------------------------------------------------------------------------------------


def _commands(root: click.Context) -> Iterator[str]:
    group = root.command
    assert isinstance(group, click.Group), "it has commands"
    yield from roff.page("corral", 1, "controls the supervisor of AI agents and MCP tool servers", __version__)
    yield roff.heading("Synopsis")
    yield f"{roff.bold('corral')} [\\fIoptions\\fP] \\fIcommand\\fP [\\fIarguments\\fP]"
    yield roff.heading("Description")
    yield from roff.paragraphs(group.help or "")
    yield from roff.paragraphs("It talks to a running corrald(8) over its socket, and never starts one.")
    yield roff.heading("Options")
    yield from roff.terms(_options(group, root))
    yield roff.heading("Commands")
    common = {option for each in CommandGroup("common").params for option in each.opts} | {"--help"}
    for path, command, context in _every(group, root, "corral"):
        yield roff.heading(path, 2)
        usage = " ".join(piece for piece in command.collect_usage_pieces(context))
        yield f"{roff.bold(path)} {roff.escaped(usage)}"
        yield from roff.paragraphs((command.help or "").replace("\b", ""))
        yield from roff.terms(
            pair for pair in _options(command, context) if not common & {w.strip(",") for w in pair[0].split()}
        )
        if command.epilog:
            yield from roff.verbatim(command.epilog.replace("\b\n", "").strip().splitlines())
    yield roff.heading("Exit status")
    codes = (group.epilog or "").removeprefix("Exit codes: ").rstrip(".").split(", ")
    yield from roff.terms((code, word + ".") for code, _, word in (each.partition(" ") for each in codes))
    yield roff.heading("Environment")
    yield from roff.terms(VARIABLES)
    yield roff.heading("Files")
    yield from roff.terms(FILES)
    yield roff.heading("See also")
    yield "\\fBcorrald\\fP(8), \\fBcorral.toml\\fP(5)"


def _every(group: click.Group, context: click.Context, path: str) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yields all commands below a group, with their whole names."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, "the group lists it"
        inner = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from _every(command, inner, f"{path} {name}")
        else:
            yield f"{path} {name}", command, inner


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
            yield record


# --- corrald(8) -----------------------------------------------------------------------------------

_OPTION = re.compile(r"  (-.*?)(?:  +(.*))?$")


def _daemon() -> Iterator[str]:
    environ = {**os.environ, "COLUMNS": "100"}
    command = [sys.executable, "-P", "-m", "corral.supervisor", "--help"]
    shown = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HELP_S, check=False).stdout
    if not shown.startswith("usage: "):
        reason = "corrald does not print its options"
        raise InvalidParams(f"cannot make the page corrald: {reason}", page="corrald")
    usage, _, rest = shown.partition("\n\n")
    about, _, options = rest.partition("options:\n")
    listed, _, end = options.partition("\n\n")
    yield from roff.page("corrald", 8, "supervisor of AI agents and MCP tool servers", __version__)
    yield roff.heading("Synopsis")
    yield roff.escaped(" ".join(usage.removeprefix("usage: ").split()))
    yield roff.heading("Description")
    yield from roff.paragraphs(about)
    yield roff.heading("Options")
    pairs: list[tuple[str, str]] = []
    for line in listed.splitlines():
        if found := _OPTION.match(line):
            pairs.append((found[1], found[2] or ""))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]} {line.strip()}")
    yield from roff.terms(pairs)
    yield roff.heading("Exit status")
    yield from roff.paragraphs(end.removeprefix("Exit status: "))
    yield roff.heading("Signals")
    yield from roff.terms(
        (
            ("SIGTERM, SIGINT", "Stops everything in order, and ends."),
            ("SIGHUP", "Reads the configuration again, as `corral reload`."),
        )
    )
    yield roff.heading("Environment")
    yield from roff.terms(VARIABLES[:3])
    yield roff.heading("Files")
    yield from roff.terms(FILES)
    yield roff.heading("See also")
    yield "\\fBcorral\\fP(1), \\fBcorral.toml\\fP(5)"


# --- corral.toml(5) -------------------------------------------------------------------------------


def _configuration() -> Iterator[str]:
    admit_msgspec()
    from corral.supervisor.api.schema.reference import with_tables  # noqa: PLC0415 - start-up time: this page alone

    source = with_tables(files("corral.cli").joinpath("manual/configuration.md").read_text("utf-8"))
    yield from roff.page("corral.toml", 5, "configuration of corrald", __version__)
    yield roff.heading("Description")
    yield from roff.markdown(source)
    yield roff.heading("See also")
    yield "\\fBcorral\\fP(1), \\fBcorrald\\fP(8)"
