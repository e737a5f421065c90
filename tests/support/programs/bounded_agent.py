"""An agent for the tests of boundaries and delegation: the objective says what it does, the input with what."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from corral.worker import Agent, CorralError, Result, Task

agent = Agent("bounded")

LEFT: list[asyncio.Future[Result]] = []


def told(found: Any) -> Any:
    if isinstance(found, CorralError):
        return found.to_record()
    return {"id": found.id, "output": found.output}


@agent.task
async def run(task: Task) -> Any:
    given: Any = task.input
    word = task.objective
    if word == "echo":
        return given
    if word == "pid":
        return os.getpid()
    if word == "boundaries":
        return {**task.boundaries, "output_format": task.output_format}
    if word == "use":
        task.usage(tokens=given.get("tokens", 0), cost_cents=given.get("cents", 0.0))
        if given.get("then") == "wait":
            await asyncio.Event().wait()
        while given.get("then") == "hold":  # lets nobody cancel it
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        return "used"
    if word == "wait":
        await task.progress(0.5, "waits")
        await asyncio.Event().wait()
    if word == "raise":
        raise ValueError(given)
    if word == "big":
        return "x" * given
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "meet":  # ends when the other one is there, too
        here, there = (Path(each) for each in given)
        here.touch()
        while not there.exists():
            await asyncio.sleep(0.01)
        return here.name
    if word == "tools":
        return [tool["name"] for tool in await task.tools()]
    if word == "socket":  # as a process in the worker's tree may ask
        reader, writer = await asyncio.open_unix_connection(given["path"], limit=1 << 20)
        request = {"jsonrpc": "2.0", "id": 1, "method": given["method"], "params": given["params"]}
        writer.write(json.dumps(request).encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        return answer.get("error", {}).get("code", "ok")
    if word == "tool":
        return (await task.tool(given, text="x")).text
    if word == "delegate":
        return told(await task.delegate(**given))
    if word == "delegate-all":
        return [told(each) for each in await task.delegate_all(**given)]
    if word == "lengths":
        found = await task.delegate_all(**given)
        return [len(each.output) if isinstance(each, Result) else each.to_record() for each in found]
    if word == "leave":  # returns while a child is in work
        LEFT.append(asyncio.ensure_future(task.delegate("crew", "wait")))
        return told(await task.delegate("crew", "echo"))
    if word == "after me":
        return told(await task.delegate(given, "echo", after=[task.id]))
    if word == "myself":
        return told(await task.delegate(task.agent, "myself", idempotency_key=given, input=given))
    if word == "in turn":
        return [told(await task.delegate(**each)) for each in given]
    if word == "down":  # goes on to delegate as deep as it may
        return told(await task.delegate(task.agent, "down"))
    if word == "both":  # when the other one is about to delegate to us, so do we
        here, there = (Path(each) for each in given["meet"])
        here.touch()
        while not there.exists():
            await asyncio.sleep(0.01)
        return told(await task.delegate(given["agent"], "echo", input="done"))
    return None
