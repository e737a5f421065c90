"""Hurts the engines of a cluster for a while, and counts: `python -P tests/chaos/engines.py --seconds 600 --seed 7`.

Servers are killed and frozen at random, from the seed, while tasks are appended, taken and ended. Prints a line of JSON for
each setup; exits 1 if a task that was accepted is lost, or one ended twice. An engine that is not installed is left out.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

sys.path += [
    str(Path(__file__).resolve().parents[1]),
    str(Path(__file__).resolve().parents[1] / "support"),
]  # `python -P` leaves it out
import engine_load
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.local_servers import Fsync, LocalServers, program_of
from corral.worker.contract.errors import InvalidParams
from engine_load import Load

SETUPS: tuple[tuple[Literal["nats", "redis"], int, Fsync], ...] = (
    ("nats", 1, "usual"),
    ("nats", 3, "usual"),
    ("redis", 1, "usual"),
    ("redis", 1, "always"),
)


async def _hurt(servers: LocalServers, seed: int, seconds: float) -> int:
    """Hurts one server after the other, until the time is over and all are well again; returns how many times."""
    rng = random.Random(seed)
    hurts = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(rng.uniform(1.0, 6.0))
        number = rng.randrange(servers.count)
        hurts += 1
        if rng.random() < 0.6:
            servers.kill(number)
            await asyncio.sleep(rng.choice([0.0, rng.uniform(0, 4)]))
            servers.start(number)
        else:
            servers.signal(number, signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(0.2, 6.0))
            servers.signal(number, signal.SIGCONT)
    return hurts


def main() -> int:
    """Lives one life for each setup; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each setup")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    failed = 0
    for kind, count, fsync in SETUPS:
        try:
            program_of(kind)
        except InvalidParams as error:
            print(error.message)
            continue
        with tempfile.TemporaryDirectory(prefix="corral-engines-") as folder:
            with LocalServers(kind, count, Path(folder), fsync=fsync) as servers:
                hurts = 0

                async def hurt(_load: Load, _engine: Engine, servers: LocalServers = servers) -> None:
                    nonlocal hurts
                    hurts = await _hurt(servers, options.seed, options.seconds)

                counts = asyncio.run(engine_load.run(servers, hurt))
            print(f"{kind} {count} {fsync}, seed {options.seed}: hurt {hurts} times: {counts}", flush=True)
            failed += bool(counts["lost"] or counts["ended twice"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
