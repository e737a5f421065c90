"""What is a turn of a conversation worth whose agent remembers it?

A turn is one task: the handler reads all messages, as a prompt is made of them, and adds two. Remembered: the daemon
gives it the history of its session, and stores what it adds with the end of the task, synced to the disk. Rebuilt:
an agent without memory has lost its process, so the conversation is handed to it again turn by turn, as it came
about, and then the new turn; once as tasks that are stored, as tasks usually are, and once as tasks that are not. Sent along: the caller keeps the conversation, and sends all
of it as the input of the task, stored as every input is. In all three, one process of the same agent does it, one turn after the other.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure, cpu_s

from corral.worker.client.sync import Client

HERE = Path(__file__).resolve().parent

ROUNDS = 3
LENGTHS, LENGTHS_QUICK = (0, 100, 1_000, 10_000), (0, 100)
"""Messages of the conversation before the turn."""
TURNS, TURNS_QUICK = 10, 3
"""Measured in each round, of a conversation of its own."""
FILLED = 100
"""Messages of one turn when a conversation is made."""

CONFIG = f"""
[memory]
max_session_bytes = "8MiB"
[agents.talker]
entrypoint = "talker:agent"
process.working_directory = "{HERE}"
[agents.plain]
entrypoint = "talker:agent"
process.working_directory = "{HERE}"
memory.compression = false
"""

COLD = CONFIG.replace("[memory]", "[memory]\nmax_pool_bytes = 0")
"""Every session is read from the store."""

Found = dict[str, list[float]]


class Talk:
    """A connection over which tasks are run one after the other."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._client = Client(daemon.socket)
        self._made = 0

    def task(self, objective: str, given: object = None, **more: object) -> None:
        """Runs one to its end."""
        params: dict[str, object] = {"agent": "talker", "objective": objective, "input": given}
        found: Any = self._client.call("task.run", {**params, **more}, timeout_s=BOUND_S)
        assert found["state"] == "succeeded", found["error"]

    def fill(self, agent: str, session: str, length: int) -> None:
        """Makes a conversation."""
        for messages in range(FILLED, length + 1, FILLED):
            self.task("fill", messages, agent=agent, session=session)

    def filled(self, length: int) -> str:
        """A new conversation."""
        self._made += 1
        self.fill("talker", f"made-{self._made}", length)
        return f"made-{self._made}"

    def call(self, method: str, **params: object) -> Any:  # Any: JSON
        """The result of another method."""
        return self._client.call(method, params, timeout_s=BOUND_S)

    def timed(self, count: int, turn: Callable[[], None]) -> tuple[list[float], float]:
        """How long each of so many turns takes, in ms, and the daemon's processor time of one."""
        took: list[float] = []
        used_s = cpu_s(self._daemon.process.pid)
        for _ in range(count):
            began = time.perf_counter()
            turn()
            took.append((time.perf_counter() - began) * 1000)
        return took, (cpu_s(self._daemon.process.pid) - used_s) * 1000 / count


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    lengths, turns = (LENGTHS_QUICK, TURNS_QUICK) if options.quick else (LENGTHS, TURNS)
    with bench.folder() as folder, Daemon(folder / "warm", CONFIG) as warm, Daemon(folder / "cold", COLD) as cold:
        for daemon in (warm, cold):
            daemon.await_ready()
        talks = Talk(warm), Talk(cold)
        parts = [part for length in lengths for part in _parts(*talks, length, turns)]
        taken = bench.interleaved(1 if options.quick else ROUNDS, parts)
        taken.update(_sizes(talks[0], lengths))
    bench.report("memory", _measures(lengths, options.quick), taken, machine, options)


def _parts(warm: Talk, cold: Talk, length: int, turns: int) -> list[Callable[[], Found]]:
    history = [{"role": "user", "content": "x" * 90} for _ in range(length)]

    def remembered() -> Found:
        session = warm.filled(length)
        took, cpu_ms = warm.timed(turns, lambda: warm.task("remembered", session=session))
        return {f"remembered_{length}": took, f"cpu_{length}": [cpu_ms]}

    def read() -> Found:
        session = cold.filled(length)
        took, _ = cold.timed(turns, lambda: cold.task("remembered", session=session))
        return {f"read_{length}": took}

    def sent() -> Found:
        took, _ = warm.timed(turns, lambda: warm.task("given", history))
        return {f"sent_{length}": took}

    def rebuilt(name: str, durable: bool) -> Found:
        warm.task("forget")
        began = time.perf_counter()
        for _ in range(length // 2 + 1):
            warm.task("replayed", "one", durable=durable)
        return {f"{name}_{length}": [(time.perf_counter() - began) * 1000]}

    return [remembered, read, sent, lambda: rebuilt("rebuilt", True), lambda: rebuilt("volatile", False)]


def _sizes(talk: Talk, lengths: tuple[int, ...]) -> bench.Rounds:
    """What conversations of turns of two messages take in the store."""
    found: bench.Rounds = {}
    for agent in ("talker", "plain"):
        for length in lengths:
            session = f"stored-{length}"
            for _ in range(min(length, 1_000) // 2):
                talk.task("remembered", agent=agent, session=session)
            talk.fill(agent, session, length)
            listed = talk.call("memory.sessions", agent=agent, limit=10_000)["sessions"]
            for each in listed:
                if each["session"] == session:
                    found[f"stored_{agent}_{length}"] = [[each["stored_bytes"] / 1000]]
                    found[f"content_{length}"] = [[each["size_bytes"] / 1000]]
    return found


def _measures(lengths: tuple[int, ...], quick: bool) -> list[Measure]:
    rows: list[Measure] = []
    for length in lengths:
        whose = f"a turn after {length:,} messages"
        base = f"remembered_{length}"
        rows += [
            Measure(base, f"{whose}, remembered", "ms"),
            Measure(f"read_{length}", f"{whose}, remembered, read from the store", "ms", base),
            Measure(f"rebuilt_{length}", f"{whose}, rebuilt turn by turn", "ms", base),
            Measure(f"volatile_{length}", f"{whose}, rebuilt by tasks not stored", "ms", base),
            Measure(f"sent_{length}", f"{whose}, sent along", "ms", base),
        ]
        if not quick:  # in three turns the kernel's clock may not have ticked
            what = f"{whose}, remembered: processor time of corrald"
            rows.append(Measure(f"cpu_{length}", what, "ms"))
    for length in lengths:
        if not length:
            continue
        whose = f"{length:,} messages in the store"
        content = f"content_{length}"
        rows += [
            Measure(content, f"{length:,} messages as JSON", "kB"),
            Measure(f"stored_plain_{length}", whose, "kB", content),
            Measure(f"stored_talker_{length}", f"{whose}, compressed", "kB", content),
        ]
    return rows


if __name__ == "__main__":
    main()
