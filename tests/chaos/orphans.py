"""No orphan, ever: a real corrald is killed in every way there is, again and again, and what is left is counted.

    .venv/bin/python -P tests/chaos/orphans.py [--only NAME] [--rounds 50] [--workers 100] [--containment auto]

What is left is not corral's word: every process of a scenario holds a FIFO (see litter.py) whose end says that all
are dead, and whoever still holds it is found in /proc. One line for each scenario: the time until nothing was
left, and how many outlived the bound. The exit status is 1 when there was one.
"""

import argparse
import contextlib
import os
import random
import resource
import select
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path += [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "support"),
]  # `python -P` leaves out where the harness is

from daemon_process import BOUND_S, DaemonProcess, marked

LITTER = Path(__file__).parent / "litter.py"

NAME = "litter"

GRACE_S = 0.3

LEFT_S = 10.0
"""What lives for so long after the end of its supervisor is an orphan; the promise is shorter, and is printed."""

CONFIG = """
[daemon]
containment = "{containment}"
[process]
max_concurrent_processes = {workers}
shutdown_grace_period = {grace_s}
[recovery]
restart = "always"
max_restart_attempts = 1000
restart_backoff_base = "10ms"
restart_backoff_max = "100ms"
[agents.{name}]
{program}
instances = {workers}
autostart = false
"""

COLD = """
command = ["{python}", "-I", "-S", "{litter}", "{folder}", "{how}"]
protocol = "none"
"""

WARM = """
entrypoint = "chaos.litter_agent:agent"
process.working_directory = "{here}"
environment.LITTER = "{folder}"
"""

PROCESSES = {"escape": 4, "warm": 4, "deaf": 4, "group": 2, "hop": 5, "breed": 2, "alone": 1}
"""How many lines a worker of each kind has said when all of it is there."""


class Lives:
    """The lives that were there at one moment, by the FIFO that all their processes hold."""

    def __init__(self, fifos: dict[str, int], inodes: set[int]) -> None:
        self._fifos = fifos
        self._inodes = inodes
        self.said: list[str] = []

    @classmethod
    def of(cls, folder: Path, workers: Iterable[str]) -> "Lives":
        """New FIFOs in FOLDER/alive, for the lives to come of these workers."""
        new: dict[str, int] = {}
        inodes: set[int] = set()
        for worker in workers:
            path = folder / "alive" / worker
            fresh = path.with_suffix(".new")
            os.mkfifo(fresh)
            fresh.chmod(0o666)
            new[worker] = os.open(fresh, os.O_RDONLY | os.O_NONBLOCK)
            inodes.add(os.fstat(new[worker]).st_ino)
            fresh.rename(path)
        return cls(new, inodes)

    def await_lines(self, count: int, bound_s: float = BOUND_S) -> None:
        """Until so many processes have said that they are there."""
        until = time.monotonic() + bound_s
        poller = _poller(self._fifos.values())
        while len(self.said) < count:
            left_s = until - time.monotonic()
            assert left_s > 0, f"{len(self.said)} of {count} processes are there"
            ends = sum(not self._read(fd) for fd, _ in poller.poll(left_s * 1000))
            if ends:  # one life is dead, the next is not there yet: POLLHUP comes again at once
                time.sleep(0.001)

    def await_end(self, since_s: float, bound_s: float = LEFT_S) -> float | None:
        """Seconds from `since_s` until the last of them is dead; None when some live beyond the bound."""
        until = since_s + bound_s
        # One that nobody has opened yet is at its end, but only read(2) says so.
        left = {fd for fd in self._fifos.values() if self._read(fd)}
        ended_s = time.monotonic()
        while left:
            ready = _poller(left).poll(max(0.0, until - time.monotonic()) * 1000)
            for fd, _ in ready:
                if not self._read(fd):
                    left.discard(fd)
                    ended_s = time.monotonic()
            if not ready:
                return None
        return ended_s - since_s

    def holders(self) -> list[int]:
        """Who holds one of the FIFOs, ourselves apart: looked up in /proc."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if any(_inode(fd) in self._inodes for fd in (entry / "fd").iterdir()):
                        found.append(int(entry.name))
        return found

    def end(self) -> int:
        """Kills whoever is left, so that the next round starts with nothing; how many were there first."""
        found = self.holders()
        for _ in range(1000):
            left = self.holders()
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return len(found)

    def close(self) -> None:
        """Lets go of the FIFOs."""
        for fd in self._fifos.values():
            os.close(fd)
        self._fifos.clear()

    def _read(self, fd: int) -> bool:
        """Takes in what was said; False at the end."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, 65536)
            self.said += data.decode().split("\n")[:-1]  # each line was one write
            return bool(data)
        return True


def _poller(fds: Iterable[int]) -> select.poll:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return poller


def _inode(fd: Path) -> int:
    try:
        return os.stat(fd).st_ino
    except OSError:
        return -1


@dataclass
class Outcome:
    """One round: seconds until nothing was left (None: not within the bound), and who was."""

    gone_s: float | None
    survivors: int
    facts: dict[str, float] = field(default_factory=dict[str, float])
    overlaps: int = 0


class Ground:
    """A daemon with one agent of `litter.py`, and the FIFOs of its workers."""

    def __init__(self, folder: Path, workers: int, how: str, containment: str) -> None:
        self.folder = folder
        self.how = how
        self.ids = [f"{NAME}-{number}" for number in range(workers)]
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        for name in ("alive", "locks"):
            (folder / name).mkdir()
            (folder / name).chmod(0o777)  # agents may run as another user
        self.lives = self.turn()
        self.overlaps = 0
        program = WARM if how == "warm" else COLD
        config = CONFIG.format(
            name=NAME,
            workers=workers,
            containment=containment,
            grace_s=GRACE_S,
            program=program.format(
                how=how, python=sys.executable, litter=LITTER, here=LITTER.parents[1], folder=folder
            ),
        )
        self.daemon = DaemonProcess(folder, config)
        status = self.daemon.call("daemon.status")["daemon"]
        self.tier: str = status["containment"]

    def turn(self, ids: Sequence[str] | None = None) -> Lives:
        """The lives to come of these workers (all): they find new FIFOs."""
        return Lives.of(self.folder, self.ids if ids is None else ids)

    def start(self) -> None:
        """All workers, each with all of its processes."""
        self.daemon.call("agent.start", names=[NAME], wait=False)
        self.await_all()

    def await_all(self) -> None:
        """Until every process of every worker is there."""
        self.lives.await_lines(PROCESSES[self.how] * len(self.ids), 4 * BOUND_S)
        self.overlaps += sum("overlap" in line for line in self.lives.said)

    def renew(self) -> Lives:
        """The lives so far; those to come are watched anew."""
        lives, self.lives = self.lives, self.turn()
        return lives

    def killed(self, pids: Iterable[int]) -> float:
        """SIGKILL to all of them, back to back; when."""
        began = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return began

    @property
    def launcher(self) -> int:
        """The pid of the launcher."""
        return int(self.daemon.call("daemon.status")["daemon"]["launcher_pid"])

    def pid(self, worker: str) -> int:
        """The pid of a worker's leader."""
        return int(self.daemon.worker(worker)["pid"])

    def outcome(self, lives: Lives, since_s: float, **facts: float) -> Outcome:
        """What became of these lives; survivors are counted, and then ended."""
        gone_s = lives.await_end(since_s)
        survivors = 0 if gone_s is not None else lives.end()
        lives.close()
        return Outcome(gone_s, survivors, facts)

    def restart(self) -> None:
        """The daemon has been killed: the next one, as whoever keeps it would start it."""
        assert self.daemon.process is not None, "it was started"
        self.daemon.process.wait(BOUND_S)
        self.daemon.start()

    def close(self) -> list[int]:
        """Ends the daemon; the pids of what still has its files in the folder."""
        with self.daemon:
            pass
        self.lives.close()
        return marked(self.folder)


# --- scenarios ------------------------------------------------------------------------------------


def daemon_killed(ground: Ground, _number: int) -> Outcome:
    """kill -9 of the daemon."""
    ground.start()
    lives = ground.renew()
    outcome = ground.outcome(lives, ground.killed([ground.daemon.pid]))
    ground.restart()
    return outcome


def launcher_killed(ground: Ground, number: int) -> Outcome:
    """kill -9 of the launcher: the daemon stays, and every worker has one life again."""
    if number == 0:
        ground.start()
    lives = ground.renew()
    since_s = ground.killed([ground.launcher])
    outcome = ground.outcome(lives, since_s)
    ground.await_all()
    outcome.facts["all again s"] = time.monotonic() - since_s
    return outcome


def warm_daemon_killed(ground: Ground, number: int) -> Outcome:
    """kill -9 of the daemon, with workers that are forks of a zygote."""
    return daemon_killed(ground, number)


def warm_launcher_killed(ground: Ground, number: int) -> Outcome:
    """kill -9 of the launcher, with workers that are forks of a zygote."""
    return launcher_killed(ground, number)


def zygote_killed(ground: Ground, _number: int) -> Outcome:
    """kill -9 of a zygote: its forks end with it, and each has one life again."""
    ground.start()
    lives = ground.renew()
    (agent,) = ground.daemon.call("daemon.status", names=[NAME])["agents"]
    since_s = ground.killed([int(agent["warm"]["pid"])])
    outcome = ground.outcome(lives, since_s)
    ground.await_all()
    outcome.facts["all again s"] = time.monotonic() - since_s
    ground.daemon.call("agent.stop", names=[NAME])  # a zygote that dies again and again is given up
    ground.renew().close()
    return outcome


def worker_killed(ground: Ground, number: int) -> Outcome:
    """kill -9 of a worker: the next life meets nothing of the one before."""
    return _worker_ends(ground, number, signal.SIGKILL)


def leader_exits(ground: Ground, number: int) -> Outcome:
    """A worker exits with 0, and a child in its group does not."""
    return _worker_ends(ground, number, signal.SIGUSR1)


def forking_while_killed(ground: Ground, number: int) -> Outcome:
    """kill -9 of a worker whose grandchildren fork and exit as fast as they can."""
    return _worker_ends(ground, number, signal.SIGKILL)


def breeding_while_killed(ground: Ground, number: int) -> Outcome:
    """kill -9 of a worker whose grandchildren each fork two more."""
    return _worker_ends(ground, number, signal.SIGKILL)


def _worker_ends(ground: Ground, number: int, signum: signal.Signals) -> Outcome:
    if number == 0:
        ground.start()
        ground.lives.close()
    worker = ground.ids[number % len(ground.ids)]
    # The lives of this worker alone, from its own start on.
    ground.lives = ground.turn([worker])
    ground.daemon.call("agent.restart", names=[worker], wait=False)
    ground.lives.await_lines(PROCESSES[ground.how])
    lives, ground.lives = ground.lives, ground.turn([worker])
    pid = ground.pid(worker)
    since_s = time.monotonic()
    os.kill(pid, signum)
    outcome = ground.outcome(lives, since_s)
    ground.lives.await_lines(PROCESSES[ground.how])
    ground.overlaps += sum("overlap" in line for line in ground.lives.said)
    outcome.facts["again s"] = time.monotonic() - since_s
    ground.lives.close()
    return outcome


def both_killed(ground: Ground, _number: int) -> Outcome:
    """kill -9 of launcher and daemon at once: what had escaped ends with the next start of the daemon."""
    ground.start()
    lives = ground.renew()
    pids = [ground.launcher, ground.daemon.pid]
    since_s = ground.killed(pids)
    gone_s = lives.await_end(since_s, 1.0)
    left = 0 if gone_s is not None else len(lives.holders())
    starting_s = time.monotonic()
    ground.restart()
    outcome = ground.outcome(lives, since_s)
    outcome.facts["left before the next start"] = left
    if left and outcome.gone_s is not None:
        outcome.facts["gone after the next start s"] = outcome.gone_s - (starting_s - since_s)
    return outcome


def stubborn_grandchild(ground: Ground, _number: int) -> Outcome:
    """agent.stop of workers whose grandchildren ignore SIGTERM: it answers when they are dead, and says forced."""
    ground.start()
    lives = ground.renew()
    since_s = time.monotonic()
    ground.daemon.call("agent.stop", names=[NAME])
    return _stopped(ground, lives, since_s)


def stop_answers(ground: Ground, _number: int) -> Outcome:
    """`corral stop` of workers that ignore SIGTERM themselves: it ends when they have, and says forced."""
    ground.start()
    lives = ground.renew()
    since_s = time.monotonic()
    done = ground.daemon.corral("stop", NAME)
    assert done.returncode == 0, done
    return _stopped(ground, lives, since_s)


def _stopped(ground: Ground, lives: Lives, since_s: float) -> Outcome:
    answered_s = time.monotonic() - since_s
    if lives.await_end(since_s, answered_s) is None:  # what lives now has outlived the answer
        lives.close()
        return Outcome(None, max(1, len(lives.holders())), {"answered s": answered_s})
    lives.close()
    (agent,) = ground.daemon.call("daemon.status", names=[NAME])["agents"]
    forced = sum(bool(worker["last_exit"]["forced"]) for worker in agent["workers"])
    over_s = answered_s - GRACE_S
    return Outcome(answered_s, 0, {"forced": forced, "over the grace period s": over_s})


def daemon_terminated(ground: Ground, _number: int) -> Outcome:
    """SIGTERM of the daemon: it exits with 0 when nothing is left, and its socket is gone."""
    ground.start()
    lives = ground.renew()
    since_s = time.monotonic()
    status = ground.daemon.stop()
    ended_s = time.monotonic() - since_s
    survivors = 0
    if lives.await_end(since_s, ended_s) is None:
        survivors = len(lives.holders())
    assert status == 0, status
    assert not ground.daemon.socket.exists(), "the socket goes with the daemon"
    lives.close()
    ground.restart()
    return Outcome(ended_s, survivors, {"over the grace period s": ended_s - GRACE_S})


def daemon_killed_in_start(ground: Ground, number: int) -> Outcome:
    """kill -9 of the daemon while workers are being started, each time at another of them."""
    wanted = random.Random(number).randrange(1, max(2, len(ground.ids) * 9 // 10))
    ground.daemon.call("agent.start", names=[NAME], wait=False)
    ground.lives.await_lines(wanted, 4 * BOUND_S)
    launcher = os.pidfd_open(ground.launcher)
    since_s = ground.killed([ground.daemon.pid])
    # What was on its way to its main() may open its FIFO later: until the parent of all is gone, too.
    select.select([launcher], [], [], LEFT_S)
    os.close(launcher)
    lives = ground.renew()
    outcome = ground.outcome(lives, since_s, **{"were there": float(wanted)})
    ground.restart()
    return outcome


@dataclass(frozen=True)
class Scenario:
    """How often, with how many of which workers."""

    run: Callable[[Ground, int], Outcome]
    how: str
    workers: int = 100


SCENARIOS = {
    scenario.run.__name__: scenario
    for scenario in (
        Scenario(daemon_killed, "escape"),
        Scenario(launcher_killed, "escape"),
        Scenario(worker_killed, "escape"),
        Scenario(warm_daemon_killed, "warm"),
        Scenario(warm_launcher_killed, "warm"),
        Scenario(zygote_killed, "warm"),
        Scenario(both_killed, "escape"),
        Scenario(leader_exits, "group"),
        Scenario(stubborn_grandchild, "escape"),
        Scenario(forking_while_killed, "hop", 2),
        Scenario(breeding_while_killed, "breed", 2),
        Scenario(stop_answers, "deaf"),
        Scenario(daemon_terminated, "deaf"),
        Scenario(daemon_killed_in_start, "alone", 1000),
    )
}


@dataclass
class Result:
    """All rounds of a scenario; `left` is what the folder of the daemon still had at the end."""

    tier: str
    outcomes: list[Outcome]
    overlaps: int
    left: list[int]

    @property
    def survivors(self) -> int:
        """How many processes outlived the bound, in all rounds."""
        return sum(outcome.survivors for outcome in self.outcomes) + len(self.left)


def repeated(name: str, folder: Path, *, rounds: int, workers: int | None = None, containment: str = "auto") -> Result:
    """Runs a scenario so many times under one daemon configuration."""
    scenario = SCENARIOS[name]
    count = scenario.workers if workers is None else min(workers, scenario.workers)
    ground = Ground(folder, count, scenario.how, containment)
    outcomes: list[Outcome] = []
    try:
        for number in range(rounds):
            outcomes.append(scenario.run(ground, number))
            if sys.stderr.isatty():
                print(f"\r{name}: {number + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
    finally:
        left = ground.close()
    return Result(ground.tier, outcomes, ground.overlaps, left)


def told(name: str, result: Result) -> str:
    """One scenario for people."""
    gone = [o.gone_s for o in result.outcomes if o.gone_s is not None]
    words = [
        f"{name}: {len(result.outcomes)} rounds, tier {result.tier},"
        f" {result.survivors} survivors, {result.overlaps} lives met an earlier one"
    ]
    if gone:
        words.append(f"nothing left after {_spread(gone)} s")
    facts: dict[str, list[float]] = {}
    for outcome in result.outcomes:
        for fact, value in outcome.facts.items():
            facts.setdefault(fact, []).append(value)
    words += [f"{fact} {_spread(values)}" for fact, values in facts.items()]
    return "; ".join(words)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}..{max(values):.3f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; 1 when something was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--workers", type=int, help="at most so many (each scenario has its own)")
    parser.add_argument("--containment", choices=["auto", "launcher", "cgroup", "pidns"], default="auto")
    options: Any = parser.parse_args(arguments)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    failed = False
    for name in options.only or SCENARIOS:
        folder = Path(tempfile.mkdtemp(prefix="corral-orphans-"))
        try:
            result = repeated(
                name, folder, rounds=options.rounds, workers=options.workers, containment=options.containment
            )
        except Exception as error:
            print(f"{name}: {error!r}; its folder {folder} stays, to be looked at", flush=True)
            failed = True
            continue
        print(told(name, result) + f"; load {os.getloadavg()[0]:.1f}", flush=True)
        failed |= bool(result.survivors or result.overlaps)
        shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the docstring."""


if __name__ == "__main__":
    sys.exit(main())
