"""What breaks first in a cluster of 1,000 nodes and 100,000 agents?

A simulation by events with the real decisions (supervisor/cluster): each node runs the state machine of its lease, an observer
believes in ends by its own rule, and `placement.choose` finds a node for each agent that lost its own. The engine is a
server that stores a number of writes a second in order, each with a delay, and that loses answers. Failures come at rates of the field,
sped up: a node dies, freezes or is cut off, a server is gone for some seconds. No process, no network, no wall clock; the
time of a decision alone is measured, on this machine.

A row with "writes a second" is an engine of that rate: the least at which no node loses its lease without a fault of its own
tells what a cluster of that size needs.
"""

import heapq
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Measure

from corral.supervisor.cluster.lease.lease import (
    ELECTION_TIMING,
    TIMING,
    Arm,
    Beat,
    Event,
    Failed,
    Granted,
    Lease,
    Observed,
    Run,
    Stop,
    Taken,
    Tick,
    Timing,
    deadline,
    is_over,
    observed,
    over_at,
    step,
    vanished,
)
from corral.supervisor.cluster.placed.placement import Change, Node, Placement, choose, decide

WHOLE = {"rounds": 3, "nodes": 1_000, "agents": 100_000, "life": 60}
QUICK = {"rounds": 2, "nodes": 30, "agents": 600, "life": 20}

RATES = (2_000, 3_000, 5_000, 20_000)
"""Writes a second that the engine stores; one server of JetStream, and of Redis, is between."""

LOST = 0.0001
"""Share of answers that are lost."""

Found = dict[str, list[float]]


class World:
    """A cluster from a seed."""

    def __init__(
        self, seed: int, size: dict[str, int], rate: float, *, outage_s: float = 0.0, timing: Timing = TIMING
    ) -> None:
        self.timing = timing
        self.random = random.Random(seed)
        self.size = size
        self.write_s = 1 / rate
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.now = 0.0
        self.free_at = 0.0  # of the engine's writer
        self.down = (size["life"] / 2, size["life"] / 2 + outage_s)
        self.leases = [Lease() for _ in range(size["nodes"])]
        self.tokens = [0] * size["nodes"]  # in the engine
        self.ends = [0.0] * size["nodes"]
        self.revisions = [0] * size["nodes"]
        self.runs = [False] * size["nodes"]
        self.ends_at = [0.0] * size["nodes"]
        self.dead = [False] * size["nodes"]
        self.frozen_until = [0.0] * size["nodes"]
        self.kill_at = [0.0] * size["nodes"]
        self.revision = 0
        self.faulty: set[int] = set()
        self.innocent = 0
        self.stops = 0
        self.waits: list[float] = []
        self.failovers: list[float] = []
        self.died_at: dict[int, float] = {}
        self.known: dict[int, Observed] = {}
        self.doubles = 0
        self.decisions: list[float] = []
        each = size["agents"] // size["nodes"]
        self.agents: list[list[int]] = [list(range(i * each, (i + 1) * each)) for i in range(size["nodes"])]
        self.moved = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (when, self.count, what))

    def live(self) -> None:
        for i in range(self.size["nodes"]):
            self.at(self.random.random() * 2, lambda i=i: self.tick(i))
        self.at(5.0, self.fate)
        while self.queue and self.now < self.size["life"]:
            self.now, _, what = heapq.heappop(self.queue)
            what()

    # -- a node

    def tick(self, i: int) -> None:
        if self.dead[i]:
            return
        if self.now >= self.frozen_until[i]:
            self.perform(i, Tick())
        self.at(
            max(deadline(self.leases[i], self.timing), self.frozen_until[i], self.now + 0.005), lambda: self.tick(i)
        )

    def perform(self, i: int, event: Event) -> None:
        if self.dead[i]:
            return
        if self.now < self.frozen_until[i]:
            self.at(self.frozen_until[i], lambda: self.perform(i, event))
            return
        self.leases[i], actions = step(self.leases[i], event, self.now, self.timing)
        for action in actions:
            match action:
                case Beat(token=token):
                    self.send(i, token)
                case Arm(kill_at=kill_at):
                    self.kill_at[i] = kill_at
                case Run():
                    self.runs[i] = True
                case Stop():
                    self.runs[i] = False
                    self.ends_at[i] = min(
                        self.now + self.timing.grace_s + self.timing.kill_s, self.kill_at[i] + self.timing.kill_s
                    )
                    self.stops += 1
                    self.innocent += i not in self.faulty
                case _:
                    pass

    def send(self, i: int, token: int) -> None:
        sent_at = self.now
        if self.down[0] <= self.now < self.down[1]:
            self.at(self.now + 0.1, lambda: self.perform(i, Failed(sent_at)))
            return
        self.free_at = max(self.free_at, self.now) + self.write_s
        stored_at = self.free_at + self.random.expovariate(1 / 0.001)
        self.waits.append(stored_at - self.now)
        self.at(stored_at, lambda: self.store(i, token, sent_at))

    def store(self, i: int, token: int, sent_at: float) -> None:
        if self.ends[i] <= self.now:
            self.tokens[i] = 0
        if token == 0 and not self.tokens[i]:
            self.tokens[i] = self.revision + 1
            token = self.tokens[i]
        answer: Event = Taken(sent_at)
        if token and token == self.tokens[i]:
            self.revision += 1
            self.revisions[i] = self.revision
            self.ends[i] = self.now + self.timing.lease_s - self.random.uniform(0, self.timing.early_s)
            ends = self.ends[i]
            self.known[i] = observed(self.known.get(i), self.revision, self.now + 0.001)
            self.at(ends, lambda: self.expire(i, ends))
            answer = Granted(sent_at, token)
        if self.random.random() >= LOST:
            self.at(self.now + 0.0005, lambda: self.perform(i, answer))

    # -- the observer

    def expire(self, i: int, ends: float) -> None:
        if self.ends[i] != ends:
            return
        self.known[i] = vanished(self.known[i])
        self.at(max(self.now, over_at(self.known[i], self.timing)), lambda: self.over(i))

    def over(self, i: int) -> None:
        known = self.known[i]
        if not is_over(known, self.now, self.timing) or not self.agents[i]:
            return
        if self.runs[i] and not self.dead[i] and self.now < self.kill_at[i] + self.timing.kill_s:
            self.doubles += 1  # its launcher has not killed its workers yet
        if i in self.died_at:
            self.failovers.append(self.now - self.died_at.pop(i))
        nodes = [
            Node(f"n{k}", 10_000, len(self.agents[k]))
            for k in range(self.size["nodes"])
            if k != i and self.ends[k] > self.now
        ]
        if not nodes:
            return
        began = time.perf_counter()
        for agent in self.agents[i][:20]:
            choose(f"a{agent}", Placement(), nodes, {})
        self.decisions.append((time.perf_counter() - began) / min(20, len(self.agents[i])) * 1e6)
        targets = [int(node.name[1:]) for node in sorted(nodes, key=lambda each: each.load)]
        for number, agent in enumerate(self.agents[i]):
            self.agents[targets[number % len(targets)]].append(agent)
            self.free_at = max(self.free_at, self.now) + self.write_s  # the assignment is one write
        self.moved += len(self.agents[i])
        self.agents[i] = []

    # -- fate

    def fate(self) -> None:
        """Hurts one node in 1,000 every second: some thousand times the rate of the field."""
        i = self.random.randrange(self.size["nodes"])
        draw = self.random.random()
        self.faulty.add(i)
        if draw < 0.4:
            self.dead[i] = True
            self.runs[i] = False
            self.died_at[i] = self.now
        else:
            self.frozen_until[i] = self.now + self.random.uniform(0.5, 8.0)
        self.at(self.now + self.random.expovariate(1.0), self.fate)


def _life(seed: int, size: dict[str, int]) -> Found:
    found: Found = {}
    for rate in RATES:
        world = World(seed, size, rate)
        world.live()
        found[f"innocent_{rate}"] = [100 * world.innocent / size["nodes"]]
        found[f"wait_{rate}"] = [1000 * _quantile(world.waits, 0.99)]
        if rate == RATES[-1]:
            found["failover"] = world.failovers or [0.0]
            found["decision"] = world.decisions or [0.0]
            found["doubles"] = [100 * world.doubles / size["nodes"]]
            found["beats"] = [len(world.waits) / size["life"]]
            found["moved"] = [world.moved]
    for outage_s in (1.0, 2.0, 5.0):
        world = World(seed, size, RATES[-1], outage_s=outage_s)
        world.live()
        found[f"outage_{outage_s:g}"] = [100 * world.innocent / size["nodes"]]
    world = World(seed, size, RATES[-1], outage_s=5.0, timing=ELECTION_TIMING)
    world.live()
    found["outage_long"] = [100 * world.innocent / size["nodes"]]
    found["failover_long"] = world.failovers or [0.0]
    nodes = {f"n{k}": Node(f"n{k}", 1_000) for k in range(size["nodes"])}
    began = time.perf_counter()
    changes, refusal, _ = decide("agent", Placement(replicas=20, spread="node"), nodes, {})
    assert refusal is None
    assert all(isinstance(change, Change) for change in changes)
    found["decide"] = [(time.perf_counter() - began) * 1e3]
    watched = size["nodes"] * 2.0
    found["watched"] = [watched * size["nodes"]]
    return found


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else 0.0


def main() -> None:
    """Lives the lives, and reports."""
    options = bench.arguments(__doc__ or "")
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    measures = [
        Measure("beats", f"beats of {size['nodes']:,} nodes", "/s"),
        *(Measure(f"wait_{rate}", f"p99 of a beat in the engine, {rate:,} writes a second", "ms") for rate in RATES),
        *(
            Measure(f"innocent_{rate}", f"nodes that stopped without a fault, {rate:,} writes a second", "%")
            for rate in RATES
        ),
        *(
            Measure(f"outage_{each}", f"nodes that stopped as the engine was gone for {each} s", "%")
            for each in ("1", "2", "5")
        ),
        Measure("outage_long", "the same for 5 s, with leases of 10 s", "%"),
        Measure("failover", "a node's death until its agents may start elsewhere", "s"),
        Measure("failover_long", "the same with leases of 10 s", "s"),
        Measure("doubles", "nodes whose agents ran elsewhere at one time", "%"),
        Measure("moved", "agents that moved in a life", "each"),
        Measure("decision", "one agent placed", "µs"),
        Measure("decide", "an agent with 20 replicas placed", "ms"),
        Measure("watched", "messages a second if all nodes watched all beats", "/s"),
    ]
    seeds = iter(range(1, size["rounds"] + 1))

    def life() -> Found:
        seed = next(seeds)
        print(f"seed {seed}", file=sys.stderr)
        return _life(seed, size)

    rounds = bench.interleaved(size["rounds"], [life])
    bench.report("cluster_simulation", measures, rounds, machine, options)


if __name__ == "__main__":
    main()
