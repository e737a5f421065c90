"""Describes why a worker did not come up: the last words of its program, the place in its source, and what to write.

Pure functions of the spec, the end of the process, and the last lines of its stderr. It knows the tracebacks of Python
and the last line that the SDK writes when an entrypoint cannot be loaded; the words of any other program are returned
as they are.
"""

import contextlib
import json
import re
import shlex
from collections.abc import Sequence

from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.names import tenant_of

SDK_PREFIX = "corral: "
"""Beginning of a line that the SDK itself writes to stderr."""

LINES = 40
"""Number of lines of stderr in which a traceback is looked for."""

RUNS_TO_ITS_END = 'a command that runs to its end has type = "oneshot"'
"""Remedy for a program that was declared a service, and has exited with status 0."""

KEYS_PAGE = "docs/how-to/api-keys.md"

_FRAME = re.compile(r'\s+File "(?P<file>[^"]+)", line (?P<line>\d+)')
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(: |$)")
_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
_KEY_NAME = re.compile(r"_(KEY|TOKEN|SECRET|PASSWORD|URL|ENDPOINT)$")
_MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
_INSTALLED = re.compile(r"^<|/(site|dist)-packages/|/lib/python3[.0-9]*/")
_OPERATORS = re.compile(r"&&|\|\||[|;<>`*]|\$")
_BUILTINS = frozenset({".", "alias", "cd", "eval", "exec", "export", "set", "source", "ulimit"})
_PYTHON = re.compile(r"(python|pypy|graalpy)[0-9.]*[a-z]*$")


def words_of_end(spec: Spec, cause: str, code: int | None, lines: Sequence[str]) -> str:
    """Returns how a process ended before its worker was up, and what helps."""
    if code == 0 and spec.type == "oneshot":
        return cause  # its success
    words = last_words(lines)
    if code == 0 and spec.protocol != "none":
        cause += f" before {_AWAITED[spec.speaks]}"
    text = f"{cause}: {words}" if words else cause
    hint = _hint(spec, code, words)
    return f"{text}; {hint}" if hint else text


def last_words(lines: Sequence[str]) -> str:
    """Returns the last line; after a traceback of Python with the place of the last line of the program's own code."""
    if not lines:
        return ""
    last = lines[-1]
    if last.startswith(SDK_PREFIX):
        return last.removeprefix(SDK_PREFIX)
    if not _EXCEPTION.match(last) or (last.endswith(")") and ", line " in last):
        return last
    own = ""
    for line in reversed(lines[:-1]):
        frame = _FRAME.match(line)
        if frame is not None:
            if not _INSTALLED.search(frame["file"]):
                own = f"{frame['file'].rpartition('/')[2]}, line {frame['line']}"
                break
        elif line and not line[0].isspace():
            break  # the head of the traceback, or a line that belongs to none
    return f"{last} ({own})" if own else last


def shell_hint(argv: Sequence[str]) -> str:
    """Returns what to write in place of a command that only a shell could run; "" for any other command."""
    first = argv[0] if argv else ""
    words = first.split()
    line = first if len(argv) == 1 else shlex.join(argv).replace("'&&'", "&&")
    is_for_shell = bool(words) and (words[0] in _BUILTINS or bool(_OPERATORS.search(first)))
    if is_for_shell:
        return f"no shell is used: write {_list(['sh', '-c', line])}"
    if len(words) > 1:
        with contextlib.suppress(ValueError):  # an odd number of quotes
            words = shlex.split(first)
        return f"no shell is used: write each word by itself: {_list([*words, *argv[1:]])}"
    if first.startswith("~"):
        return "no shell is used, and nothing expands ~: write the whole path"
    return ""


_AWAITED = {"corral": 'it answered "initialize"', "mcp": "it answered as an MCP server"}


def _hint(spec: Spec, code: int | None, words: str) -> str:
    if code == 0:
        if spec.protocol == "none":
            return RUNS_TO_ITS_END
        is_agent = spec.protocol == "corral" and spec.entrypoint is None
        return 'a program that is no agent needs protocol = "none"' if is_agent else ""
    if spec.entrypoint is not None and spec.python is not None:
        is_python = bool(_PYTHON.match(spec.python.rpartition("/")[2])) or "Error: " in words
        if not is_python:
            return f'python = "{spec.python}" is no Python interpreter'
    missing = _MISSING_MODULE.search(words)
    if missing is not None:
        return _module_hint(spec, missing[1])
    return _variable_hint(spec, words)


def _module_hint(spec: Spec, module: str) -> str:
    if spec.entrypoint is None:
        return ""
    own = spec.entrypoint.partition(":")[0].partition(".")[0]
    if module == own:
        folder, tenant = spec.process.working_directory, tenant_of(spec.name)
        if not folder and tenant:
            return f'no {own}.py in the folder of tenant "{tenant}", where its agents work: set working_directory'
        return f"no {own}.py in working_directory = {json.dumps(folder)}"
    if spec.python is None:
        return 'it runs with the Python of corral; another one: python = "/PATH/venv/bin/python"'
    return f"install it for python = {json.dumps(spec.python)}"


def _variable_hint(spec: Spec, words: str) -> str:
    """Returns how to pass an environment variable that an exception names and the agent does not get."""
    is_lookup = "KeyError: '" in words
    for name in _VARIABLE.findall(words):
        is_named = is_lookup or bool(_KEY_NAME.search(name))
        if is_named and name not in spec.environment:
            inherited = ", ".join(spec.process.inherit_environment)
            return (
                f"of the daemon's variables it gets only {inherited}:"
                f' write environment = {{ {name} = "${{secret:{name.lower()}}}" }},'
                f' or add "{name}" to inherit_environment; see {KEYS_PAGE}'
            )
    return ""


def _list(words: Sequence[str]) -> str:
    return f"command = {json.dumps(list(words), ensure_ascii=False)}"
