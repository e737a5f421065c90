"""An agent whose tasks do what their input says, and which says how often each of them was given to it.

They take some seconds, or wait for the event `upgrade.go`, ask a person, delegate.
"""

import asyncio
from collections import Counter

from corral.worker import Agent, Event, Result, Task

agent = Agent("upgraded")

given: Counter[str] = Counter()

may_go = asyncio.Event()


@agent.task
async def work(task: Task) -> object:
    given[task.id] += 1
    match task.input:
        case {"seconds": seconds}:
            for tenth in range(int(seconds * 10)):
                await task.progress(tenth / (seconds * 10))
                await asyncio.sleep(0.1)
        case {"ask": question}:
            return {"answer": await task.ask(question), **seen(task)}
        case {"delegate": child}:
            return {"child": (await task.delegate("slow", "work", input=child)).output, **seen(task)}
        case {"all": children}:
            tasks = [{"agent": "slow", "objective": "work", "input": child} for child in children]
            found = await task.delegate_all(tasks, max_parallel=2)
            return {"all": [each.output if isinstance(each, Result) else str(each) for each in found], **seen(task)}
        case {"turn": turn}:
            await may_go.wait()
            turns = [*task.memory.data.get("turns", []), turn]
            task.memory.data["turns"] = turns
            return {"turns": turns, **seen(task)}
        case _:
            await may_go.wait()
    print(f"done {task.id}", flush=True)
    return seen(task)


def seen(task: Task) -> dict[str, object]:
    return {"given": given[task.id], "delivery": task.delivery}


@agent.on_event("upgrade.go")
def go(_: Event) -> None:
    may_go.set()


@agent.on_event("upgrade.test")
def hear(event: Event) -> None:
    print(f"heard {event.data}", flush=True)


agent.run()
