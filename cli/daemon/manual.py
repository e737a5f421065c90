"""Implements `corral man`: makes the manual pages from the commands themselves and from the reference of the configuration."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files

import click

from corral import __version__
from corral.worker.contract.errors import InvalidParams

from ..context import Command, CommandGroup, Session, admit_msgspec, option

_INLINE = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>[^*]+)\*\*|\[(?P<text>(?:[^\]`]|`[^`]*`)+)\]\((?P<url>[^)]*)\)")


def escaped(text: str) -> str:
    """Returns a text that roff prints as it is; a hyphen stays a minus sign, as commands need it."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    plain = plain.replace("~", "\\(ti").replace("^", "\\(ha")
    return "\\&" + plain if plain.startswith(".") else plain


def bold(text: str) -> str:
    """Returns a text in bold."""
    return f"\\fB{escaped(text)}\\fP"


def inline(text: str) -> str:
    """Formats a paragraph of Markdown: code and strong words in bold, links as their text."""
    pieces: list[str] = []
    end = 0
    for found in _INLINE.finditer(text):
        pieces.append(escaped(text[end : found.start()]))
        end = found.end()
        if found["text"] is not None:
            pieces.append(inline(found["text"]))
        else:
            pieces.append(bold(found["code"] or found["bold"]))
    whole = "".join([*pieces, escaped(text[end:])])
    return "\\&" + whole if whole.startswith((".", "\\(aq")) else whole


def page(name: str, section: int, title: str, version: str) -> list[str]:
    """Returns the head of a page, with its NAME."""
    head = f'.TH "{escaped(name.upper())}" "{section}" "" "corral {escaped(version)}"'
    return [head, ".nh", ".SH NAME", f"{escaped(name)} \\- {escaped(title)}"]


def heading(text: str, level: int = 1) -> str:
    """Returns a heading, of a section or below one."""
    words = re.sub(r"[`\"]", "", text)
    return f'.{"SH" if level == 1 else "SS"} "{escaped(words.upper() if level == 1 else words)}"'


def paragraphs(text: str) -> Iterator[str]:
    """Yields paragraphs, which empty lines separate."""
    for each in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        yield inline(" ".join(each.split()))


def terms(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yields a list of terms, such as options, with their explanations."""
    for term, text in pairs:
        yield ".TP"
        yield bold(term)
        yield inline(" ".join(text.split())) or "\\&"


def verbatim(lines: Sequence[str]) -> list[str]:
    """Returns lines that stay as they are."""
    return [".PP", ".RS 4", ".nf", *(escaped(line) or "\\&" for line in lines), ".fi", ".RE"]


def markdown(text: str) -> Iterator[str]:
    """Yields the body of a reference page; its first heading is left out."""
    blocks = iter(re.split(r"\n(?=```|#)|\n\s*\n", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)))
    for block in blocks:
        lines = [line for line in block.strip("\n").split("\n") if line.strip() or block.startswith("```")]
        if not lines:
            continue
        if lines[0].startswith("```"):
            while "```" not in (line.strip() for line in lines[1:]):  # an empty line cut it
                lines += ["", *next(blocks, "```").strip("\n").split("\n")]
            end = 1 + [line.strip() for line in lines[1:]].index("```")
            yield from verbatim(lines[1:end])
            yield from markdown("\n".join(lines[end + 1 :]))
        elif found := re.match(r"(#+) (.*)", lines[0]):
            if len(found[1]) > 1:
                yield heading(found[2], len(found[1]) - 1)
            yield from markdown("\n".join(lines[1:]))
        elif lines[0].startswith("|"):
            yield from _table(lines)
        elif lines[0].startswith(("- ", "* ")):
            for item in re.split(r"\n[-*] ", "\n".join(lines)[2:]):
                yield ".IP \\(bu 2"
                yield inline(" ".join(item.split()))
        elif lines[0].startswith("    "):
            yield from verbatim([line[4:] for line in lines])
        else:
            yield from paragraphs("\n".join(lines))


def _table(lines: Sequence[str]) -> Iterator[str]:
    """Yields a table as a list: the first cell is the term, the longest column its explanation."""
    rows = [_cells(line) for line in lines if not re.fullmatch(r"[|\s:-]+", line)]
    header, body = rows[0], rows[1:]
    about = header.index("meaning") if "meaning" in header else len(header) - 1
    for row in body:
        facts = [
            f"{header[n]}: {cell}" if header[n] else cell
            for n, cell in enumerate(row)
            if n not in (0, about) and cell not in ("", "`-`", "-")
        ]
        yield ".TP"
        yield inline(row[0])
        yield inline(
            ". ".join([*([row[about]] if about < len(row) and about else []), "; ".join(facts)]).strip(". ") + "."
        )


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


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
    yield from page("corral", 1, "controls the supervisor of AI agents and MCP tool servers", __version__)
    yield heading("Synopsis")
    yield f"{bold('corral')} [\\fIoptions\\fP] \\fIcommand\\fP [\\fIarguments\\fP]"
    yield heading("Description")
    yield from paragraphs(group.help or "")
    yield from paragraphs("It talks to a running corrald(8) over its socket, and never starts one.")
    yield heading("Options")
    yield from terms(_options(group, root))
    yield heading("Commands")
    common = {option for each in CommandGroup("common").params for option in each.opts} | {"--help"}
    for path, command, context in _every(group, root, "corral"):
        yield heading(path, 2)
        usage = " ".join(piece for piece in command.collect_usage_pieces(context))
        yield f"{bold(path)} {escaped(usage)}"
        yield from paragraphs((command.help or "").replace("\b", ""))
        yield from terms(
            pair for pair in _options(command, context) if not common & {w.strip(",") for w in pair[0].split()}
        )
        if command.epilog:
            yield from verbatim(command.epilog.replace("\b\n", "").strip().splitlines())
    yield heading("Exit status")
    codes = (group.epilog or "").removeprefix("Exit codes: ").rstrip(".").split(", ")
    yield from terms((code, word + ".") for code, _, word in (each.partition(" ") for each in codes))
    yield heading("Environment")
    yield from terms(VARIABLES)
    yield heading("Files")
    yield from terms(FILES)
    yield heading("See also")
    yield "\\fBcorrald\\fP(8), \\fBcorral.toml\\fP(5)"


def _every(group: click.Group, context: click.Context, path: str) -> Iterator[tuple[str, click.Command, click.Context]]:
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
    yield from page("corrald", 8, "supervisor of AI agents and MCP tool servers", __version__)
    yield heading("Synopsis")
    yield escaped(" ".join(usage.removeprefix("usage: ").split()))
    yield heading("Description")
    yield from paragraphs(about)
    yield heading("Options")
    pairs: list[tuple[str, str]] = []
    for line in listed.splitlines():
        if found := _OPTION.match(line):
            pairs.append((found[1], found[2] or ""))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]} {line.strip()}")
    yield from terms(pairs)
    yield heading("Exit status")
    yield from paragraphs(end.removeprefix("Exit status: "))
    yield heading("Signals")
    yield from terms(
        (
            ("SIGTERM, SIGINT", "Stops everything in order, and ends."),
            ("SIGHUP", "Reads the configuration again, as `corral reload`."),
        )
    )
    yield heading("Environment")
    yield from terms(VARIABLES[:3])
    yield heading("Files")
    yield from terms(FILES)
    yield heading("See also")
    yield "\\fBcorral\\fP(1), \\fBcorral.toml\\fP(5)"


# --- corral.toml(5) -------------------------------------------------------------------------------


def _configuration() -> Iterator[str]:
    admit_msgspec()
    from corral.supervisor.api.schema.documents import with_tables  # noqa: PLC0415 - start-up time: this page alone

    source = with_tables(files("corral.cli").joinpath("manual/configuration.md").read_text("utf-8"))
    yield from page("corral.toml", 5, "configuration of corrald", __version__)
    yield heading("Description")
    yield from markdown(source)
    yield heading("See also")
    yield "\\fBcorral\\fP(1), \\fBcorrald\\fP(8)"
