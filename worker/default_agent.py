"""Runs the agent of the built-in template `default`: it answers with its name, its description, and what it was asked.

It stands in for an agent that was added by a name alone, until it gets a program of its own.
"""

from .sdk.agent import Agent
from .sdk.task import Task

agent = Agent("default")


@agent.task
async def answer(task: Task) -> object:
    """Returns the objective and the input of a task, with the name and the description of the agent."""
    config = task.config
    return {
        "agent": task.agent,
        "name": config.get("name") or task.agent,
        "description": config.get("description", ""),
        "objective": task.objective,
        "input": task.input,
    }
