"""How do corral's costs grow with workers, tasks, subscribers and logs, and what breaks first beyond?

From 10 to 1,000 workers, 1,000 to 1,000,000 tasks that wait, as many that have ended, 1 to 100 subscribers. Each cost is measured at
each size, and told as the power that it grows with between the two greatest: 1 is linear, 0 not at all. Processor
time is that of the daemon, for a start of workers that of its launcher, too. Beyond is reckoned, from what each worker takes and what this machine has.
"""

import contextlib
import math
import os
import resource
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tasks.run.table import Records
from corral.worker.client.sync import Client
from corral.worker.contract.records import Task, TaskState

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S, Daemon, Measure, Rounds

import workers
from workers import Births


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    workers: tuple[int, ...]
    tasks: tuple[int, ...]
    subscribers: tuple[int, ...]
    calls: int
    events: int
    settle_s: float
    """After the last main(): then all are Ready, and what their start cost is over."""


WHOLE = Size(3, (10, 100, 1000), (1_000, 10_000, 100_000, 1_000_000), (1, 10, 100), 10, 500, 1.5)
QUICK = Size(1, (2, 8), (100, 400), (1, 3), 2, 20, 0.3)

LINES = 100
"""In the log of each worker."""

TAKEN = 500
"""Tasks that are done of those that wait."""

CHUNK = 10_000

WORSE = 1.15
"""A power above this is worse than linear: what is below may be chance."""

AGENT = """
from corral.worker import Agent
agent = Agent("empty")
@agent.task
async def run(task):
    pass
"""

TASKS_CONFIG = """
[agents.empty]
entrypoint = "empty:agent"
autostart = false
tasks.max_queue_size = 10000000
resources.max_concurrent_requests = 32
"""

Found = dict[str, list[float]]
Part = Callable[[], Found]


@dataclass(frozen=True)
class Row:
    """A cost, and what it grows with."""

    name: str
    what: str
    unit: str
    axis: str
    """A field of Size."""


ROWS = (
    Row("start", "start of {n} workers to the last main()", "ms", "workers"),
    Row("start_cpu", "processor time of the start of {n} workers", "ms", "workers"),
    Row("stop", "end of corrald with {n} workers", "ms", "workers"),
    Row("status", "processor time of `daemon.status` of {n} workers", "ms", "workers"),
    Row("pss", "PSS of corrald and launcher beyond that of none, {n} workers", "MB", "workers"),
    Row("read", "processor time of the last 100 lines of the logs of {n} workers", "ms", "workers"),
    Row("fanout", "processor time of an event that {n} subscribers hear", "ms", "subscribers"),
    Row("queue_ready", "processor time of corrald to READY, {n} tasks wait", "ms", "tasks"),
    Row("queue_pss", "PSS of corrald, {n} tasks wait", "MB", "tasks"),
    Row("queue_submit", "processor time of `task.submit`, {n} tasks wait", "ms", "tasks"),
    Row("queue_status", "processor time of `daemon.status`, {n} tasks wait", "ms", "tasks"),
    Row("queue_list", "processor time of `task.list`, the newest 100 of {n} that wait", "ms", "tasks"),
    Row("queue_take", "processor time of a task of {n} that wait", "ms", "tasks"),
    Row("ended_ready", "processor time of corrald to READY, {n} tasks have ended", "ms", "tasks"),
    Row("ended_pss", "PSS of corrald, {n} tasks have ended", "MB", "tasks"),
    Row("ended_run", "processor time of `task.run`, {n} tasks have ended", "ms", "tasks"),
    Row("ended_list", "processor time of `task.list`, the newest 100 of {n} that have ended", "ms", "tasks"),
)


def main() -> None:
    options = bench.arguments(__doc__ or "")
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    with bench.folder() as folder:
        births = Births(folder / "births")
        worker = workers.command(workers.compiled(folder), births)
        crowd = Crowd(folder / "crowd", births, worker, size)
        parts: list[Part] = [partial(crowd.part, count) for count in size.workers]
        parts += [partial(_fanout, folder / "fanout", count, size) for count in size.subscribers]
        for count in size.tasks:
            parts += [_Waiting(folder / f"waiting{count}", count, size).part]
            parts += [_Ended(folder / f"ended{count}", count, size).part]
        taken = bench.interleaved(size.rounds, parts)
    measures = _measures(size, taken)
    bench.report("growth", measures, taken, machine, options, _notes(size, taken))


# --- powers ---------------------------------------------------------------------------------------


def _measures(size: Size, taken: Rounds) -> list[Measure]:
    """The rows of every size, and after them their power, which is put into `taken`."""
    rows: list[Measure] = []
    for row in ROWS:
        sizes: tuple[int, ...] = getattr(size, row.axis)
        names = [f"{row.name}_{count}" for count in sizes]
        for name, count in zip(names, sizes, strict=True):
            rows.append(Measure(name, row.what.format(n=f"{count:,}"), row.unit))
        power = f"{row.name}_power"
        per_round = zip(*(taken[name] for name in names), strict=True)
        taken[power] = [[_power(sizes, list(map(statistics.median, each)))] for each in per_round]
        rows.append(Measure(power, f"{row.what.format(n='n')}: grows with n to the", "power"))
    return rows


def _power(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope between the two greatest sizes, on logarithmic scales.

    What is the same at every size hides how the rest grows; it does so least where there is most.
    """
    less, most = (math.log(max(cost, 1e-3)) for cost in costs[-2:])
    return (most - less) / math.log(sizes[-1] / sizes[-2])


def _notes(size: Size, taken: Rounds) -> list[str]:
    """What is worse than linear, and what breaks first beyond."""
    powers = {
        row.name: statistics.median(value for each in taken[f"{row.name}_power"] for value in each) for row in ROWS
    }
    worse = [f"{name} ({power:.2f})" for name, power in powers.items() if power > WORSE]
    told = f"worse than linear (a power above {WORSE:g}): {', '.join(worse) or 'nothing'}"
    return [told, _breaks(size, taken)]


def _breaks(size: Size, taken: Rounds) -> str:
    """At how many workers each thing that workers take would be used up, the first one first."""
    most = max(size.workers)
    median = {name: statistics.median(value for each in values for value in each) for name, values in taken.items()}
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    memory_mb = _meminfo_mb("MemTotal")
    cores = os.cpu_count() or 1
    limits = {
        f"descriptors of corrald ({median['fds_each']:.1f} each, {descriptors:,} may be open)": (
            descriptors / max(median["fds_each"], 0.01)
        ),
        f"pids ({_pids():,}, one each)": float(_pids()),
        f"memory ({memory_mb / 1024:.0f} GiB; corrald, launcher and a worker that does nothing take"
        f" {median['memory_each']:.0f} kB each)": memory_mb * 1000 / max(median["memory_each"], 1),
        f"memory, were each an SDK worker of its own of {SDK_MB:.0f} MB": memory_mb / SDK_MB,
        f"idle corrald, one core of {cores} ({median['idle_each']:.4f} % each)": (100 / max(median["idle_each"], 1e-4)),
    }
    power = median["status_power"]
    if power > 0.5:  # else it has hardly grown, and says nothing
        slow = most * (1000 / median[f"status_{most}"]) ** (1 / power)
        limits[f"a `daemon.status` of a second (it grows with the power {power:.2f})"] = slow
    told = [f"{count:,.0f} workers: {what}" for what, count in sorted(limits.items(), key=_second)]
    return "reckoned, beyond that breaks first: " + "; ".join(told)


SDK_MB = 13.0
"""PSS of a worker of the SDK beside others."""


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _meminfo_mb(name: str) -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{name}:"))


def _pids() -> int:
    """The least of what the kernel and our own group allow."""
    kernel = Path("/proc/sys/kernel")
    found = [int((kernel / name).read_text()) for name in ("pid_max", "threads-max")]
    group = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
    with contextlib.suppress(OSError, ValueError):
        found.append(int(Path(f"/sys/fs/cgroup{group}/pids.max").read_text()))
    return min(found)


# --- workers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crowd:
    """A daemon with so many workers, whose logs have lines in them."""

    folder: Path
    births: Births
    worker: list[str]
    size: Size

    def part(self, count: int) -> Found:
        """One life of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._log(count)
        command = ", ".join(f'"{word}"' for word in self.worker)
        config = workers.CONFIG.format(name="sleeper", workers=count, command=command)
        none_mb, none_fds = self._none()
        with Daemon(self.folder, config) as daemon:
            last = self.births.last(count)
            pids = [daemon.process.pid, daemon.launcher]
            cpu_ms = sum(map(workers.cpu_s, pids)) * 1000
            time.sleep(self.size.settle_s)
            pss_mb = sum(bench.memory_mb(pid)[1] for pid in pids)
            found: Found = {
                "start": [(last - daemon.began) * 1000],
                "start_cpu": [cpu_ms],
                "pss": [max(pss_mb - none_mb, 0.001)],
            }
            with Client(daemon.socket) as client:
                found["status"] = _cost_ms(daemon, client, self.size.calls, "daemon.status", {})
                found["read"] = _cost_ms(daemon, client, self.size.calls, "log.read", {"n": 100})
                status: Any = client.call("daemon.status", {}, timeout_s=BOUND_S)
            if count == max(self.size.workers):
                pid = status["agents"][0]["workers"][0]["pid"]
                own_kb = bench.memory_mb(pid)[1] * 1000
                found |= {
                    "fds_each": [(_descriptors(daemon) - none_fds) / count],
                    "memory_each": [own_kb + (pss_mb - none_mb) * 1000 / count],
                    "idle_each": [_idle_percent(pids, 2 * self.size.settle_s) / count],
                }
            found["stop"] = [daemon.stop_ms()]
        return {name if name.endswith("_each") else f"{name}_{count}": values for name, values in found.items()}

    def _none(self) -> tuple[float, int]:
        """Memory and descriptors without a worker."""
        with Daemon(self.folder.parent / "none", "") as daemon:
            time.sleep(self.size.settle_s)
            pids = (daemon.process.pid, daemon.launcher)
            return sum(bench.memory_mb(pid)[1] for pid in pids), _descriptors(daemon)

    def _log(self, count: int) -> None:
        """What each worker has printed in an earlier life."""
        state = self.folder / "state"
        state.mkdir(parents=True, mode=0o700)
        store = LogStore(state / "logs")
        for number in range(count):
            writer = store.writer("sleeper", f"sleeper-{number}", LogLimits(1 << 20, 5))
            writer.begin()
            stream = writer.stream("stdout")
            stream.write(b"".join(b"line %d of %d\n" % (line, number) for line in range(LINES)))
            stream.close()
            store.release(writer)
        store.close()


def _descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def _idle_percent(pids: Sequence[int], passed_s: float) -> float:
    began, before_s = time.monotonic(), sum(map(workers.cpu_s, pids))
    time.sleep(passed_s)
    return 100 * (sum(map(workers.cpu_s, pids)) - before_s) / (time.monotonic() - began)


def _cost_ms(daemon: Daemon, client: Client, count: int, method: str, params: Mapping[str, object]) -> list[float]:
    """The daemon's processor time for one of so many calls, on a busy machine, too."""
    pid = daemon.process.pid
    client.call(method, dict(params), timeout_s=BOUND_S)
    before_s = workers.cpu_s(pid)
    for _ in range(count):
        client.call(method, dict(params), timeout_s=BOUND_S)
    return [(workers.cpu_s(pid) - before_s) * 1000 / count]


# --- events ---------------------------------------------------------------------------------------


def _fanout(folder: Path, count: int, size: Size) -> Found:
    """Events that somebody publishes, told to so many connections; what one costs the daemon."""
    shutil.rmtree(folder, ignore_errors=True)
    with Daemon(folder, "") as daemon, contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(Client(daemon.socket)) for _ in range(count)]
        for listener in listeners:
            listener.call("event.follow", {"types": ["growth.*"]}, timeout_s=BOUND_S)
        before_s = workers.cpu_s(daemon.process.pid)
        with Client(daemon.socket) as client:
            for number in range(size.events):
                params: dict[str, object] = {"type": "growth.told", "data": {"number": number}}
                client.call("event.publish", params, timeout_s=BOUND_S)
        for listener in listeners:
            _await_events(listener, size.events)
        used_s = workers.cpu_s(daemon.process.pid) - before_s
    return {f"fanout_{count}": [used_s * 1000 / size.events]}


def _await_events(client: Client, count: int) -> None:
    """Until so many events have been told."""
    for notification in client.notifications():
        told: Any = notification.params
        count -= len(told["events"])
        if count <= 0:
            return


# --- tasks ----------------------------------------------------------------------------------------


@dataclass
class _Stored:
    """A store with so many tasks."""

    folder: Path
    count: int
    size: Size
    state: TaskState = "queued"

    def prepare(self) -> None:
        """Makes the store, by a daemon and by the statement that it writes tasks with."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / "empty.py").write_text(AGENT)
        with Daemon(self.folder, TASKS_CONFIG):
            pass
        records = Records.__new__(Records)  # no store: only what it would write
        created = time.time() - 3600
        path = self.folder / "state" / "corral.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            sql = records.statements(_task(0, "queued", created), created)[0][0]
            for first in range(0, self.count, CHUNK):
                numbers = range(first, min(first + CHUNK, self.count))
                rows = [self._row(records, number, created) for number in numbers]
                connection.execute("BEGIN")
                connection.executemany(sql, rows)
                connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _row(self, records: Records, number: int, created: float) -> object:
        at = created + number * 1800 / self.count
        ((_, values), *_) = records.statements(_task(number, self.state, at), at)
        return values

    def named(self, found: Found, prefix: str) -> Found:
        """The rows of this size."""
        return {f"{prefix}_{name}_{self.count}": values for name, values in found.items()}


class _Waiting(_Stored):
    """Tasks that wait for an agent that is stopped."""

    def part(self) -> Found:
        """A daemon that finds them, is asked, does some, and gets more."""
        self.prepare()
        with Daemon(self.folder, TASKS_CONFIG) as daemon, Client(daemon.socket) as client:
            calls = self.size.calls
            task = {"agent": "empty", "objective": "nothing"}
            found: Found = {
                "ready": [workers.cpu_s(daemon.process.pid) * 1000],
                "pss": [bench.memory_mb(daemon.process.pid)[1]],
                "status": _cost_ms(daemon, client, calls, "daemon.status", {}),
                "list": _cost_ms(daemon, client, calls, "task.list", {"limit": 100}),
                "take": [self._take_ms(daemon, client)],
            }
            client.call("agent.pause", {"names": ["empty"]}, timeout_s=BOUND_S)
            found["submit"] = _cost_ms(daemon, client, 5 * calls, "task.submit", task)
        shutil.rmtree(self.folder)
        return self.named(found, "queue")

    def _take_ms(self, daemon: Daemon, client: Client) -> float:
        """What each of the first tasks costs the daemon."""
        wanted = min(TAKEN, self.count // 2)
        client.call("event.follow", {"types": ["task.ended"]}, timeout_s=BOUND_S)
        before_s = workers.cpu_s(daemon.process.pid)
        client.call("agent.start", {"names": ["empty"], "wait": False}, timeout_s=BOUND_S)
        _await_events(client, wanted)
        return (workers.cpu_s(daemon.process.pid) - before_s) * 1000 / wanted


class _Ended(_Stored):
    """Tasks that have ended."""

    def part(self) -> Found:
        """A daemon beside them, which is asked, and does more."""
        if not self.folder.exists():  # they stay as they are
            self.state = "succeeded"
            self.prepare()
        with Daemon(self.folder, TASKS_CONFIG) as daemon, Client(daemon.socket) as client:
            calls = self.size.calls
            client.call("agent.start", {"names": ["empty"]}, timeout_s=BOUND_S)
            task = {"agent": "empty", "objective": "nothing"}
            found: Found = {
                "ready": [workers.cpu_s(daemon.process.pid) * 1000],
                "run": _cost_ms(daemon, client, 5 * calls, "task.run", task),
                "list": _cost_ms(daemon, client, calls, "task.list", {"limit": 100}),
                "pss": [bench.memory_mb(daemon.process.pid)[1]],
            }
        return self.named(found, "ended")


def _task(number: int, state: TaskState, created: float) -> Task:
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(created))
    has_ended = state != "queued"
    return Task(
        id=f"{number:06x}{(number * 0x9E3779B1) & 0xFFFFFF:06x}"[::-1],
        agent="empty",
        worker="empty-0" if has_ended else None,
        state=state,
        attempt=int(has_ended),
        objective=f"Summarise chapter {number} of the report",
        input={"chapter": number, "path": f"/srv/reports/{number}.md"},
        created_at=at,
        started_at=at if has_ended else None,
        finished_at=at if has_ended else None,
        duration_s=0.5 if has_ended else None,
    )


if __name__ == "__main__":
    main()
