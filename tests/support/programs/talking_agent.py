"""Agents that print and log: one task after the other, two at the same time, and one whose first attempt dies."""

import os
import time

from corral.worker import Agent, SyncTask

agent = Agent("talks")
both = Agent("both")
dies = Agent("dies")

LINES = 5


@agent.task
def talk(task: SyncTask) -> str:
    for number in range(LINES):
        print(f"{task.objective} prints {number}", flush=True)
    task.log(f"{task.objective} logs", step=1)
    print(f"{task.objective} prints last", flush=True)
    return task.objective


@both.task
def meet(task: SyncTask) -> str:
    print(f"{task.objective} prints", flush=True)
    while not os.path.exists(str(task.input)):
        time.sleep(0.01)
    task.log(f"{task.objective} logs")
    return task.objective


@dies.task
def die(task: SyncTask) -> str:
    print(f"attempt {task.attempt} prints", flush=True)
    if task.attempt == 1:
        os._exit(3)
    return task.objective
