"""An agent for the tests of services: it answers what it is given, or does what that says."""

import asyncio

from corral.worker import Agent, Event, Task

agent = Agent("service")
gate = asyncio.Event()


@agent.on_event("gate.open")
async def opened(_event: Event) -> None:
    gate.set()


@agent.task
async def run(task: Task) -> object:
    if task.input == "fail":
        raise ValueError("as asked")
    if task.input == "wait":
        await asyncio.Event().wait()
    if task.input == "gate":
        await gate.wait()
    if task.input == "short":
        await asyncio.sleep(0.01)
    if task.input == "steps":
        await task.progress(0.5, "half")
        await asyncio.sleep(0.05)  # longer than progress is held back
        return "done"
    return task.input
