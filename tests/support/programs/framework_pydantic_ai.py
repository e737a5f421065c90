"""An agent of pydantic-ai with its test model: a run with a tool call, no key and no network."""

import os
import random

from pydantic_ai import Agent as Thinker
from pydantic_ai.models.test import TestModel

from corral.worker import Agent, Task

thinker = Thinker(TestModel(), system_prompt="You are brief.")
agent = Agent("pydantic-ai")


@thinker.tool_plain
def population(city: str) -> int:
    """How many people live in a city."""
    return 1000 * len(city)


@agent.task
async def run(task: Task) -> dict[str, object]:
    found = await thinker.run(task.objective)
    parts = [type(part).__name__ for message in found.all_messages() for part in message.parts]
    return {"answer": found.output, "steps": parts, "pid": os.getpid(), "random": random.getrandbits(64)}
