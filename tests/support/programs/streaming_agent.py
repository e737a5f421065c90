"""Agents that stream: the objective names what to do; the input is the folder of files that they wait for."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Generator

from corral.worker import Agent, SyncTask, Task

agent = Agent("streams")
others = Agent("others")
texts = Agent("texts")
steps = Agent("steps")

BOUND_S = 20.0


async def until(path: object) -> None:
    """Waits for a file."""
    async with asyncio.timeout(BOUND_S):
        while not os.path.exists(str(path)):
            await asyncio.sleep(0.005)


@others.task
@agent.task
async def run(task: Task) -> object:
    word, _, rest = task.objective.partition(" ")
    if word == "words":
        for each in rest.split():
            await task.stream(each)
        return "the end"
    if word == "values":
        for number in range(int(rest)):
            await task.stream({"number": number})
        return int(rest)
    if word == "flood":
        for _ in range(int(rest)):
            await task.stream("x" * 10_000)
        return "flooded"
    if word == "gate":
        await task.stream("before")
        await until(task.input)
        await task.stream("after")
        return "through"
    if word == "die":
        await task.stream(f"attempt {task.attempt}")
        if task.attempt == 1:
            await until(task.input)
            os._exit(3)
        return "lived"
    if word == "relay":
        stream = task.delegate_stream("texts", rest)
        async for part in stream:
            await task.stream(part.value)
        assert stream.result is not None
        return stream.result.output
    if word == "leave":
        async with task.delegate_stream("others", "gate", input=task.input) as stream:
            async for part in stream:
                return part.value
    if word == "large":
        await task.stream("y" * int(rest))
        return "not refused"
    if word == "unchecked":  # as a worker in another language may
        for params in ({"part": "y" * int(rest)}, {}, {"part": 1, "task": "no such"}):
            task._calls.notify("stream", {"task": task.id, **params})  # pyright: ignore[reportPrivateUsage]  it bypasses the SDK's checks
        await task.stream("good")
    if word == "odd":
        await task.stream({1j})
    if word == "rate":
        for _ in range(int(rest)):
            await task.stream(f"{time.monotonic_ns():>20}" + "z" * 80)
            await asyncio.sleep(0.001)
    return None


@texts.task
async def write(task: Task) -> AsyncIterator[str]:
    for word in task.objective.split():
        yield f"{word} "


@steps.task
def work(task: SyncTask) -> Generator[dict[str, int], None, object]:
    word, _, rest = task.objective.partition(" ")
    if word == "relay":
        stream = task.delegate_stream("texts", rest)
        found = "".join(str(part.value) for part in stream)
        return [found, stream.result.output if stream.result else None]
    for number in range(3):
        yield {"step": number}
    return f"{task.objective} is done" if task.objective != "nothing" else None
