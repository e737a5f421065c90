"""An agent whose workers, forks of its zygote, each do as `litter.py FOLDER escape`; the variable LITTER is FOLDER."""

import os

from chaos.litter import litter
from corral.worker import Agent, Task

agent = Agent("litter")


@agent.on_start
async def begin(_worker: object) -> None:
    """Leaves what it leaves before it is Ready."""
    litter(os.environ["LITTER"], "escape")


@agent.task
async def run(_task: Task) -> None:
    """Nobody asks."""
