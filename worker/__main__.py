"""Runs `python -P -m corral.worker MODULE:AGENT`: the agent of a module (`entrypoint` in the configuration).

stdin and stdout are taken before the module is imported, so that its output during the import cannot disturb the
protocol. The working directory is searched last: a file there never shadows a package.
"""

import os
import sys

from .adapters.recognition import adapt
from .sdk.bytecode import imports_as_written
from .sdk.entrypoint import load, log_unloadable
from .sdk.stdio import take_stdio


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
            agent = load(entrypoint, adapt)
    except BaseException as error:  # the agent's module may raise anything, SystemExit included
        log_unloadable(f'entrypoint "{entrypoint}"', error)
        return 1
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
