"""An agent with every hook; the argument says whether they are async."""

import asyncio
import sys

from corral.worker import Agent, Conflict, Event, Start, Task

agent = Agent()
seen: list[object] = []

if "async" in sys.argv:

    @agent.on_start
    async def begin(start: Start) -> None:
        react(start)

    @agent.checkpoint
    async def save() -> object:
        return kept()

    @agent.restore
    async def restore(data: object) -> None:
        seen.append({"restored": data})

    @agent.on_event("build.*", "deploy.*")
    async def hear(event: Event) -> None:
        listen(event)
else:

    @agent.on_start
    def begin_sync(start: Start) -> None:
        react(start)

    @agent.checkpoint
    def save_sync() -> object:
        return kept()

    @agent.restore
    def restore_sync(data: object) -> None:
        seen.append({"restored": data})

    @agent.on_event
    def hear_sync(event: Event) -> None:
        listen(event)


def react(start: Start) -> None:
    match start.config.get("on_start"):
        case "raise":
            raise OSError("the disk is gone")
        case "raise typed":
            raise Conflict("cannot start twice", owner="other")
        case "exit":
            sys.exit(5)
        case _:
            seen.append(start._asdict())


def kept() -> object:
    return {"seen": len(seen)}


def listen(event: Event) -> None:
    seen.append(list(event))
    if event.data == "raise":
        raise ValueError("a bad event")
    if event.data == "exit":
        sys.exit("a bad exit")
    if event.data == "cancelled":
        raise asyncio.CancelledError("a bad end")


@agent.task
async def run(task: Task) -> object:
    return seen


agent.run()
