"""An agent whose tasks take the seconds of their input, and which says how often each of them was given to it."""

import asyncio
from collections import Counter

from corral.worker import Agent, Event, Task

agent = Agent("upgraded")

given: Counter[str] = Counter()


@agent.task
async def work(task: Task) -> object:
    given[task.id] += 1
    seconds = float(task.input["seconds"])
    for tenth in range(int(seconds * 10)):
        await task.progress(tenth / (seconds * 10))
        await asyncio.sleep(0.1)
    print(f"done {task.id}", flush=True)
    return {"given": given[task.id], "delivery": task.delivery}


@agent.on_event("upgrade.test")
def hear(event: Event) -> None:
    print(f"heard {event.data}", flush=True)


agent.run()
