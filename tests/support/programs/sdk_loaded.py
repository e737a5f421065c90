"""A module that is used as an entrypoint, and runs its agent unguarded as well."""

import os

from corral.worker import Agent, Task

os.write(1, b"written while it was imported\n")
print("printed while it was imported")


class Nested:
    agent = Agent("loaded")


agent = Nested.agent
not_an_agent = 3


@agent.task
async def run(task: Task) -> object:
    return __name__


agent.run()
print("imported to the end")
