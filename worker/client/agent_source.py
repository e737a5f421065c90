"""Finds what a program names as an agent: an object, a file, an entrypoint or a table; as name and table of its spec.

An agent runs in a process of its own, which imports it: an object has to be an attribute of a module with a file. It
must not import any agent itself.
"""

import ast
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from ..adapters.recognition import kind_of
from ..contract.codec import as_object
from ..contract.errors import InvalidParams
from ..sdk.agent import Agent

GUARD = 'put the part of it that runs below `if __name__ == "__main__":`, since the agent\'s process imports it'


AgentSource = str | os.PathLike[str] | Mapping[str, object] | object
"""The name of an agent whose program is given beside it; `FILE.py:NAME`; `MODULE:NAME`; a table with `name`; an object:
a `corral.worker.Agent`, a function, or an object of a framework that `corral.adapters.wrap` takes."""


def located(source: AgentSource, spec: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Returns the name and the table of an agent; `spec` has further keys of the table, which come first.

    Raises:
        InvalidParams: the object, or the file, cannot be found.
    """
    if isinstance(source, Mapping):
        table = {**source, **spec}
        name = table.pop("name", None)
        if not isinstance(name, str):
            raise _unusable(source, 'a table of an agent has its "name"')
        return name, table
    if not isinstance(source, str | os.PathLike):
        return _of_object(source, spec)
    text = os.fspath(source)
    module, colon, attribute = text.rpartition(":")
    if not colon:
        if text.endswith(".py"):
            raise _unusable(source, f'write "{text}:NAME", with the name of the agent in that file')
        return text, dict(spec)
    if not module.endswith(".py"):
        return module.rpartition(".")[2], {"entrypoint": text, **spec}
    file = Path(module).absolute()
    if not file.is_file():
        raise _unusable(source, "there is no such file")
    return file.stem, _table(file, file.stem, attribute, spec)


def _of_object(agent: object, spec: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    given: str | None = None
    made_in: str | None = None
    if isinstance(agent, Agent):
        given, made_in = agent.name, agent.file
    elif kind_of(agent) is not None:
        made_in = getattr(getattr(agent, "__code__", None), "co_filename", None)
    else:
        reason = "give a corral.worker.Agent, an object of a framework, a function, an entrypoint or a table"
        raise _unusable(agent, reason)
    found = _attribute_of(agent, made_in)
    if found is None:
        raise _unusable(agent, "it is no attribute of a module: make it at the top of a file, not in a function")
    module, attribute = found
    file, name = getattr(module, "__file__", None), module.__name__
    if file is None or not Path(file).is_file():
        raise _unusable(agent, f"module {name} has no file, which the agent's process could import")
    path = Path(file).absolute()
    if name == "__main__":
        spec_of = getattr(module, "__spec__", None)
        name = path.stem if spec_of is None else str(spec_of.name)
        if not _is_guarded(path):
            raise _unusable(agent, f'it is in "{path}", the program itself: {GUARD}')
    if not all(part.isidentifier() for part in name.split(".")):
        raise _unusable(agent, f'"{path.name}" cannot be imported: rename it, with letters, digits and _')
    return given or attribute, _table(path, name, attribute, spec)


def _attribute_of(agent: object, made_in: str | None) -> tuple[ModuleType, str] | None:
    """Returns the module that has the agent as an attribute, the one that made it first, and the attribute's name.

    Where it is unknown which one made it, a module comes before the program itself, which its process would not run.
    """
    found: list[tuple[bool, ModuleType, str]] = []
    for module in [*sys.modules.values()]:
        for attribute, value in [*getattr(module, "__dict__", {}).items()]:
            if value is agent:
                is_other = getattr(module, "__file__", None) != made_in
                if made_in is None:
                    is_other = module.__name__ == "__main__"
                found.append((is_other, module, attribute))
    if not found:
        return None
    _, module, attribute = min(found, key=lambda each: each[0])
    return module, attribute


def _table(file: Path, module: str, attribute: str, spec: Mapping[str, object]) -> dict[str, object]:
    """Returns the table of an agent in a file; its workers begin in the folder from which the module is imported."""
    is_package = file.name == "__init__.py" and file.stem != module
    folder = file.parents[module.count(".") + (1 if is_package else 0)]
    process = as_object(spec.get("process", {}))
    if process is None:  # the daemon refuses it
        return {"entrypoint": f"{module}:{attribute}", **spec}
    started = {"working_directory": str(folder), **process}
    return {"entrypoint": f"{module}:{attribute}", **spec, "process": started}


def _is_guarded(path: Path) -> bool:
    """Returns True if a script has a part that runs only where it is the program."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return False
    tests = [node.test for node in tree.body if isinstance(node, ast.If)]
    return any(isinstance(name, ast.Name) and name.id == "__name__" for test in tests for name in ast.walk(test))


def _unusable(source: object, reason: str) -> InvalidParams:
    return InvalidParams(f"cannot use {source!r} as an agent: {reason}", key="agent", reason=reason)
