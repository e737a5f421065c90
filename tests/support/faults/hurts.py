"""Hurts nodes and servers of a cluster at random, from a seed; each hurt is taken back, and another one may come meanwhile."""

import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, contextmanager

from cluster_of_daemons import Cluster
from corral.worker.contract.errors import SpawnFailed
from daemon_process import DaemonProcess
from faults import disk
from faults.place import Places

JUMPS_S = (-86_400.0, -600.0, -10.0, 10.0, 600.0, 86_400.0)
"""Seconds of the jumps of a wall clock."""

WITHIN = 0.3
"""Share of the hurts during which another one comes."""

Way = Callable[[], AbstractContextManager[None]]


class Hurts:
    """Hurts a cluster.

    Args:
        cluster: its nodes and servers.
        places: their networks, clocks and disks.
        seed: of all choices.
        lease_s: seconds of a lease.
        only: the names of the ways; all if empty.
    """

    def __init__(self, cluster: Cluster, places: Places, seed: int, lease_s: float, only: Collection[str] = ()) -> None:
        self._cluster = cluster
        self._places = places
        self._rng = random.Random(seed)
        self._lease_s = lease_s
        self._only = only
        self._busy: set[str] = set()
        self._is_older: set[str] = set()
        self.counts: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Hurts one after the other until the time is over, and all are well again."""
        ways = self.ways()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._rng.uniform(0.5, 1.5 * self._lease_s))
            with self._named(self._rng.choice(ways)):
                self._last()
                if self._rng.random() < WITHIN:
                    with self._named(self._rng.choice(ways)):
                        self._last()

    def ways(self) -> list[Way]:
        """Returns the ways of which there is the means."""
        found: list[Way] = [self.kill_node, self.freeze_node, self.stop_node]
        found += [self.kill_server, self.freeze_server]
        places = self._places
        if places.network is not None:
            found += [self.cut_node, self.mute_node, self.cut_server]
            if len(places.servers) > 1:
                found.append(self.part_servers)
        if places.disks:
            found += [self.fill_node, self.fill_server]
        if places.clocks:
            found.append(self.move_node_clock)
            if self._cluster.servers.kind == "redis":
                found.append(self.move_server_clock)
        if places.older:
            found.append(self.other_version)
        return [way for way in found if not self._only or name_of(way) in self._only]

    # -- nodes

    @contextmanager
    def kill_node(self) -> Generator[None]:
        """Kills a daemon, and starts it again."""
        with self._node() as (_, node):
            node.kill()
            yield
            node.start()

    @contextmanager
    def stop_node(self) -> Generator[None]:
        """Stops a daemon in order, and starts it again."""
        with self._node() as (_, node):
            node.stop()
            yield
            node.start()

    @contextmanager
    def other_version(self) -> Generator[None]:
        """Stops a daemon in order, and starts the other version."""
        with self._node() as (name, node):
            node.stop()
            yield
            self._is_older ^= {name}
            more = self._places.older if name in self._is_older else {}
            node.environ = {**self._places.environ(name), **more}
            node.start()

    @contextmanager
    def freeze_node(self) -> Generator[None]:
        """Freezes a daemon, not its launcher, for longer than its lease."""
        with self._node() as (_, node):
            assert node.process is not None, "it runs"
            node.process.send_signal(signal.SIGSTOP)
            time.sleep(self._lease_s)
            yield
            node.process.send_signal(signal.SIGCONT)

    @contextmanager
    def cut_node(self) -> Generator[None]:
        """Cuts a node off from all others."""
        assert self._places.network is not None, "it has one"
        with self._node() as (name, _):
            self._places.network.cut(name)
            yield
            self._places.network.heal(name)

    @contextmanager
    def mute_node(self) -> Generator[None]:
        """Makes the answers of a server to a node vanish: what the node sends arrives."""
        network = self._places.network
        assert network is not None, "it has one"
        with self._node() as (name, _):
            for server in self._places.servers:
                network.mute(server, name)
            yield
            for server in self._places.servers:
                network.unmute(server, name)

    @contextmanager
    def fill_node(self) -> Generator[None]:
        """Fills the disk of a node."""
        with self._node() as (name, _):
            disk.fill(self._places.disks[name])
            yield
            disk.free(self._places.disks[name])

    @contextmanager
    def move_node_clock(self) -> Generator[None]:
        """Moves the wall clock of a node; it stays there."""
        with self._node() as (name, _):
            self._places.clocks[name].move(self._rng.choice(JUMPS_S))
            yield

    # -- servers

    @contextmanager
    def kill_server(self) -> Generator[None]:
        """Kills a server, and starts it again."""
        with self._server() as number:
            self._cluster.servers.kill(number)
            yield
            self._start(number)

    @contextmanager
    def freeze_server(self) -> Generator[None]:
        """Freezes a server."""
        with self._server() as number:
            self._cluster.servers.signal(number, signal.SIGSTOP)
            yield
            self._cluster.servers.signal(number, signal.SIGCONT)

    @contextmanager
    def cut_server(self) -> Generator[None]:
        """Cuts a server off from all others, and from the nodes."""
        assert self._places.network is not None, "it has one"
        with self._server() as number:
            self._places.network.cut(self._places.servers[number])
            yield
            self._places.network.heal(self._places.servers[number])

    @contextmanager
    def part_servers(self) -> Generator[None]:
        """Cuts two servers off from each other; both have the third, and the nodes."""
        assert self._places.network is not None, "it has one"
        two = self._rng.sample(self._places.servers, 2)
        with self._taken("parted"):
            self._places.network.part(two)
            yield
            self._places.network.join(two)

    @contextmanager
    def fill_server(self) -> Generator[None]:
        """Fills the disk of a server; one that has ended, or switched its store off, is started again."""
        with self._server() as number:
            folder = self._places.disks[self._places.servers[number]]
            disk.fill(folder)
            yield
            disk.free(folder)
            has_ended = self._cluster.servers.processes[number].poll() is not None
            if has_ended or self._cluster.servers.kind == "nats":
                self.counts["started_after_full_disk"] += 1
                self._cluster.servers.kill(number)
                self._start(number)

    @contextmanager
    def move_server_clock(self) -> Generator[None]:
        """Moves the wall clock of the server; it stays there."""
        self._places.clocks["servers"].move(self._rng.choice(JUMPS_S))
        yield

    # -- which one, and how long

    def _last(self) -> None:
        time.sleep(self._rng.choice([0.0, self._rng.uniform(0.0, 2.0 * self._lease_s)]))

    @contextmanager
    def _named(self, way: Way) -> Generator[None]:
        name = name_of(way)
        try:
            with way():
                self.counts[name] += 1
                yield
        except _NoneFree:
            yield
        print(f"{time.strftime('%X')} {name}", file=sys.stderr, flush=True)

    def _start(self, number: int) -> None:
        servers = self._cluster.servers
        for _ in range(3):
            try:
                servers.start(number)
                servers.wait(number)
                return
            except SpawnFailed as error:  # what it left on a full disk
                print(error, file=sys.stderr)
        raise AssertionError(f"server {number} does not start")

    @contextmanager
    def _taken(self, name: str) -> Generator[None]:
        if name in self._busy:
            raise _NoneFree
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.discard(name)

    @contextmanager
    def _node(self) -> Generator[tuple[str, DaemonProcess]]:
        name = self._rng.choice(list(self._cluster.nodes))
        with self._taken(name):
            yield name, self._cluster.nodes[name]

    @contextmanager
    def _server(self) -> Generator[int]:
        number = self._rng.randrange(self._cluster.servers.count)
        with self._taken(self._places.servers[number]):
            yield number


def name_of(way: Way) -> str:
    """Returns the name of a way."""
    return str(getattr(way, "__name__", ""))


class _NoneFree(Exception):
    """Reports that what would be hurt is hurt already."""
