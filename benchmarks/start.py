"""How long do starts and ends take, and what does an idle corral cost?

The daemon until it is READY, alone and with ten agents; the `corral` command, whole process; an empty
task; memory; the SDK's import; the stop. All against `python -c pass` of the same interpreter.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BIN, BOUND_S, PYTHON, Daemon, Measure

ROUNDS, ROUNDS_QUICK = 15, 1
CALLS, CALLS_QUICK = 100, 10
"""RPC calls in each round."""
SYNCS = 20
SETTLE_S = 0.3
"""Between Ready and a look at the memory."""
WORKERS = 10

CORRAL = str(BIN / "corral")
IMPORT_SDK = "from corral.worker import Agent"
IMPORT_WORKER = "import corral.worker.__main__, corral.worker.sdk.runtime"
IMPORT_DAEMON = "import corral.supervisor.__main__"

AGENT = """
from corral.worker import Agent
agent = Agent("empty")
@agent.task
async def run(task):
    pass
"""

SDK_AGENTS = "".join(f'[agents.empty{n}]\nentrypoint = "empty:agent"\n' for n in range(WORKERS))
NONE_WORKERS = f"""
[agents.sleeper]
command = ["sleep", "1000000"]
protocol = "none"
instances = {WORKERS}
"""

MEASURES = [
    Measure("bare", "`python -c pass`", "ms"),
    Measure("bare_isolated", "`python -I -S -c pass`", "ms", "bare"),
    Measure("version", "`corral --version`", "ms", "bare"),
    Measure("status", "`corral status`", "ms", "bare"),
    Measure("run", "`corral run` of an empty task", "ms", "bare"),
    Measure("fsync", "one append and fsync in the same folder", "ms"),
    Measure("rpc_status", "`daemon.status` over an open socket", "ms", "fsync"),
    Measure("rpc_run", "`task.run` of an empty task over an open socket", "ms", "fsync"),
    Measure("sdk_import", "`from corral.worker import Agent`", "ms", "bare"),
    Measure("worker_import", "all that an SDK worker imports", "ms", "bare"),
    Measure("daemon_import", "all that the daemon imports", "ms", "bare"),
    Measure("ready_empty", "daemon to READY, no agent", "ms", "bare"),
    Measure("ready_agents", f"daemon to READY, {WORKERS} SDK agents", "ms", "bare"),
    Measure("agents_ready", f"daemon to all of {WORKERS} SDK agents Ready", "ms", "bare"),
    Measure("imports_at_once", f"{WORKERS} SDK worker imports at once", "ms", "bare"),
    Measure("none_ready", f"daemon to all of {WORKERS} none-workers Ready", "ms", "bare"),
    Measure("stop_empty", "stop of the daemon, no worker", "ms", "bare"),
    Measure("stop_agents", f"stop with {WORKERS} SDK agents", "ms", "bare"),
    Measure("stop_none", f"stop with {WORKERS} none-workers", "ms", "bare"),
    *(
        Measure(f"{kind}_{name}", f"{kind.upper()} of {what}", "MB", against and f"{kind}_{against}")
        for kind in ("rss", "pss")
        for name, what, against in (
            ("bare", "a bare Python", None),
            ("imports", "a bare Python with the daemon's imports", "bare"),
            ("daemon_empty", "the daemon, no worker", "bare"),
            ("launcher_empty", "the launcher, no worker", "bare"),
            ("daemon_none", f"the daemon, {WORKERS} none-workers", "bare"),
            ("launcher_none", f"the launcher, {WORKERS} none-workers", "bare"),
        )
    ),
]

Part = Callable[[], dict[str, list[float]]]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    rounds, calls = (ROUNDS_QUICK, CALLS_QUICK) if options.quick else (ROUNDS, CALLS)
    machine = bench.Machine()
    with bench.folder() as folder:
        for name in ("resident", "agents"):
            (folder / name).mkdir()
            (folder / name / "empty.py").write_text(AGENT)
        config = '[agents.empty]\nentrypoint = "empty:agent"\n'
        with Daemon(folder / "resident", config) as resident:
            resident.await_ready()
            parts = [*_commands(resident), *_calls(resident, calls, folder), *_daemons(folder)]
            if not options.quick:
                bench.interleaved(1, parts)  # writes what Python compiled, and fills the page cache
            taken = bench.interleaved(rounds, parts)
    bench.report("start", MEASURES, taken, machine, options)


def _commands(resident: Daemon) -> list[Part]:
    """Whole processes, each started, run and waited for."""

    def timed(name: str, *command: str) -> Part:
        return lambda: {name: [bench.process_ms(*command)]}

    here = ["--socket", resident.socket]
    return [
        timed("bare", *PYTHON, "-c", "pass"),
        timed("bare_isolated", PYTHON[0], "-I", "-S", "-c", "pass"),
        timed("version", CORRAL, "--version"),
        timed("status", CORRAL, *here, "status"),
        timed("run", CORRAL, *here, "run", "empty", "nothing"),
        timed("sdk_import", *PYTHON, "-c", IMPORT_SDK),
        timed("worker_import", *PYTHON, "-c", IMPORT_WORKER),
        timed("daemon_import", *PYTHON, "-c", IMPORT_DAEMON),
        lambda: {"imports_at_once": [_at_once_ms()]},
    ]


def _at_once_ms() -> float:
    """What so many workers cost this machine without a daemon that starts them."""
    began = time.perf_counter()
    command = [*PYTHON, "-c", IMPORT_WORKER]
    started = [subprocess.Popen(command, env=bench.ENVIRON) for _ in range(WORKERS)]
    for process in started:
        assert bench.wait(process) == 0
    return (time.perf_counter() - began) * 1000


def _calls(resident: Daemon, count: int, folder: Path) -> list[Part]:
    """Calls over a socket that is open already, one after the other."""

    def call(method: str, params: dict[str, object]) -> list[float]:
        with Client(resident.socket) as client:
            client.call(method, params, timeout_s=BOUND_S)
            return _each_ms(count, lambda: client.call(method, params, timeout_s=BOUND_S))

    def synced(fd: int) -> None:
        os.write(fd, bytes(4096))
        os.fsync(fd)

    def syncs() -> list[float]:
        fd = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return _each_ms(SYNCS, lambda: synced(fd))
        finally:
            os.close(fd)

    task: dict[str, object] = {"agent": "empty", "objective": "nothing"}
    return [
        lambda: {"rpc_status": call("daemon.status", {})},
        lambda: {"rpc_run": call("task.run", task)},
        lambda: {"fsync": syncs()},
    ]


def _each_ms(count: int, do: Callable[[], object]) -> list[float]:
    found: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        do()
        found.append((time.perf_counter() - began) * 1000)
    return found


def _daemons(folder: Path) -> list[Part]:
    """Daemons that are started, looked at and stopped."""

    def empty() -> dict[str, list[float]]:
        with Daemon(folder / "empty", "") as daemon:
            time.sleep(SETTLE_S)
            found = _memory({"daemon_empty": daemon.process.pid, "launcher_empty": daemon.launcher})
            return {"ready_empty": [daemon.ready_ms], "stop_empty": [daemon.stop_ms()], **found}

    def agents() -> dict[str, list[float]]:
        with Daemon(folder / "agents", SDK_AGENTS) as daemon:
            all_ms = daemon.await_ready()
            return {"ready_agents": [daemon.ready_ms], "agents_ready": [all_ms], "stop_agents": [daemon.stop_ms()]}

    def none() -> dict[str, list[float]]:
        with Daemon(folder / "none", NONE_WORKERS) as daemon:
            all_ms = daemon.await_ready()
            time.sleep(SETTLE_S)
            found = _memory({"daemon_none": daemon.process.pid, "launcher_none": daemon.launcher})
            return {"none_ready": [all_ms], "stop_none": [daemon.stop_ms()], **found}

    def bare() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for name, program in (("bare", ""), ("imports", IMPORT_DAEMON)):
            found |= _held(name, [*PYTHON, "-c", f"{program}\nprint()\ninput()"])
        return found

    return [empty, agents, none, bare]


def _held(name: str, command: Sequence[str]) -> dict[str, list[float]]:
    """The memory of a Python that has done its imports and waits."""
    with subprocess.Popen(command, env=bench.ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "asked for"
        process.stdout.readline()
        found = _memory({name: process.pid})
        process.communicate(b"\n", timeout=BOUND_S)
    return found


def _memory(pids: dict[str, int]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, pid in pids.items():
        rss, pss = bench.memory_mb(pid)
        found |= {f"rss_{name}": [rss], f"pss_{name}": [pss]}
    return found


if __name__ == "__main__":
    main()
