"""`python -P -m corral.worker MODULE:AGENT`: runs the agent that a module holds (`entrypoint` in the config).

stdin and stdout are taken before the module is imported, so that even what it prints while it is
imported is safe. The working directory is searched last: a file there never shadows a package.
"""

import importlib
import os
import sys

from .sdk.agent import Agent, loading_entrypoint
from .sdk.bytecode import imports_as_written
from .sdk.stdio import say_traceback, take_stdio


def main(arguments: list[str]) -> int:
    """Runs the agent; returns 1 when it cannot be loaded, 2 on wrong usage."""
    if len(arguments) != 1 or not all(arguments[0].partition(":")):
        print("usage: python -P -m corral.worker MODULE:AGENT", file=sys.stderr)
        return 2
    entrypoint = arguments[0]
    take_stdio()
    sys.argv = [entrypoint]
    sys.path.append(os.getcwd())
    try:
        with imports_as_written():
            agent = load(entrypoint)
    except BaseException as error:  # an author's module may raise anything, SystemExit included
        say_unloadable(f'entrypoint "{entrypoint}"', error)
        return 1
    agent.run()
    return 0


def load(entrypoint: str) -> Agent:
    """The agent that MODULE:AGENT names; while its module is imported, Agent.run does nothing.

    Raises:
        BaseException: whatever the module raises.
    """
    module_name, _, path = entrypoint.partition(":")
    with loading_entrypoint():
        found: object = importlib.import_module(module_name)
    for name in path.split("."):
        found = getattr(found, name)
    if not isinstance(found, Agent):
        raise TypeError(f"{path} is of type {type(found).__name__}, not an Agent")
    return found


def say_unloadable(what: str, error: BaseException) -> None:
    """Writes to the log what could not be loaded, and where its import has failed."""
    first = str(error).partition("\n")[0]
    say_traceback(error, f"cannot load {what}: {type(error).__name__}: {first}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
