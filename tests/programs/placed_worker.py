"""An agent that a cluster places: tasks that wait for a file, stream parts, and keep what later ones find."""

import asyncio
from pathlib import Path

from corral.worker import Agent, Task

agent = Agent("placed-worker")


@agent.task
async def handle(task: Task) -> object:
    folder = Path(str(task.config["folder"]))
    if task.objective == "parts":
        for number in range(3):
            await task.stream({"part": number})
    if task.objective in ("wait", "parts"):
        (folder / f"began-{task.id}").touch()
        while not (folder / "go").exists():
            await asyncio.sleep(0.02)
    if task.objective == "count":
        task.memory.variables["count"] = int(str(task.memory.variables.get("count", 0))) + 1
        return {"count": task.memory.variables["count"], "worker": task.worker}
    if task.objective == "learn":
        await task.remember("known", task.input)
    if task.objective == "recall":
        return await task.recall("known")
    if task.objective == "step":
        if task.checkpoint is not None:
            return {"checkpoint": task.checkpoint}
        await task.save_checkpoint({"step": 7})
        (folder / f"began-{task.id}").touch()
        await asyncio.Event().wait()
    if task.objective == "late":
        (folder / f"began-{task.id}").touch()
        while not (folder / "go").exists():
            await asyncio.sleep(0.02)
        await task.save_checkpoint({"step": 8})
    if task.objective == "note":
        with (folder / "order").open("a") as order:
            order.write(f"{task.input}\n")
    if task.objective == "spend":
        task.usage(tokens=10, cost_cents=2.0)
    if task.objective == "fail":
        raise ValueError("it cannot")
    return {"input": task.input, "worker": task.worker}


if __name__ == "__main__":
    agent.run()
