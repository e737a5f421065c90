"""An agent that a cluster places: notes its lives in a journal, and holds a lock that no second life may find taken."""

import fcntl
import os
import time
from pathlib import Path

from corral.worker import Agent, Start, SyncTask

agent = Agent("placed")
held: list[int] = []


@agent.on_start
def begin(start: Start) -> None:
    folder = Path(str(start.config["folder"]))
    lock = os.open(folder / f"{start.agent}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    held.append(lock)  # the kernel gives it back with the process
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        word = "alone"
    except BlockingIOError:
        word = "twice"
    note(folder, word, start.agent, str(start.fencing_token), str(os.getpid()))


@agent.task
def handle(task: SyncTask) -> object:
    folder = Path(str(task.config["folder"]))
    note(folder, "ran", task.id, str(task.fencing_token), str(task.input))
    time.sleep({"slow": 0.5, "brief": 0.1}.get(task.objective, 0.0))
    return {"token": task.fencing_token, "pid": os.getpid(), "input": task.input}


def note(folder: Path, *words: str) -> None:
    with (folder / "journal").open("a") as journal:
        journal.write(" ".join((*words, f"{time.monotonic():.3f}")) + "\n")


if __name__ == "__main__":
    agent.run()
