"""The agent of the chaos runs, who keeps a journal of every attempt that no daemon has a hand in.

`FOLDER/journal` has a line for what each attempt does: `begun TASK ATTEMPT` before anything else, `done TASK ATTEMPT` at
its end, and `overlap TASK ATTEMPT` where another process is at the same task now: each holds a lock on a file of
its task, which the kernel gives back when the process is dead, and not before.
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager

from corral.worker import Agent, SyncTask

agent = Agent("toiler")


@agent.task
def toil(task: SyncTask) -> object:
    given = task.input
    with _noted(task, given["folder"]):
        answer = {"number": given["number"]}
        time.sleep(given["work_s"])
        if given["delegates"]:
            order = {**given, "delegates": False}
            answer["child"] = task.delegate("helper", "help", input=order).id
        if task.session is not None:
            turn = task.memory.variables.get("turns", 0) + 1
            task.memory.variables["turns"] = answer["turn"] = turn
            task.memory.add("user", f"{task.id} is turn {turn}")
        return answer


@contextmanager
def _noted(task: SyncTask, folder: str) -> Generator[None]:
    journal = os.open(f"{folder}/journal", os.O_WRONLY | os.O_APPEND)
    lock = os.open(f"{folder}/locks/{task.id}", os.O_RDWR | os.O_CREAT, 0o666)

    def note(what: str) -> None:  # one write, whole whoever is killed
        os.write(journal, f"{what} {task.id} {task.attempt}\n".encode())

    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("overlap")
        note("begun")
        yield
        note("done")
    finally:
        os.close(journal)
        os.close(lock)
