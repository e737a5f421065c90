"""Implements `corral init`: writes a configuration file with comments, and an agent that runs."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence

import click

from corral.worker.contract.errors import Conflict, InvalidParams

from ..config_check import problem_of
from ..context import Session, command, option
from ..new_file import write_new

TEMPLATES = ("agent", "program", "tools")
NAME = "hello"

HEAD = """\
# The configuration of corrald. All keys: man corral.toml, or docs/reference/configuration.md.
#   corrald --config {config} --check     says what is wrong with it
#   corrald --config {config}             runs it; corral reload applies changes
"""

AGENT = """
[agents.{name}]
entrypoint = "{module}:agent"             # the object `agent` of {module}.py beside this file
description = "Greets."
# instances = 2                         # number of processes; or {{ min = 1, max = 8 }}, by load
# tools = ["time__*"]                   # tools of MCP servers that it may call; absent: all
# labels = {{ team = "red" }}             # corral restart -l team=red
# environment = {{ API_KEY = "${{secret:API_KEY}}" }}   # a secret by name, not by value

[agents.{name}.resources]
max_memory_bytes = "512MiB"             # each process with everything that it starts
max_task_duration = "5m"
"""

PROGRAM = """
[agents.{name}]
command = {command}
protocol = "none"                       # any program: it is kept running, and its output is kept
# ready = {{ tcp = "127.0.0.1:8000" }}    # when it counts as started; by default after a second
# health = {{ http = "http://127.0.0.1:8000/", recovery = "restart" }}
# requires = ["database"]               # starts after these are ready
# labels = {{ team = "red" }}             # corral restart -l team=red

[agents.{name}.recovery]
restart = "always"                      # or "on-failure", "never"

[agents.{name}.resources]
max_memory_bytes = "512MiB"             # with everything that it starts
"""

TOOLS = """
[mcp.servers.files]                     # its first call starts it; its tools are called files__NAME
command = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "."]
idle_timeout = "5m"                     # stopped when unused for that long
# url = "https://example.org/mcp"       # in place of command: a server elsewhere
# environment = { API_KEY = "${secret:API_KEY}" }
"""

MODULE = '''\
"""An agent: `corral run {name} "your words"` gives it a task."""

from corral.worker import Agent

agent = Agent("{name}")


@agent.task
def run(task):
    """Returns the answer to one task: task.objective is its text, task.input its data."""
    return f"hello, {{task.objective}}"
'''


@command(
    "init",
    epilog="""\b
Examples:
  corral init
  corral init site --template program -- python3 -m http.server 8000""",
)
@click.argument("folder", default=".", metavar="[FOLDER]", type=click.Path())
@click.argument("command", nargs=-1, metavar="[-- CMD...]", type=click.UNPROCESSED)
@option("-y, --yes", "Ask nothing.")
@option(
    "--template",
    "agent: a Python agent (default). program: any program. tools: an agent and an MCP server.",
    type=click.Choice(TEMPLATES),
)
@option("--name NAME", f'Name of the agent; default "{NAME}".')
def init(
    session: Session, /, folder: str, command: tuple[str, ...], yes: bool, template: str | None, name: str | None
) -> None:
    """Write a first configuration, and an agent that runs."""
    asks = not yes and sys.stdin.isatty() and not session.json
    if template is None:
        template = "program" if command else "agent"
        if asks and not command:
            template = _answer(f"what is it for ({', '.join(TEMPLATES)})?", template)
    if template not in TEMPLATES:
        words = f'cannot use the template "{template}": there are {", ".join(TEMPLATES)}'
        raise InvalidParams(words, key="template", value=template)
    name = name or (_answer("name of the agent?", NAME) if asks else NAME)
    if not re.fullmatch(r"[A-Za-z](?!.*__)[A-Za-z0-9_-]{0,47}", name):
        words = f'cannot call an agent "{name}": a name has letters, digits, _ and -, and starts with a letter'
        raise InvalidParams(words, key="name", value=name)
    argv = list(command)
    if template == "program" and not argv:
        usual = "python3 -m http.server --bind 127.0.0.1 8000"
        argv = shlex.split(_answer("its command?", usual) if asks else usual)
    files = planned(os.path.abspath(folder), template, name, argv)
    for path in files:
        if os.path.exists(path) and not (asks and _answer(f"replace {path}?", "no") == "yes"):
            raise Conflict(f'cannot write "{path}": it is there already', file=path)
    _write(session, files)
    _print_next(session, list(files), template, name)


def planned(folder: str, template: str, name: str, argv: list[str]) -> dict[str, str]:
    """Returns the texts by path, the configuration first."""
    config = os.path.join(folder, "corral.toml")
    module = name.replace("-", "_")
    module += "_agent" if module in sys.stdlib_module_names or module == "corral" else ""
    text = HEAD.format(config=_short(config))
    if template == "program":
        words = ", ".join(f'"{_escaped(each)}"' for each in argv)
        return {config: text + PROGRAM.format(name=name, command=f"[{words}]")}
    text += AGENT.format(name=name, module=module) + (TOOLS if template == "tools" else "")
    return {config: text, os.path.join(folder, f"{module}.py"): MODULE.format(name=name)}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _answer(question: str, usual: str) -> str:
    """Asks on the terminal; an empty line, or the end of the input, is the usual answer."""
    print(f"{question} [{usual}] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or usual


def _write(session: Session, files: dict[str, str]) -> None:
    folder = os.path.dirname(next(iter(files)))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        words = f'cannot make the folder "{folder}": {(error.strerror or "").lower()}'
        raise InvalidParams(words, file=folder) from error
    for path, text in files.items():
        if os.path.exists(path):  # the user has said yes
            shutil.move(path, f"{path}.old")
            session.note(f"the old file is {path}.old")
        write_new(path, text, 0o644)


def _short(path: str) -> str:
    """Returns a path below the current folder as one relative to it."""
    short = os.path.relpath(path)
    return path if short.startswith("..") else short


def _print_next(session: Session, files: Sequence[str], template: str, name: str) -> None:
    config = files[0]
    problem, shown = problem_of(config), _short(config)
    session.answer(
        {"config": config, "template": template, "name": name, "problem": problem or None},
        f"wrote {', '.join(map(_short, files))}",
    )
    for line in problem.splitlines():
        session.note(line)
    session.note("next:")
    session.note(f"  corrald --detach --config {shown}")
    session.note(f"  corral logs {name}" if template == "program" else f"  corral run {name} world")
