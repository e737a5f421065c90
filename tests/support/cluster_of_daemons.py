"""Daemons that are nodes of one cluster, on a real engine, for tests."""

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.cluster.engine.local_servers import LocalServers, program_of
from corral.worker.contract.errors import CorralError, InvalidParams
from daemon_process import AGENTS, BOUND_S, DaemonProcess

LOOK_S = 0.02
"""Seconds between two looks at something that no event tells."""


def engine_or_skip(kind: str) -> None:
    """Skips the test where the engine or its client is not installed."""
    try:
        program_of(kind)
        __import__(kind)
    except (InvalidParams, ImportError) as error:
        pytest.skip(str(error))


def cluster_table(servers: LocalServers, node: str, **keys: object) -> str:
    """Returns `[cluster]` of a node."""
    lines = [f'engine = "{servers.kind}"', f'url = "{servers.url}"', f'node = "{node}"']
    if servers.token:
        lines.append(f'token = "{servers.token}"')
    lines += [f"{key} = {value!r}" for key, value in keys.items()]
    return "\n".join(("[cluster]", *lines, ""))


class Cluster:
    """Holds an engine, and its nodes by name."""

    def __init__(self, folder: Path, servers: LocalServers, stack: ExitStack) -> None:
        self.folder = folder
        self.servers = servers
        self.nodes: dict[str, DaemonProcess] = {}
        self._stack = stack

    def add(
        self,
        name: str,
        config: str = "",
        *,
        prefix: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        **keys: object,
    ) -> DaemonProcess:
        """Starts one more node, and waits until it has a lease; `keys` are those of `[cluster]`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        config = f"{cluster_table(self.servers, name, **keys)}\n{config}"
        started = DaemonProcess(folder, config, prefix=prefix, environ=environ)
        node = self._stack.enter_context(started)
        self.nodes[name] = node
        self.until(lambda: name in names(node))
        return node

    def until(self, is_so: Callable[[], object], bound_s: float = 2 * BOUND_S) -> Any:
        """Returns what `is_so` returns once it is true; a refused call counts as false."""
        end = time.monotonic() + bound_s
        last: object = None
        while time.monotonic() < end:
            try:
                last = is_so()
            except CorralError as error:
                last = error
            else:
                if last:
                    return last
            time.sleep(LOOK_S)
        logs = "\n".join(f"{n}: {each.log.read_text()[-3000:]}" for n, each in self.nodes.items())
        raise AssertionError(f"it never was so; the last answer: {last!r}\n{logs}")


@contextmanager
def cluster_of(folder: Path, kind: Any, nodes: Sequence[str] = (), config: str = "") -> Generator[Cluster]:
    """Starts an engine of one server, and nodes with the same configuration."""
    engine_or_skip(kind)
    (folder / "engine").mkdir()
    with LocalServers(kind, 1, folder / "engine") as servers, ExitStack() as stack:
        found = Cluster(folder, servers, stack)
        for name in nodes:
            found.add(name, config)
        yield found


def until_all_answer(cluster: Cluster) -> None:
    """Waits until all nodes have a lease, and every node knows of all."""
    everyone = sorted(cluster.nodes)
    cluster.until(lambda: all(names(node) == everyone for node in cluster.nodes.values()))


def names(node: DaemonProcess) -> list[str]:
    """Returns the nodes that have a lease, as a node knows them."""
    found = node.call("node.list")["nodes"]
    return [each["name"] for each in found if each["state"] not in ("away", "unknown")]


def placed(folder: Path, name: str = "single") -> str:
    """Returns the table of a placed agent that works in `folder`."""
    return f"""
[agents.{name}]
command = ["{sys.executable}", "{AGENTS / "placed_worker.py"}"]
placement = {{}}
[agents.{name}.config]
folder = "{folder}"
"""


def home_of(cluster: Cluster, agent: str = "single") -> str:
    """Returns the node that runs an agent once it is up."""

    def found() -> object:
        status = next(iter(cluster.nodes.values())).call("daemon.status")
        return next(
            (
                each["node"]
                for each in status["agents"]
                if each["name"] == agent and any(w["pid"] for w in each["workers"])
            ),
            None,
        )

    return str(cluster.until(found))


def began(cluster: Cluster, folder: Path, task: Any) -> None:
    """Waits until the handler of a task has begun."""
    cluster.until((folder / f"began-{task['id']}").exists)
