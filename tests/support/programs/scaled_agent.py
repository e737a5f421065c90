"""The agent of the scaling tests: workers beyond the first start only where its configuration lets them."""

import asyncio

from corral.worker import Agent, Start, Task

agent = Agent("scaled")


@agent.on_start
def begin(start: Start) -> None:
    if start.config.get("alone") and not start.worker.endswith("-0"):
        raise RuntimeError("there is one licence only")


@agent.task
async def run(task: Task) -> str:
    if task.objective == "wait":
        await task.progress(0.5, "waits")
        await asyncio.Event().wait()
    return task.objective
