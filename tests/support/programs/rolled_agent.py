"""The agent of the tests of changes: it tells its VERSION, and a bad one fails in the way that the version names."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from corral.worker import Agent, Task

VERSION = os.environ.get("VERSION", "one")
if VERSION == "bad-import":
    raise ImportError("this version cannot be imported")
if VERSION == "bad-exit":
    sys.exit("this version does not start")
if VERSION == "slow-end":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(os.environ["BEGUN"]).write_text("")
    time.sleep(600)  # it says nothing, and ends at the end of the grace period

agent = Agent("rolled")


@agent.health("well")
async def well() -> bool:
    return VERSION != "bad-health"


@agent.task
async def run(task: Task) -> dict[str, object]:
    if task.objective == "smoke" and VERSION == "bad-smoke":
        raise ValueError("this version fails its smoke task")
    if task.objective == "hold":
        await task.progress(0.5, "holds")
        while not Path(str(task.input)).exists():
            await asyncio.sleep(0.01)
    if task.objective == "sleep":
        await asyncio.sleep(float(str(task.input)))
    return {"version": VERSION, "pid": os.getpid(), "delivery": task.delivery}
