"""What does the history of metrics cost?

Each daemon has it on and off in turn, by a reload: the same workers, the same memory. Tasks run as fast as one client
sends them, with a step every second, five times as often as by default; beside the rate, the processor time of corrald for
each. A thousand agents of one idle worker each, and a thousand that do not run, have the default interval. The
processor time is that of corrald alone, so that a loaded machine changes it little.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure

from corral.worker.client.sync import Client
from tasks import Flood  # pyright: ignore  # tests/tasks has the same name

ROUNDS, ROUNDS_QUICK = 4, 1
TASKS, TASKS_QUICK = 6_000, 100
AGENTS, AGENTS_QUICK = 1_000, 20
WATCH_S, WATCH_QUICK_S = 15.0, 1.0
"""How long processor time is measured."""
SETTLE_S, SETTLE_QUICK_S = 30.0, 0.1
"""Young workers are looked at more often."""

AT_ONCE = 100
"""Number of tasks that are sent together."""

ECHO = """
from corral.worker import Agent
agent = Agent("echo")
@agent.task
async def run(task):
    task.usage(tokens=10, cost_cents=0.1)
    return task.input
"""

Part = Callable[[], Mapping[str, list[float]]]


def measures(agents: int) -> list[Measure]:
    """The rows of the report."""
    found: list[Measure] = []
    for name, what, unit in (
        ("rate", "tasks, not durable", "1/s"),
        ("task", "processor time of a task", "us"),
        ("idle", f"{agents:,} agents with an idle worker", "% of a core"),
        ("asleep", f"{agents:,} agents that do not run", "% of a core"),
        ("memory", f"memory of corrald with {agents:,} idle workers", "MB"),
    ):
        found.append(Measure(f"{name} off", f"{what}, metrics off", unit))
        found.append(Measure(f"{name} on", f"{what}, metrics on", unit, f"{name} off"))
    return found


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    quick: bool = options.quick
    agents = AGENTS_QUICK if quick else AGENTS
    with bench.folder() as folder:
        rounds: bench.Rounds = {}
        for part in (
            _tasks(folder / "tasks", TASKS_QUICK if quick else TASKS),
            _agents(folder / "idle", "idle", agents, quick=quick),
            _agents(folder / "asleep", "asleep", agents, quick=quick),
        ):
            with part:
                ways = [lambda on=on, part=part: part.round(on=on) for on in (False, True)]
                rounds |= bench.interleaved(ROUNDS_QUICK if quick else ROUNDS, ways)
    bench.report("metrics", measures(agents), rounds, machine, options)


class Toggled:
    """A daemon whose metrics are on or off."""

    def __init__(
        self, where: Path, config: str, settle_s: float, measure: Callable[[Daemon, Client], Mapping[str, float]]
    ) -> None:
        self._where = where
        self._config = config
        self._settle_s = settle_s
        self._measure = measure
        self._daemon: Daemon | None = None

    def __enter__(self) -> "Toggled":
        self._daemon = Daemon(self._where, self._config)
        if "autostart = false" not in self._config:
            self._daemon.await_ready()
        time.sleep(self._settle_s)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._daemon is not None, "it was started"
        self._daemon.__exit__(None, None, None)

    def round(self, *, on: bool) -> Mapping[str, list[float]]:
        """Measures once, with metrics on or off."""
        assert self._daemon is not None, "it was started"
        switch = "" if on else "monitoring.enable_metrics = false\n"
        (self._where / "corral.toml").write_text(switch + self._config)
        with Client(self._daemon.socket) as client:
            client.call("daemon.reload", timeout_s=BOUND_S)
            if on:
                client.call("metrics.latest", timeout_s=BOUND_S)
            word = "on" if on else "off"
            found = self._measure(self._daemon, client)
        return {f"{name} {word}": [value] for name, value in found.items()}


def _tasks(where: Path, count: int) -> Toggled:
    where.mkdir()
    (where / "echo_agent.py").write_text(ECHO)
    config = (
        'monitoring.metrics_interval = "1s"\n[agents.echo]\nentrypoint = "echo_agent:agent"\n'
        f'instances = 2\nprocess.working_directory = "{where}"\n'
    )

    def measure(daemon: Daemon, _client: Client) -> Mapping[str, float]:
        begun, before_s = time.perf_counter(), bench.used_s(daemon.process.pid)
        flood: Callable[[int], object] = Flood(daemon.socket, "echo", durable=False)  # pyright: ignore  # likewise
        for _ in range(0, count, AT_ONCE):
            flood(AT_ONCE)
        passed_s, used_s = time.perf_counter() - begun, bench.used_s(daemon.process.pid) - before_s
        return {"rate": count / passed_s, "task": used_s / count * 1e6}

    return Toggled(where, config, 1.0, measure)


def _agents(where: Path, name: str, count: int, *, quick: bool) -> Toggled:
    start = "" if name == "idle" else "autostart = false\n"
    config = f"process.max_concurrent_processes = {count + 10}\n" + "".join(
        f'[agents.a{number}x]\ncommand = ["sleep", "100000"]\nprotocol = "none"\n{start}' for number in range(count)
    )
    watch_s = WATCH_QUICK_S if quick else WATCH_S

    def measure(daemon: Daemon, _client: Client) -> Mapping[str, float]:
        begun, before_s = time.monotonic(), bench.used_s(daemon.process.pid)
        time.sleep(watch_s)
        used_s, passed_s = bench.used_s(daemon.process.pid) - before_s, time.monotonic() - begun
        found = {name: 100 * used_s / passed_s}
        if name == "idle":
            found["memory"] = bench.memory_mb(daemon.process.pid)[0]
        return found

    return Toggled(where, config, SETTLE_QUICK_S if quick else SETTLE_S, measure)


if __name__ == "__main__":
    main()
