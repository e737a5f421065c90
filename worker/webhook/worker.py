"""Runs the worker of a remote service, which has the service run each task: a webhook, or an agent of A2A."""

import os
import sys
from collections.abc import Callable
from typing import Protocol

from corral import __version__

from ..contract.errors import CorralError
from ..sdk.agent import Agent
from ..sdk.results import Json
from ..sdk.task import Start, Task, stateless
from .service import Target, take_environment


class Runner(Protocol):
    """Runs the tasks of one service."""

    async def open(self, _start: Start) -> None:
        """Opens the pool of connections, before the worker is ready."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...

    async def run(self, task: Task) -> Json:
        """Runs a task at the service, and returns its output."""
        ...


def serve(runner_of: Callable[[Target], Runner]) -> int:
    """Runs tasks of the daemon until it ends the worker (0), or not at all (2): the environment names no service."""
    # A netrc file must not apply: the service gets only the configured headers.
    os.environ["NETRC"] = os.devnull
    try:
        runner = runner_of(take_environment(os.environ))
    except CorralError as error:
        print(f"corral: {error.message}", file=sys.stderr)
        return 2
    agent = Agent(version=__version__)
    agent.on_start(runner.open)
    agent.on_shutdown(runner.close)
    agent.task(runner.run)
    agent.checkpoint(stateless)
    agent.run()
    return 0
