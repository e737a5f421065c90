"""Writes the typed methods of `corral.AgentRuntime`: worker/client/methods.py, from the table of methods.

A method that worker/client/runtime.py defines by hand is not generated; FULL names a second method with all params of it.
"""

import ast
import re
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import NODEFAULT, Struct, UnsetType

from corral.worker import methods
from corral.worker.contract import records
from corral.worker.methods.method import Method
from corral.worker.methods.table import METHODS

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "worker" / "client"

FULL = {
    "start_agent": "start_agents",
    "stop_agent": "stop_agents",
    "restart_agent": "restart_agents",
    "reset_agent": "reset_agents",
    "pause_agent": "pause_agents",
    "resume_agent": "resume_agents",
    "hibernate_agent": "hibernate_agents",
    "wake_agent": "wake_agents",
    "signal_agent": "signal_agents",
    "remove_agent": "remove_agents",
    "add_team": "add_teams",
    "add_workflow": "add_workflows",
    "save_state": "save_states",
    "list_tasks": "list_task_page",
}
"""By the name of a method that is made by hand: the generated one with all params."""

POSITIONAL = frozenset({"names", "specs", "data", "arguments", "query", "server"})
"""Optional params that need no keyword."""

DEFINITIONS = {
    value.name: (module.__name__.rpartition(".")[2], constant)
    for module in vars(methods).values()
    if isinstance(module, types.ModuleType)
    for constant, value in vars(module).items()
    if isinstance(value, Method)
}
"""By the name of a method: the module of its definition, and the name of the definition there."""


def hand_made() -> set[str]:
    """Returns the names of the methods that runtime.py defines."""
    tree = ast.parse((CLIENT / "runtime.py").read_text("utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "AgentRuntime"]
    return {each.name for each in found.body if isinstance(each, ast.AsyncFunctionDef | ast.FunctionDef)}


HEAD = '''\
# written by docs/reference/python.py; do not edit
# ruff: noqa: A002, D102 - parameters have the names that the daemon has for them; the docstrings are those of the definitions
# `declares` makes the bodies.
# mypy: disable-error-code="empty-body"
"""Declares each method of the daemon with its types; `runtime.AgentRuntime` and `blocking.Runtime` have these methods, and more."""

%s

class Methods:
    """Declares the methods of a daemon, for a Caller and for a Waiter.

    Each raises the CorralError that the daemon answers.
    """
'''


def methods_module() -> str:
    """Returns the text of worker/client/methods.py."""
    known = hand_made()
    names: set[tuple[str, str]] = {(".calling", "calls"), (".calling", "declares")}
    inferred: list[str] = []
    bodies: list[str] = []
    for _, entry in sorted(METHODS.items()):
        name = entry.faces.python
        if name is None or entry.faces.only_streams:
            continue
        name = FULL.get(name, name) if name in known else name
        if name in known:
            continue
        module, constant = DEFINITIONS[entry.name]
        names.add(("..methods", module))
        if _is_inferred(entry):
            inferred.append(f"    {name} = calls({module}.{constant})\n")
        else:
            bodies.append(_method(name, entry, names))
    return _formatted(HEAD % _imports(names) + "\n" + "".join([*inferred, *bodies]))


def _is_inferred(entry: Method) -> bool:
    """Returns whether a checker takes the signature from the params: all are required, and no list, mapping or time."""
    hints = typing.get_type_hints(entry.params)
    is_plain = all(
        not {"Sequence", "Mapping", "datetime"} & set(re.findall(r"\w+", _type(each, set()))) for each in hints.values()
    )
    return (
        is_plain
        and all(each.required for each in msgspec.structs.fields(entry.params))
        and _result(entry.result, set()) != "object"
    )


def _method(name: str, entry: Method, names: set[tuple[str, str]]) -> str:
    hints = typing.get_type_hints(entry.params, include_extras=True)
    required: list[str] = []
    optional: list[str] = []
    for field in msgspec.structs.fields(entry.params):
        written = _type(hints[field.name], names)
        if field.required:
            required.append(f"{field.name}: {written}")
        elif field.name in POSITIONAL:
            required.append(f"{field.name}: {_with_default(field, written)}")
        else:
            optional.append(f"{field.name}: {_with_default(field, written)}")
    signature = ", ".join(["self", *required, *(["*"] if optional else []), *optional])
    result = _result(entry.result, names)
    module, constant = DEFINITIONS[entry.name]
    return f"""
    @declares({module}.{constant})
    async def {name}({signature}) -> {result}: ...
"""


def _with_default(field: msgspec.structs.FieldInfo, written: str) -> str:
    if field.default is not NODEFAULT:
        return f"{written} = {field.default!r}"
    made: object = field.default_factory()
    return f"{written} = ()" if made == [] else f"{written} | None = None"


def _type(hint: Any, names: set[tuple[str, str]]) -> str:
    """Returns the annotation of a parameter: what a caller may give for a type of the contract."""
    if typing.get_origin(hint) is Annotated:
        if hint == records.Moment:
            names.add(("datetime", "datetime"))
            return "float | datetime"
        return _type(typing.get_args(hint)[0], names)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_type(each, names) for each in typing.get_args(hint) if each is not UnsetType]
        return " | ".join(sorted(parts, key=lambda part: part == "None"))
    if typing.get_origin(hint) is Literal:
        names.add(("typing", "Literal"))
        return f"Literal[{', '.join(map(repr, typing.get_args(hint)))}]"
    if typing.get_origin(hint) is list:
        names.add(("collections.abc", "Sequence"))
        return f"Sequence[{_type(typing.get_args(hint)[0], names)}]"
    if typing.get_origin(hint) is dict:
        names.add(("collections.abc", "Mapping"))
        return f"Mapping[str, {_type(typing.get_args(hint)[1], names)}]"
    if isinstance(hint, type) and issubclass(hint, Struct):
        names |= {("collections.abc", "Mapping"), (_module(hint), hint.__name__)}
        return f"{hint.__name__} | Mapping[str, object]"
    return "None" if hint is types.NoneType else str(hint.__name__)


def _result(hint: Any, names: set[tuple[str, str]]) -> str:
    """Returns the annotation of a result; `object` for one that no Struct of the contract describes."""
    if typing.get_origin(hint) in (list, dict):
        inner = ", ".join(_result(each, names) for each in typing.get_args(hint))
        return f"{typing.get_origin(hint).__name__}[{inner}]"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return "object"
    if isinstance(hint, type) and issubclass(hint, Struct):
        module = _module(hint)
        if not module:
            return "object"
        package, _, room = module.rpartition(".")
        if room.endswith("results") or package == "..methods":  # whose names would fill a page
            names.add((package, room))
            return f"{room}.{hint.__name__}"
        names.add((module, hint.__name__))
        return hint.__name__
    return hint.__name__ if hint in (str, int, float, bool, object) else "object"


def _module(of: type) -> str:
    """Returns the module of a Struct as worker/client imports it; "" if it is none of the contract."""
    for room in ("contract", "control", "methods"):
        prefix = f"corral.worker.{room}."
        if of.__module__.startswith(prefix):
            return f"..{room}.{of.__module__.removeprefix(prefix)}"
    return ""


def _imports(names: set[tuple[str, str]]) -> str:
    return "".join(f"from {module} import {name}\n" for module, name in sorted(names))


def _formatted(text: str) -> str:
    """Returns the text as ruff formats it, with its imports in order."""
    ruff = [sys.executable, "-m", "ruff"]
    stdin = ["--stdin-filename", str(CLIENT / "methods.py"), "-"]
    for command in (["check", "--fix", "--quiet", "--exit-zero", "--select=I"], ["format", "--quiet"]):
        done = subprocess.run(
            [*ruff, *command, *stdin], input=text, capture_output=True, text=True, check=True, cwd=ROOT
        )
        text = done.stdout
    return text


def written() -> dict[Path, str]:
    """Returns the text of the module that this writes, by its path."""
    return {CLIENT / "methods.py": methods_module()}


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, "utf-8")
