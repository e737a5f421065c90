"""The agent in benchmarks/mcp.py that calls the tool with the SDK."""

from calling import ARGUMENTS, measured

from corral.worker import Agent, Task

agent = Agent("sdk")


@agent.task
async def run(task: Task) -> object:
    async def call() -> object:
        return (await task.tool("echo__echo", ARGUMENTS)).text

    assert isinstance(task.input, dict), "the size of a round"
    return await measured(call, task.input)
