"""An agent with a state of its own, which it saves and restores; its config says how it misbehaves."""

import asyncio
import os
import signal
from typing import Any

from corral.worker import Agent, Start, Task

agent = Agent("diarist")
pages: list[Any] = []
settings: dict[str, Any] = {}


@agent.on_start
def begin(start: Start) -> None:
    settings.update(start.config)


@agent.checkpoint
def save() -> object:
    if settings.get("dies_saving") and pages:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings.get("raises_saving"):
        raise OSError("the ink is gone")
    return {"pages": pages} if pages or not settings.get("saves_nothing") else None


@agent.restore
def restore(data: Any) -> None:
    if data == "poison":
        raise ValueError("not my diary")
    pages[:] = data["pages"]


@agent.on_shutdown
async def end() -> None:
    while settings.get("lingers_until") and not os.path.exists(settings["lingers_until"]):
        await asyncio.sleep(0.01)


@agent.task
async def run(task: Task) -> Any:
    word, _, rest = task.objective.partition(" ")
    if word == "write":
        pages.append(task.input)
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "wait":
        await task.progress(0.5, "waits")
        await asyncio.Event().wait()
    if word == "hold":  # until somebody makes this file
        await task.progress(0.5, "holds")
        while not await asyncio.to_thread(os.path.exists, rest):
            await asyncio.sleep(0.01)
    if word == "steps":  # one after the other, and each is saved
        done: int = task.checkpoint or 0
        await task.progress(0.5, f"from {done}")
        while done < 3:
            done += 1
            await task.save_checkpoint(done)
            await task.progress(done, f"step {done}")
            if done == 2 and task.attempt == 1:
                await asyncio.Event().wait()
        return {"done": done, "attempt": task.attempt, "began_at": task.checkpoint}
    if word == "save":
        return await task.save_checkpoint(task.input)
    return {"pages": pages, "pid": os.getpid()}
