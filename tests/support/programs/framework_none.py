"""An agent without a framework: what corral itself takes."""

import os

from corral.worker import Agent, Task

agent = Agent("none")


@agent.task
async def run(task: Task) -> dict[str, object]:
    return {"answer": task.objective, "pid": os.getpid()}
