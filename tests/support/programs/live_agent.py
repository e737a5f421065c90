"""The agent of the test of live keys: its task says what it does, the input with what."""

import asyncio
import os
import signal
import time
from typing import Any

from corral.worker import Agent, CorralError, Task

agent = Agent("live", capabilities=["announced"])


@agent.checkpoint
def save() -> object:
    return {"at": time.monotonic(), "fill": "x" * 2000}


@agent.task
async def run(task: Task) -> Any:
    word, given = task.objective, task.input
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "wait":
        await task.progress(0.5, "waits")
        await asyncio.sleep(given or 3600)
    if word == "spin":
        while time.process_time() < given:
            pass
    if word == "big":
        return "x" * int(given)
    if word == "use":
        task.usage(tokens=given["tokens"], cost_cents=given["cents"])
    if word == "tools":
        return sorted(tool["name"] for tool in await task.tools())
    if word == "call":
        for _ in range(int(given)):
            await task.tool("state__get")
    if word == "delegate":
        for depth in range(int(given)):
            await task.delegate("live", "nothing", input=depth)
    if word == "deeper":
        await task.delegate("live", "deeper" if given > 1 else "nothing", input=given - 1)
    if word == "say":
        task.log(str(given), level="debug")
        print(given)
    if word == "recall":
        task.memory.add("user", given)
        return len(task.memory.history)
    if word == "publish":
        try:
            for n in range(5):
                await task.publish("live.said", n)
        except CorralError as error:
            return error.name
    return None
