"""An agent for the HTTP tests: the objective names what to do."""

import asyncio
import os

from corral.worker import Agent, Task

agent = Agent("http")


@agent.task
async def run(task: Task) -> object:
    match task.objective:
        case "progress":
            for number in range(3):
                await task.progress(number, f"step {number}", total=3)
                await task.step("look", asyncio.sleep, 0.05)
        case "wait":  # for the file that the input names
            while not os.path.exists(str(task.input)):
                await asyncio.sleep(0.01)
        case "print":
            for line in range(int(str(task.input))):
                print("line", line, flush=True)
        case "fail":
            raise ValueError("it fails")
        case _:
            pass
    return task.input


if __name__ == "__main__":
    agent.run()
