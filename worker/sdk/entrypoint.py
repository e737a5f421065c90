"""Imports the agent that an `entrypoint` of the configuration names, MODULE:AGENT, and logs why it cannot be loaded.

It is apart from `agent`, which a program imports for its handlers: traceback and faulthandler take milliseconds.
"""

import importlib

from .agent import Agent, loading_entrypoint
from .stdio import log_traceback


def load(entrypoint: str) -> Agent:
    """Imports the agent that MODULE:AGENT names; Agent.run does nothing during the import.

    Raises:
        BaseException: any exception of the module.
        TypeError: the name is not an Agent.
    """
    module_name, _, path = entrypoint.partition(":")
    with loading_entrypoint():
        found: object = importlib.import_module(module_name)
    for name in path.split("."):
        found = getattr(found, name)
    if not isinstance(found, Agent):
        raise TypeError(f"{path} is of type {type(found).__name__}, not an Agent")
    return found


def log_unloadable(name: str, error: BaseException) -> None:
    """Logs an agent that cannot be loaded, with the traceback of its import."""
    first = str(error).partition("\n")[0]
    log_traceback(error, f"cannot load {name}: {type(error).__name__}: {first}")
