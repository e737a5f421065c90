"""Agents that talk by events: what one hears it tells on, and what it has heard its task returns."""

import asyncio
import time
from typing import Any

from corral.worker import Agent, CorralError, Event, Start, Task

agent = Agent()
heard: list[list[object]] = []
held = asyncio.Event()


@agent.on_start
def begin(start: Start) -> None:
    agent.publish("begun", {"worker": start.worker})  # from a thread: it is taken when this returns


@agent.on_event("ping.*")
async def answer(event: Event) -> None:
    await agent.publish("pong." + event.type.partition(".")[2], event.data)


@agent.on_event("ask.tool")
def ask(event: Event) -> None:
    try:
        agent.wait(agent.tool("nobody__has_this"))
    except CorralError as error:
        agent.publish("told.tool", {"code": error.code})


@agent.on_event("ping.*", "pong.*", "flood", "told.*", "worker.*", "task.*", "agent.*", "daemon.*")
async def keep(event: Event) -> None:
    is_big = event.type == "flood" and hasattr(event.data, "__len__")
    heard.append([event.type, event.data[0] if is_big else event.data, event.sender])


@agent.on_event("ping.*", "trouble")
def fail(event: Event) -> None:
    raise ValueError(event.type)


@agent.on_event("slow", "events.skipped")
async def slow(event: Event) -> None:
    if event.data == "hold":
        await agent.publish("holds")
        await held.wait()
    heard.append([event.type, event.data, event.sender])


@agent.task
async def run(task: Task) -> Any:
    word, _, rest = task.objective.partition(" ")
    if word == "heard":
        return heard
    if word == "types":  # of what may be nested deeper than an output
        return [each[0] for each in heard]
    if word == "forget":
        heard.clear()
    if word == "say":
        await task.publish(rest, task.input)
    if word == "release":
        held.set()
    if word == "flood":  # in its order, and without waiting for each
        begun = time.monotonic()
        refused = 0
        for answer in [task.publish("flood", number) for number in range(int(rest))]:
            try:
                await answer
            except CorralError as error:
                if "retry_after_s" not in error.data:
                    raise
                refused += 1
        return {"refused": refused, "seconds": time.monotonic() - begun}
    return None


agent.run()
