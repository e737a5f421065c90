"""`python -P -m corral.worker MODULE:AGENT`: runs the agent that a module holds (`entrypoint` in the config).

stdin and stdout are taken before the module is imported, so that even what it prints while it is
imported is safe. The working directory is searched last: a file there never shadows a package.
"""

import importlib
import os
import sys

from .agent import Agent, loading_entrypoint
from .stdio import say_traceback, take_stdio


def main(arguments: list[str]) -> int:
    """Runs the agent; returns 1 when it cannot be loaded, 2 on wrong usage."""
    if len(arguments) != 1 or not all(arguments[0].partition(":")):
        print("usage: python -P -m corral.worker MODULE:AGENT", file=sys.stderr)
        return 2
    entrypoint = arguments[0]
    take_stdio()
    sys.argv = [entrypoint]
    sys.path.append(os.getcwd())
    module_name, _, path = entrypoint.partition(":")
    try:
        with loading_entrypoint():
            found: object = importlib.import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
        if not isinstance(found, Agent):
            raise TypeError(f"{path} is of type {type(found).__name__}, not an Agent")
    except BaseException as error:  # an author's module may raise anything, SystemExit included
        first = str(error).partition("\n")[0]
        say_traceback(
            error, f'cannot load entrypoint "{entrypoint}": {type(error).__name__}: {first}'
        )
        return 1
    found.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
