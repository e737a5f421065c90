"""An agent that delegates as its input says, and tells the senders of what it has heard."""

import asyncio
from typing import Any

from corral.worker import Agent, CorralError, Event, Task

agent = Agent("asking")
heard: list[str] = []
stirred = asyncio.Condition()


@agent.on_event("live.said")
async def hear(event: Event) -> None:
    async with stirred:
        heard.append(event.sender)
        stirred.notify_all()


@agent.task
async def run(task: Task) -> Any:
    if task.objective == "delegate":
        try:
            child = await task.delegate(objective="nothing", **task.input)
        except CorralError as error:
            return error.name
        return child.record["agent"]
    if task.objective == "heard":
        async with stirred:
            await stirred.wait_for(lambda: len(heard) >= task.input)
        return heard
    return None
