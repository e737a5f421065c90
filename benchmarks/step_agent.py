"""The agent of `steps.py`: its handler takes steps that do nothing, one after another."""

import os
import signal
import time

from corral.worker import Agent, Task

agent = Agent("stepper")


async def nothing() -> int:
    """What a step costs beside what it does."""
    return 1


@agent.task
async def run(task: Task) -> list[float]:
    """Takes as many steps as it is told; returns the milliseconds of each. "twice" dies after them once."""
    took: list[float] = []
    for _ in range(task.input):
        began = time.perf_counter()
        await task.step("step", nothing)
        took.append((time.perf_counter() - began) * 1000)
    if task.objective == "twice" and task.delivery == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return took
