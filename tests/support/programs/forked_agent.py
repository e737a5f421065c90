"""An agent whose workers are forks: what it says of itself, and does to its zygote."""

import asyncio
import os
import signal
import subprocess
import sys
import time

from corral.worker import Agent, Task
from corral.worker.client import sync

print("imported by", os.getpid())
if os.environ.get("HANG"):
    time.sleep(1000)

agent = Agent("forked")


@agent.task
async def run(task: Task) -> object:
    """Does what the objective says, and says who did it."""
    match task.objective:
        case "print":
            print("to stdout")
            print("to stderr", file=sys.stderr)
        case "escape":
            subprocess.Popen(["setsid", "env", "-i", "/bin/sleep", "1000"])
        case "eat":
            hog = bytearray(1 << 30)
            hog[:: 1 << 12] = b"\1" * (1 << 18)
            await asyncio.sleep(1000)
        case "sleep":
            await asyncio.sleep(1000)
        case "kill the zygote":
            os.kill(os.getppid(), signal.SIGSEGV)
            await asyncio.sleep(1000)
        case "stop another":
            with sync.Client(str(task.input)) as corral:
                corral.call("agent.stop", {"names": ["pair"]}, timeout_s=10)
        case _:
            pass
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "unit": os.environ.get("CORRAL_WORKER"),
        "temporary": os.environ.get("TMPDIR"),
        "session": os.getsid(0),
    }
