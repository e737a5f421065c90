"""The agent of the chaos runs: notes each attempt in a file before anything else, and works for a moment."""

import os
import time

from corral.worker import Agent, SyncTask

agent = Agent("toiler")


@agent.task
def toil(task: SyncTask) -> object:
    fd = os.open(task.input["begun"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(fd, f"{task.id} {task.attempt}\n".encode())  # one write, whole whoever is killed
    os.close(fd)
    time.sleep(task.input["work_s"])
    return {"number": task.input["number"]}
