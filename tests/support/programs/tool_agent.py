"""An agent that calls the tool that its objective names, and returns the text of its result or the name of the error."""

from corral.worker import Agent, CorralError, Task

agent = Agent("tools")


@agent.task
async def run(task: Task) -> str:
    try:
        return (await task.tool(task.objective, check=False)).text
    except CorralError as error:
        return error.name
