"""The agent of the tests of teams and workflows: what it does is the first word of its objective."""

import asyncio
import os
from pathlib import Path
from typing import Any

from corral.worker import Agent, CorralError, Task, TaskFailed

agent = Agent("ensemble", capabilities=os.environ.get("OFFERED", "").split())


@agent.task
async def run(task: Task) -> Any:
    word, _, rest = task.objective.partition(" ")
    if word == "note":  # `rest`: a file that gets a line per run
        with Path(rest).open("a") as file:
            file.write(f"{task.input}\n")
        return task.input
    if word == "gate":  # `rest`: a FIFO; whose input is not "shut" passes
        if task.input == "shut":
            await task.progress(0.5, "waits")
            with await asyncio.to_thread(Path(rest).open, "rb", 0) as fifo:
                await asyncio.to_thread(fifo.read, 1)
        return {"item": task.input, "attempt": task.attempt}
    if word == "use":
        task.usage(tokens=int(rest))
    if word == "wait":
        await task.progress(0.5, "waits")
        await asyncio.Event().wait()
    if word == "fail":
        raise ValueError(rest)
    if word == "fail-long":  # `rest`: of how many characters the longest fact of the error is
        raise TaskFailed("it is long", why="because", what="x" * int(rest))
    if word == "fail-on" and task.agent == rest:
        raise ValueError(rest)
    if word == "context":
        return task.context
    if word == "lead":
        return [await _asked(task, each) for each in task.input]
    return {"agent": task.agent, "input": task.input}


async def _asked(task: Task, whom: dict[str, Any]) -> Any:
    """The output of somebody to whom work is delegated, or the name of the error."""
    try:
        return (await task.delegate(objective="echo", **whom)).output
    except CorralError as error:
        return error.name


if __name__ == "__main__":
    agent.run()
