"""An agent whose import starts a thread and opens a socket, as clients of telemetry do: it cannot be forked."""

import os
import random
import socket
import threading

from corral.worker import Agent, SyncTask

agent = Agent("unfit")
over = threading.Event()
reporter = threading.Thread(target=over.wait, name="telemetry", daemon=True)
reporter.start()
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@agent.task
def run(task: SyncTask) -> dict[str, object]:
    return {"answer": "", "steps": [], "pid": os.getpid(), "random": random.getrandbits(64)}
