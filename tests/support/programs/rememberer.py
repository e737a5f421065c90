"""An agent that remembers its sessions; the objective names what to do, `sync` as argument makes it a def handler."""

import asyncio
import os
import signal
import sys

from corral.worker import Agent, SyncTask, Task

agent = Agent("rememberer")


def act(task: Task | SyncTask) -> object:
    word, _, rest = task.objective.partition(" ")
    memory = task.memory
    if word == "say":
        memory.add("user", rest)
    elif word == "set":
        key, _, value = rest.partition("=")
        memory.variables[key] = value
        memory.data[key] = [value]
    elif word == "unset":
        del memory.variables[rest]
        del memory.data[rest]
    elif word == "edit":
        memory.history[0]["content"] = rest
    elif word == "fail":
        memory.add("user", rest)
        raise ValueError(rest)
    elif word == "die":
        memory.add("user", rest)
        if task.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    elif word == "unspeakable":
        memory.add("user", object())
    elif word == "fill":
        memory.add("user", "x" * int(rest))
    elif word == "end":
        memory.expires_in(None if rest == "never" else float(rest))
    elif word == "look":
        return {
            "session": task.session,
            "turns": memory.turns,
            "history": [message["content"] for message in memory.history],
            "variables": memory.variables,
            "data": memory.data,
        }
    return memory.turns


async def asynchronous(task: Task) -> object:
    if task.objective.startswith("wait"):
        task.memory.add("user", "never")
        await task.progress(0.5, "waits")
        await asyncio.Event().wait()
    return act(task)


def synchronous(task: SyncTask) -> object:
    return act(task)


agent.task(synchronous if "sync" in sys.argv[1:] else asynchronous)

if __name__ == "__main__":
    agent.run()
