"""An agent that is served over HTTP: as `corral.toml` has it, or by `python service.py`."""

from corral.worker import Agent, Task

agent = Agent("shout")


@agent.task
async def run(task: Task) -> str:
    """Returns the input in capitals."""
    await task.progress(0.5, "shouting")
    return str(task.input).upper()
