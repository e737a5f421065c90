"""The agent of the system tests: what it does is in the objective of its task."""

import asyncio
import os
import signal
import socket
import sys
import time
from typing import Any

from corral.worker import Agent, Task

agent = Agent("crew", capabilities=["anything"])


@agent.task
async def run(task: Task) -> Any:
    word, _, rest = task.objective.partition(" ")
    if word == "echo":
        print("echoes", task.input)
        return {"input": task.input, "pid": os.getpid(), "attempt": task.attempt}
    if word == "raise":
        raise ValueError(rest)
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "die-once":
        if task.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"attempt": task.attempt}
    if word == "wait":
        await task.progress(0.5, "waits")
        await asyncio.Event().wait()
    if word == "hold":
        await task.progress(0.5, "holds")
        while True:  # lets nobody cancel it
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
    if word == "block":
        await task.progress(0.5, "blocks")
        await asyncio.Event().wait() if rest == "politely" else time.sleep(600)
    if word == "checkpoint":
        if task.attempt == 1:
            await task.save_checkpoint({"done": 3})
            os.kill(os.getpid(), signal.SIGKILL)
        return task.checkpoint
    if word == "stall":
        if task.attempt == 1:
            await asyncio.Event().wait()
        return {"attempt": task.attempt}
    if word == "tool":
        arguments: dict[str, Any] = task.input or {}
        result = await task.tool(rest, check=False, **arguments)
        return {"text": result.text, "is_error": result.is_error}
    if word == "tools":
        return [tool["name"] for tool in await task.tools()]
    if word == "delegate":
        child = await task.delegate(rest, "echo", input=task.input)
        return {"child": child.output}
    if word == "delegate-wait":
        await task.delegate(rest, "wait")
    if word == "delegate-anything":
        child = await task.delegate(None, "echo", capability="anything", input=task.input)
        return {"child": child.output}
    if word == "self":
        await task.delegate(rest, f"self {rest}")
    if word == "remember":
        await task.remember(rest, task.input)
        return None
    if word == "recall":
        return await task.recall(rest)
    if word == "big":
        return "x" * int(rest)
    if word == "connect":
        reader, writer = await asyncio.open_unix_connection(rest)
        writer.write(b'{"jsonrpc":"2.0","id":1,"method":"daemon.status","params":{}}\n')
        answer = await reader.readline()
        writer.close()
        return answer.decode()
    if word == "connect-by-a-dead-child":  # `rest`: the daemon's pid, which looks only afterwards, and its path
        pid, _, path = rest.partition(" ")
        with socket.socket(socket.AF_UNIX) as shared:
            os.kill(int(pid), signal.SIGSTOP)
            connecting = os.fork()
            if connecting == 0:
                shared.connect(path)
                os._exit(0)
            os.waitpid(connecting, 0)
            os.kill(int(pid), signal.SIGCONT)
            shared.sendall(b'{"jsonrpc":"2.0","id":1,"method":"daemon.status","params":{}}\n')
            return shared.recv(100_000).decode()
    if word == "announce":
        await task.publish(rest, task.input)
    return None


if __name__ == "__main__":
    sys.argv[0] = "crew"
    agent.run()
