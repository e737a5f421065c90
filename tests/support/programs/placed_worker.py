"""An agent that a cluster places: tasks that wait for a file, stream parts, and keep what later ones find."""

import asyncio
import os
from pathlib import Path

from corral.worker import Agent, CorralError, Task

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
        return await task.recall(str(task.input or "known"))
    if task.objective == "variables":
        return dict(task.memory.variables)
    if task.objective == "step":
        if task.checkpoint is not None:
            return {"checkpoint": task.checkpoint}
        await task.save_checkpoint({"step": 7})
        (folder / f"began-{task.id}").touch()
        await asyncio.Event().wait()
    if task.objective == "late":
        return await late(task, folder)
    if task.objective == "call":
        return (await task.tool("odd__echo", text="hello")).text
    if task.objective == "steps":
        paid = [await task.step("pay", pay, folder, number) for number in range(int(str(task.input)))]
        return sum(paid)
    if task.objective == "note":
        with (folder / "order").open("a") as order:
            order.write(f"{task.input}\n")
    if task.objective == "spend":
        task.usage(tokens=10, cost_cents=2.0)
    if task.objective == "fail":
        raise ValueError("it cannot")
    return {"input": task.input, "worker": task.worker}


async def pay(folder: Path, number: int) -> int:
    """Notes that a step was done, and takes its time."""
    with (folder / "paid").open("a") as paid:
        paid.write(f"{number}\n")
    await asyncio.sleep(0.02)
    return number


async def late(task: Task, folder: Path) -> object:
    """Writes what is fenced once the file of this very process is there; notes what was refused."""
    own = os.getpid()
    (folder / f"late-{own}").touch()
    while not (folder / f"go-{own}").exists():
        await asyncio.sleep(0.02)
    refused: list[str] = []
    for name, write in (
        ("checkpoint", lambda: task.save_checkpoint({"by": own})),
        ("memory", lambda: task.remember("by", own)),
        ("step", lambda: task.step("own", lambda: own)),
    ):
        try:
            await write()
        except CorralError as error:
            refused.append(f"{name} {type(error).__name__}")
    task.memory.variables["by"] = own
    (folder / f"refused-{own}").write_text("\n".join(refused))
    return own


if __name__ == "__main__":
    agent.run()
