"""Imports the agent that an `entrypoint` of the configuration names, MODULE:AGENT, and logs why it cannot be loaded.

A file MODULE.py in the working directory comes before another module of this name for the entrypoint itself, and only
for it: an agent in calendar.py works, and the standard library goes on to import its own calendar.

It is apart from `agent`, which a program imports for its handlers: traceback and faulthandler take milliseconds.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType

from .agent import Agent, loading_entrypoint
from .source_location import place_of_error
from .stdio import log_line, log_traceback

ALIAS = "entrypoint {}"
"""Name in sys.modules of a module whose own name belongs to another: no import statement can name it."""


def load(entrypoint: str, adapt: Callable[[object], Agent | None]) -> Agent:
    """Imports the agent that MODULE:AGENT names; Agent.run does nothing during the import.

    Args:
        entrypoint: MODULE:AGENT.
        adapt: returns the agent that runs an object which is no Agent, or None.

    Raises:
        BaseException: any exception of the module.
        AttributeError: the module has no such name.
        TypeError: the name is neither an Agent nor an object that `adapt` knows.
    """
    module_name, _, path = entrypoint.partition(":")
    with loading_entrypoint():
        module = _import(module_name)
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AttributeError(_lacks(module, module_name, path)) from None
    if isinstance(found, Agent):
        return found
    adapted = adapt(found)
    if adapted is None:
        text = f"{path} is of type {type(found).__name__}, not an Agent, an object of a framework or a function"
        raise TypeError(f"{text}; {_offer(module, module_name)}")
    return adapted


def _import(name: str) -> ModuleType:
    own = os.path.join(os.getcwd(), f"{name}.py")
    if "." not in name and os.path.isfile(own) and not _is_found_at(name, own):
        return _import_file(name, own)
    return importlib.import_module(name)


def _is_found_at(name: str, own: str) -> bool:
    """Returns True if `import NAME` would run this file."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module that is loaded without a spec
        return False
    return found is not None and found.origin is not None and _is_same(found.origin, own)


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # "built-in", "frozen"
        return False


def _import_file(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(ALIAS.format(name), path)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None, "a path that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import does: dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _lacks(module: ModuleType, name: str, path: str) -> str:
    """Returns which file was imported and which agents it has, and that another file of this name was meant."""
    file = getattr(module, "__file__", None)
    text = f'{file or f"module {name}"} has no "{path}"; {_offer(module, name)}'
    folder = os.path.join(os.getcwd(), name.partition(".")[0])
    if os.path.isdir(folder) and not (file or "").startswith(folder + os.sep):
        text += f"; rename the folder {folder}, because another module has its name"
    return text


def _offer(module: ModuleType, name: str) -> str:
    agents = [key for key, value in vars(module).items() if isinstance(value, Agent)]
    if not agents:
        return 'it makes no Agent: write agent = Agent("NAME") in it'
    return f'it has {", ".join(agents)}: write entrypoint = "{name}:{agents[0]}"'


def log_unloadable(name: str, error: BaseException) -> None:
    """Logs the traceback of an import that failed and then, as the last line, which `status` shows, what failed where."""
    what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    place = "" if isinstance(error, SyntaxError) else place_of_error(error)
    log_traceback(error, f"cannot load {name}")
    log_line(f"corral: cannot load {name}: {what}{f' ({place})' if place else ''}")
