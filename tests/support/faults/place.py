"""Holds the places of the programs of one cluster: their networks, clocks, disks and versions, as far as this machine can give them."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from corral.supervisor.cluster.engine.local_servers import Fsync, LocalServers, ServerPlaces
from faults import clock, disk, network, versions
from faults.clock import WallClock
from faults.network import Network

TOKEN = "of-the-engine"
PORT = 4222
BOOT_AHEAD_S = 1_000_000
"""Seconds by which the boot clock of one node is ahead of that of another."""

DISK = {"node": "48m", "server": "192m"}


class Places:
    """Makes the places of servers and nodes.

    Args:
        folder: holds all.
        nodes: their names.
        servers: their number.
        older: a commit of which nodes may run, "" for none.
        is_apart: each has a network, a disk and clocks of its own; the caller is in network and mount namespaces that nobody else uses.
        stack: ends them.
    """

    def __init__(
        self, folder: Path, nodes: Sequence[str], servers: int, *, older: str, is_apart: bool, stack: ExitStack
    ) -> None:
        self.folder = folder
        self.nodes = list(nodes)
        self.servers = [f"server-{number}" for number in range(servers)]
        self.network: Network | None = None
        self.clocks: dict[str, WallClock] = {}
        self.disks: dict[str, Path] = {}
        self.older: dict[str, str] = {}
        self._boot_ahead: str = ""
        self._stack = stack
        if older:
            self.older = versions.environ_of(older, folder / "older")
        if not is_apart:
            return
        self.network = stack.enter_context(Network([*self.nodes, *self.servers]))
        if not clock.why_not():
            self.clocks = {name: WallClock(folder, name) for name in (*self.nodes, "servers")}
        if not clock.why_no_boot_clock():
            self._boot_ahead = self.nodes[-1]
        for name in self.nodes:
            self._mount(name, folder / name / "state", DISK["node"])

    def engine(self, kind: Literal["nats", "redis"], fsync: Fsync) -> LocalServers:
        """Returns the servers, which are not started."""
        folder, count = self.folder / "engine", len(self.servers)
        folder.mkdir()
        if self.network is None:
            return LocalServers(kind, count, folder, fsync=fsync)
        for number, name in enumerate(self.servers):
            self._mount(name, folder / f"{kind}-{number}", DISK["server"])
        moved = kind == "redis" and "servers" in self.clocks
        return LocalServers(
            kind,
            count,
            folder,
            fsync=fsync,
            token=TOKEN,
            places=ServerPlaces(
                hosts=[self.network.address(name) for name in self.servers],
                ports=[PORT] * count,
                before=[self.network.before(name) for name in self.servers],
                environ=self.clocks["servers"].environ if moved else {},
            ),
        )

    def _mount(self, name: str, folder: Path, size: str) -> None:
        self.disks[name] = folder
        disk.mount(folder, size)
        self._stack.callback(disk.unmount, folder)

    def prefix(self, node: str) -> tuple[str, ...]:
        """Returns the words in front of the command of a node."""
        inside = () if self.network is None else self.network.before(node)
        ahead = clock.boot_clock(BOOT_AHEAD_S) if node == self._boot_ahead else ()
        return (*inside, *ahead)

    def environ(self, node: str) -> dict[str, str]:
        """Returns more of the environment of a node of this version."""
        return self.clocks[node].environ if node in self.clocks else {}


def why_not_apart() -> str:
    """Returns why programs cannot have networks and disks of their own here, "" where they can."""
    return network.why_not()
