"""The agent of the payment runs: pays as the documentation says, and keeps a journal of every beginning.

The bank is a file with a line for each payment. It never refuses to pay twice: the pattern alone prevents that.
"""

import os
import random
import time
from pathlib import Path

from corral.worker import Agent, SyncTask

agent = Agent("payer")


@agent.task
def pay(task: SyncTask) -> object:
    folder = Path(task.input["folder"])
    _append(folder / "journal", f"{task.id} {task.delivery} {task.attempt}")
    ledger = folder / "ledger"
    time.sleep(random.uniform(0.0, task.input["work_s"]))
    if task.delivery > 1 and _is_paid(ledger, task.id):  # an earlier beginning got this far
        return {"paid": task.input["number"], "again": True}
    _append(ledger, task.id)
    time.sleep(random.uniform(0.0, task.input["work_s"]))
    return {"paid": task.input["number"], "again": False}


def _is_paid(ledger: Path, task: str) -> bool:
    return task in ledger.read_text().splitlines()


def _append(file: Path, line: str) -> None:
    """Appends a line by one write, which is whole whoever is killed."""
    opened = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(opened, f"{line}\n".encode())
    finally:
        os.close(opened)
