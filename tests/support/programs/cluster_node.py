"""A node of a cluster without agents: keeps its lease, and prints what it may do, each line with the boot clock."""

import asyncio
import sys
import uuid

from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.lease.lease import ELECTION_TIMING, TIMING
from corral.supervisor.cluster.lease.membership import Membership, boot_clock
from corral.supervisor.cluster.lease.record import NodeRecord
from corral.supervisor.config.declared.cluster import ClusterSettings


class Printer:
    def say(self, *words: object) -> None:
        print(f"{boot_clock():.4f}", *words, flush=True)

    def arm(self, kill_at: float) -> None:
        self.say("arm", f"{kill_at:.4f}")

    def run(self, token: int) -> None:
        self.say("run", token)

    def cordon(self) -> None:
        self.say("cordon")

    def stop(self, reason: str) -> None:
        self.say("stop", reason)

    def wait_for(self, other: NodeRecord) -> None:
        self.say("wait", other.incarnation)


async def main(kind: str, url: str, name: str, lease: str = "usual") -> None:
    engine = await open_engine(ClusterSettings(engine=kind, url=url))  # type: ignore[arg-type]  # a word of the Literal
    record = NodeRecord(name=name, incarnation=uuid.uuid4().hex, capacity=7, labels={"zone": "a"})
    timing = ELECTION_TIMING if lease == "election" else TIMING
    await Membership(engine, lambda: record, Printer(), timing=timing).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
