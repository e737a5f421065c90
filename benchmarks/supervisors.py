"""How does corral keep a thousand programs, beside the supervisors that people use?

supervisord and circus (from PyPI), pm2 (npm), s6 and runit (Debian), and the least in C (`least.c`) keep the same program
(`sleeper.c`), which counts from its own main(): their start, a death and what replaces it, the end of everything, memory,
idle processor time, and a look at all of it by their own command. Each as it is by default, but for the number. They are
put into a temporary folder, or `--peers FOLDER`; with --quick only what is in that folder takes part.
"""

import argparse
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
import peers
from bench import BOUND_S, Daemon, Measure

import workers
from workers import Births


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    workers: int
    calls: int
    kills: int
    kill_s: float
    """No more are killed after this time: some wait a second or more."""
    idle_s: float
    settle_s: float
    """After the last main(): supervisord takes a worker for started after a second."""


WHOLE = Size(rounds=3, workers=1000, calls=5, kills=20, kill_s=10.0, idle_s=10.0, settle_s=2.0)
QUICK = Size(rounds=1, workers=50, calls=2, kills=3, kill_s=2.0, idle_s=0.3, settle_s=1.2)

START_S = 300.0
"""The slowest has started all within this, on a busy machine, too."""

OURS = "corral"

Found = dict[str, list[float]]


@dataclass(frozen=True)
class Place:
    """Where one supervisor keeps how many of what."""

    folder: Path
    worker: list[str]
    count: int

    def services(self) -> Path:
        """A folder of services as s6 and runit want them: their `run` is the worker itself, without a shell."""
        services = self.folder / "services"
        script = f"#!{' '.join(self.worker)}\n"
        for number in range(self.count):
            run = services / f"sleeper{number}" / "run"
            run.parent.mkdir(parents=True)
            run.write_text(script)
            run.chmod(0o755)
        return services


@dataclass(frozen=True)
class Kept:
    """A supervisor that runs."""

    began: float
    """When it was started, by the monotonic clock."""
    pids: Callable[[], list[int]]
    """Of its own processes."""
    stop: Callable[[], object]
    """Asks for the end of everything."""
    look: Callable[[], object] | None = None
    """The command that shows all workers; None where there is none."""


Keeping = Callable[[Place], contextlib.AbstractContextManager[Kept]]


@dataclass
class Keepers:
    """Who takes part, by name, with the words of the table; and why others do not."""

    by_name: dict[str, tuple[str, Keeping]] = field(default_factory=dict[str, tuple[str, Keeping]])
    notes: list[str] = field(default_factory=list[str])
    failed: set[str] = field(default_factory=set[str])

    def part(self, question: "Question", name: str) -> Found:
        """One round of one supervisor; a peer that fails once takes no further part."""
        if name in self.failed:
            return {}
        try:
            return question.part(name, self.by_name[name][1])
        except (AssertionError, OSError) as error:
            if name in (OURS, "c"):
                raise
            self.failed.add(name)
            self.notes.append(f"{name}: left out, it failed: {error}")
            question.births.forget()
            return {}


# --- who keeps ------------------------------------------------------------------------------------


@contextlib.contextmanager
def by_corral(place: Place) -> Generator[Kept]:
    """corrald, its workers captured and watched as by default."""
    command = ", ".join(f'"{word.replace(chr(36), chr(36) * 2)}"' for word in place.worker)
    config = workers.CONFIG.format(name="sleeper", workers=place.count, command=command)
    with Daemon(place.folder / "corral", config) as daemon:
        look = [str(bench.BIN / "corral"), "--socket", daemon.socket, "status"]
        yield Kept(
            daemon.began,
            lambda: [daemon.process.pid, daemon.launcher],
            lambda: daemon.process.send_signal(signal.SIGTERM),
            lambda: bench.process_ms(*look),
        )


@contextlib.contextmanager
def by_least(place: Place, program: Path) -> Generator[Kept]:
    """The least in C."""
    command = [str(program), str(place.count), *place.worker]
    with _running(command, bench.ENVIRON, place.folder) as (began, process):
        yield Kept(began, lambda: [process.pid], process.terminate)


SUPERVISORD = """
[unix_http_server]
file = {folder}/sock
[supervisord]
logfile = {folder}/supervisord.log
pidfile = {folder}/pid
childlogdir = {folder}
minfds = {descriptors}
nodaemon = true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{folder}/sock
[program:sleeper]
command = {command}
process_name = %(process_num)04d
numprocs = {count}
"""


@contextlib.contextmanager
def by_supervisord(place: Place, home: Path) -> Generator[Kept]:
    """supervisord: with as many descriptors as it needs, and no more."""
    path = place.folder / "supervisord.conf"
    path.write_text(
        SUPERVISORD.format(
            folder=place.folder, command=" ".join(place.worker), count=place.count, descriptors=6 * place.count + 256
        )
    )
    command = [str(home / "supervisord"), "-c", str(path)]
    look = [str(home / "supervisorctl"), "-c", str(path), "status"]
    with _running(command, bench.ENVIRON, place.folder) as (began, process):
        yield Kept(began, lambda: [process.pid], process.terminate, partial(_run, look))


CIRCUS = """
[circus]
endpoint = ipc://{folder}/endpoint
pubsub_endpoint = ipc://{folder}/pubsub
[watcher:sleeper]
cmd = {command}
numprocesses = {count}
"""


@contextlib.contextmanager
def by_circus(place: Place, home: Path) -> Generator[Kept]:
    """circusd, which looks after its processes every five seconds."""
    path = place.folder / "circus.ini"
    path.write_text(CIRCUS.format(folder=place.folder, command=" ".join(place.worker), count=place.count))
    ask = [str(home / "circusctl"), "--endpoint", f"ipc://{place.folder}/endpoint"]
    look, stop = partial(_run, [*ask, "list", "sleeper"]), partial(_run, [*ask, "quit"])
    command = [str(home / "circusd"), str(path)]
    with _running(command, bench.ENVIRON, place.folder) as (began, process):
        yield Kept(began, lambda: [process.pid], stop, look)


@contextlib.contextmanager
def by_pm2(place: Place, home: Path) -> Generator[Kept]:
    """pm2's daemon, started by its first command."""
    app = {
        "name": "sleeper",
        "script": place.worker[0],
        "args": place.worker[1:],
        "interpreter": "none",
        "exec_mode": "fork",
        "instances": place.count,
    }
    path = place.folder / "ecosystem.json"
    path.write_text(json.dumps({"apps": [app]}))
    environment = {**peers.environment(), "PM2_HOME": str(place.folder)}
    pm2 = str(home / "pm2")

    def command(*words: str) -> None:
        _run([pm2, *words], environment)

    def daemon() -> list[int]:
        return [int((place.folder / "pm2.pid").read_text())]

    with _running([pm2, "start", str(path)], environment, place.folder) as (began, _):
        try:
            yield Kept(began, daemon, lambda: command("kill"), lambda: command("jlist"))
        finally:
            with contextlib.suppress(OSError, ValueError):
                os.kill(daemon()[0], signal.SIGKILL)  # its workers end with it


@contextlib.contextmanager
def by_s6(place: Place, home: Path) -> Generator[Kept]:
    """s6-svscan, and an s6-supervise for each.

    It looks for that where Debian puts it: so the unpacked package's folder is that folder, in a mount namespace of its own.
    """
    services = place.services()
    environment = peers.debian_environment(home)
    programs = home / "usr/bin"
    within = f'mount --bind "{programs}" /usr/bin && exec /usr/bin/s6-svscan "$@"'
    command = ["unshare", "--mount", "sh", "-c", within, "s6-svscan"]
    stop = [str(programs / "s6-svscanctl"), "-t", str(services)]
    with _running([*command, "-c", str(place.count + 8), str(services)], environment, place.folder) as (began, process):
        yield Kept(began, lambda: _processes_below(process.pid), lambda: _run(stop, environment))


@contextlib.contextmanager
def by_runit(place: Place, home: Path) -> Generator[Kept]:
    """runsvdir, and a runsv for each."""
    services = place.services()
    environment = peers.debian_environment(home)
    look = [str(home / "usr/bin/sv"), "status", *map(str, services.iterdir())]
    command = [str(home / "usr/bin/runsvdir"), str(services)]
    with _running(command, environment, place.folder) as (began, process):
        yield Kept(
            began,
            lambda: _processes_below(process.pid),
            lambda: process.send_signal(signal.SIGHUP),
            lambda: _run(look, environment),
        )


@contextlib.contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str], folder: Path
) -> Generator[tuple[float, subprocess.Popen[bytes]]]:
    """A supervisor in a session of its own; afterwards nothing of that session is left."""
    with (folder / "said").open("ab") as said:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield began, process
    except BaseException:
        sys.stderr.write((folder / "said").read_text(errors="replace")[-4000:])
        raise
    finally:
        # Workers end with their supervisor (see sleeper.c), but for those whose main() came after its end.
        for pid in _processes_below(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(BOUND_S)
        for pid in _of(folder.parent):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _of(folder: Path) -> list[int]:
    """Processes that were started with a name in our folder."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(f"{folder}/") in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def _processes_below(pid: int) -> list[int]:
    """A scanner and the supervisor that it has for each worker."""
    try:
        return [pid, *bench.children(pid)]
    except FileNotFoundError:
        return []


def _run(command: Sequence[str], environment: dict[str, str] = bench.ENVIRON) -> None:
    """A command of a supervisor, to its end. supervisorctl's exit status tells of the workers, not of itself."""
    subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=BOUND_S, check=False
    )


# --- what is measured -----------------------------------------------------------------------------

ROWS = (
    ("start", "start of {n} to the last main()", "ms"),
    ("restart", "kill -9 of a worker to the next main()", "ms"),
    ("stop", "stop of {n}, everything gone", "ms"),
    ("pss", "PSS of all its processes, {n} workers", "MB"),
    ("idle", "CPU of all its processes, {n} idle", "%"),
    ("look", "its own command that shows {n}", "ms"),
)


def measures(size: Size, supervisors: Keepers) -> list[Measure]:
    """Row by row, all beside corral's."""
    return [
        Measure(
            f"{name}_{row}",
            f"{words}: {what.format(n=f'{size.workers:,}')}",
            unit,
            None if name == OURS else f"{OURS}_{row}",
        )
        for row, what, unit in ROWS
        for name, (words, _) in supervisors.by_name.items()
        if not (row == "look" and name in ("c", "s6"))
    ]


@dataclass(frozen=True)
class Question:
    """What is asked of all of them."""

    folder: Path
    size: Size
    births: Births
    worker: list[str]

    def part(self, name: str, keeping: Keeping) -> Found:
        """One round of one supervisor."""
        place = Place(self.folder / name, self.worker, self.size.workers)
        place.folder.mkdir()
        with keeping(place) as kept:
            found, alive = self._kept(kept)
            gone = [os.pidfd_open(pid) for pid in (*alive, *kept.pids())]
            try:
                began = time.monotonic()
                kept.stop()
                _await_ends(gone)
                found["stop"] = [(time.monotonic() - began) * 1000]
            finally:
                for pidfd in gone:
                    os.close(pidfd)
        shutil.rmtree(place.folder)
        return {f"{name}_{row}": values for row, values in found.items()}

    def _kept(self, kept: Kept) -> tuple[Found, set[int]]:
        """All but the end; and which workers live."""
        size = self.size
        born = self.births.next(size.workers, START_S)
        found: Found = {"start": [(max(at for _, at in born) - kept.began) * 1000]}
        time.sleep(size.settle_s)
        pids = kept.pids()
        before_s, began = sum(map(workers.cpu_s, pids)), time.monotonic()
        time.sleep(size.idle_s)
        used_s = sum(map(workers.cpu_s, pids)) - before_s
        found["idle"] = [100 * used_s / (time.monotonic() - began)]
        found["pss"] = [sum(bench.memory_mb(pid)[1] for pid in pids)]
        if kept.look is not None:
            found["look"] = [_ms(kept.look) for _ in range(size.calls)]
        alive = {pid for pid, _ in born}
        found["restart"] = []
        until = time.monotonic() + size.kill_s
        for pid in sorted(alive)[: size.kills]:
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            ((next_pid, at),) = self.births.next()
            found["restart"].append((at - killed) * 1000)
            alive = alive - {pid} | {next_pid}
            if time.monotonic() > until:
                break
        return found, alive


def _ms(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return (time.monotonic() - began) * 1000


def _await_ends(pidfds: Sequence[int]) -> None:
    """Until every one of these processes has ended."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    left = len(pidfds)
    deadline = time.monotonic() + BOUND_S
    while left:
        ended = poll.poll(1000)
        for pidfd, _ in ended:
            poll.unregister(pidfd)
        left -= len(ended)
        assert time.monotonic() < deadline, f"{left} processes do not end"


def _available(where: Path | None, least: Path | None) -> Keepers:
    """Those that can be had, in the order of the table."""
    found = Keepers()
    if least is None:
        found.notes.append("c: no C compiler")
    else:
        found.by_name["c"] = ("C", partial(by_least, program=least))
    found.by_name[OURS] = ("corrald", by_corral)
    sources = {
        "supervisord": (by_supervisord, peers.from_pypi, "supervisor"),
        "circus": (by_circus, peers.from_pypi, "circus"),
        "pm2": (by_pm2, peers.from_npm, "pm2"),
        "s6": (by_s6, peers.from_debian, "s6"),
        "runit": (by_runit, peers.from_debian, "runit"),
    }
    for name, (keeping, get, package) in sources.items():
        if where is None:
            found.notes.append(f"{name}: left out, --quick without --peers installs nothing")
        elif least is None:
            found.notes.append(f"{name}: left out, without a C compiler there is no worker for it")
        elif name == "s6" and os.geteuid() != 0:
            found.notes.append(f"{name}: left out, to give it a mount namespace takes root")
        elif (at := get(where, package)) is None:
            found.notes.append(f"{name}: left out, {package} could not be installed")
        else:
            found.by_name[name] = (name, partial(keeping, home=at))
    return found


def main() -> None:
    options = bench.arguments(__doc__ or "", _add_options)
    size = QUICK if options.quick else WHOLE
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a pidfd of each process
    with bench.folder() as folder:
        births = Births(folder / "births")
        programs = workers.compiled(folder)
        worker = workers.command(programs, births)
        where = options.peers or (None if options.quick else folder / "peers")
        supervisors = _available(where, programs.get("least"))
        chosen = options.only or supervisors.by_name
        supervisors.by_name = {name: each for name, each in supervisors.by_name.items() if name in {OURS, *chosen}}
        machine = bench.Machine()
        question = Question(folder, size, births, worker)
        parts = [partial(supervisors.part, question, name) for name in supervisors.by_name]
        taken = bench.interleaved(size.rounds, parts)
    for name in supervisors.failed:
        del supervisors.by_name[name]
    bench.report("supervisors", measures(size, supervisors), taken, machine, options, supervisors.notes)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", metavar="FOLDER", type=Path, help="where they are, or are put and kept")
    parser.add_argument("--only", metavar="NAME", action="append", help="one of them, beside corral")


if __name__ == "__main__":
    main()
