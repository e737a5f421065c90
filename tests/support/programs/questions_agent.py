"""An agent that asks what its input says, and returns the answer or the name of the error."""

from typing import Any

from corral.worker import Agent, CorralError, Task

agent = Agent("questions")


@agent.task
async def run(task: Task) -> Any:
    asked = dict(task.input or {})
    try:
        return await task.ask(task.objective, asked.pop("options", ()), **asked)
    except CorralError as error:
        return error.name
