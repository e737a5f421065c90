"""Runs `python -P -m corral.worker MODULE:AGENT`: the agent of a module (`entrypoint` in the configuration).

With `--replay` before it, replays the record of a task on stdin, `{"record": …, "tasks": […], "config": …}`, and ends.

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
    is_replay = arguments[:1] == ["--replay"]
    arguments = arguments[is_replay:]
    if len(arguments) != 1 or not all(arguments[0].partition(":")):
        print("usage: python -P -m corral.worker [--replay] MODULE:AGENT", file=sys.stderr)
        return 2
    entrypoint = arguments[0]
    if not is_replay:
        take_stdio()
    sys.argv = [entrypoint]
    sys.path.append(os.getcwd())
    try:
        with imports_as_written():
            agent = load(entrypoint, adapt)
    except BaseException as error:  # the agent's module may raise anything, SystemExit included
        log_unloadable(f'entrypoint "{entrypoint}"', error)
        return 1
    if is_replay:
        from .sdk.replay import replay_stdin  # noqa: PLC0415 - start-up time: a worker does not need it

        return replay_stdin(agent.replay)
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
