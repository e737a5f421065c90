"""The daemon's side of the launcher, with real launchers and real processes."""

import asyncio
import contextlib
import errno
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvloop

from corral.supervisor.machine.linux import kernel
from corral.supervisor.workers.process import containment
from corral.supervisor.workers.process.launcher_client import Child, Exit, Launch, Launcher
from corral.worker.contract.errors import Overloaded, ShuttingDown, SpawnFailed
from launcher_wire import debugged
from seeds import seeds

pytestmark = pytest.mark.shell

BOUND_S = 60.0
AGENTS = Path(__file__).parents[2] / "support" / "programs"
PYTHON = [sys.executable, "-I", "-S"]
SLEEP = ["sleep", "1000"]

ATTEMPTS = [0, *(pytest.param(number, marks=pytest.mark.long) for number in (1, 2))]


class Daemon:
    """A Launcher in the tier of this test, and what it has told."""

    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        self.exits: dict[str, Exit] = {}
        self.empty: list[str] = []
        self.text_: list[tuple[str, str]] = []
        self.losses = 0
        self.changed = asyncio.Event()
        self.children: list[Child] = []
        self.launcher = Launcher(on_lost=self._on_lost, **self.settings | options)

    async def __aenter__(self) -> "Daemon":
        await self.launcher.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.launcher.close()
        for child in self.children:
            for fd in (child.stdin_fd, child.stdout_fd, child.stderr_fd):
                if fd is not None:
                    os.close(fd)

    def exited(self, report: Exit) -> None:
        assert report.unit not in self.exits, "an exit is reported once"
        self.exits[report.unit] = report
        self._call_back("exit", report.unit)

    def emptied(self, unit: str) -> None:
        assert unit in self.exits, "an exit comes before the emptiness"
        assert unit not in self.empty, "an emptiness is told once"
        self.empty.append(unit)
        self._call_back("empty", unit)

    def _on_lost(self) -> None:
        self.losses += 1
        self._call_back("lost", "")

    def _call_back(self, what: str, unit: str) -> None:
        self.text_.append((what, unit))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def spawn(
        self, unit: str, argv: Sequence[str], pipes: tuple[bool, bool] = (True, True), **options: Any
    ) -> Child:
        options = {"env": {"PATH": os.defpath}, "cwd": "/"} | options
        launch = Launch(unit=unit, argv=argv, **options)
        child = await self.launcher.spawn(launch, self, pipe_stdin=pipes[0], pipe_stdout=pipes[1])
        self.children.append(child)
        return child

    async def tree(self, unit: str, token: str, escapees: int, siblings: int) -> list[int]:
        program = [*PYTHON, str(AGENTS / "launcher_tree.py"), token, str(escapees), str(siblings)]
        pids: list[int] = json.loads(await line(await self.spawn(unit, program)))
        return pids


async def line(child: Child) -> bytes:
    assert child.stdout_fd is not None
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(child.stdout_fd, readable.set)
    text = b""
    async with asyncio.timeout(BOUND_S):
        while not text.endswith(b"\n"):
            await readable.wait()
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                text += os.read(child.stdout_fd, 65536)
    loop.remove_reader(child.stdout_fd)
    return text


def run(main: Coroutine[Any, Any, None]) -> None:
    failures: list[dict[str, Any]] = []  # of callbacks, which the loop would only log
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        runner.run(main)
    assert failures == []


def flood(launcher: Launcher) -> None:
    for _ in range(100_000):
        launcher.signal("a-0#1", signal.SIGCONT)


def with_token(token: str) -> list[int]:
    """The living processes that have the token in their command line."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        path = f"/proc/{name}/cmdline"
        if name.isdigit() and token.encode() in kernel.read_proc(path):
            found.append(int(name))
    return found


async def nothing() -> None:
    """The first loop of a process opens descriptors that libuv keeps."""


def own_children() -> list[int]:
    ourselves = kernel.look_up(os.getpid())
    assert ourselves is not None
    return kernel.children(ourselves)


@pytest.fixture
def token() -> Iterator[str]:
    """A word that only processes of this test have; whatever has it is gone in the end."""
    word = f"token-{os.getpid()}-{time.monotonic_ns()}"
    yield word
    for pid in with_token(word):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True, params=["launcher", "cgroup"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Every test runs in each tier that is to be had here."""
    if request.param == "launcher":
        yield request.param
        return
    try:
        subtree = containment.claim(tmp_path)
    except containment.Refusal as refusal:
        pytest.skip(f"no cgroup: {refusal}")
    subtree.remove()
    Daemon.settings = {"state_dir": tmp_path, "tier": "cgroup"}
    yield request.param
    Daemon.settings = {}
    assert not subtree.path.exists(), "what was made is removed"


@pytest.fixture(autouse=True)
def nothing_left(tier: str) -> Iterator[None]:
    """Each test ends with the descriptors and the children that it began with."""
    run(nothing())
    children, fds = own_children(), sorted(os.listdir("/proc/self/fd"))
    yield
    assert own_children() == children
    assert sorted(os.listdir("/proc/self/fd")) == fds


def test_a_process_is_spawned_with_pipes_of_its_own() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            child = await daemon.spawn("a-0#1", ["cat"])
            assert child.stdin_fd is not None
            assert child.stdout_fd is not None
            for fd in (child.stdin_fd, child.stdout_fd, child.stderr_fd):
                assert not os.get_blocking(fd)
                assert not os.get_inheritable(fd)
            os.write(child.stdin_fd, b"hello\n")
            assert await line(child) == b"hello\n"
            process = kernel.look_up(child.pid)
            assert process is not None
            assert process.starttime == child.starttime
            assert process.parent == daemon.launcher.pid

    run(main())


def test_without_pipes_a_process_reads_and_writes_nothing() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            child = await daemon.spawn("a-0#1", ["cat"], (False, False))
            assert (child.stdin_fd, child.stdout_fd) == (None, None)
            await daemon.until(lambda: "a-0#1" in daemon.empty)
            assert daemon.exits["a-0#1"].status == 0

    run(main())


def test_the_caller_has_its_child_before_the_exit_is_reported() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            for n in range(30):
                unit = f"a-0#{n}"
                await daemon.spawn(unit, ["true"])
                assert unit not in daemon.exits
                await daemon.until(lambda unit=unit: unit in daemon.empty)  # type: ignore[misc] # a default binds it now
                assert daemon.exits[unit].status == 0
                assert daemon.exits[unit].pid == daemon.children[-1].pid

    run(main())


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            with pytest.raises(SpawnFailed) as failure:
                await daemon.spawn("a-0#1", ["/no/such/program"])
            assert failure.value.data["stage"] == "exec"
            assert failure.value.data["errno"] == errno.ENOENT
            assert failure.value.data["retryable"] is False
            await daemon.spawn("a-0#1", SLEEP)
            with pytest.raises(SpawnFailed) as failure:
                await daemon.spawn("a-0#1", SLEEP)
            assert failure.value.data["errno"] == errno.EEXIST
            daemon.launcher.kill("a-0#1")
            await daemon.until(lambda: "a-0#1" in daemon.empty)
            assert daemon.text_ == [("exit", "a-0#1"), ("empty", "a-0#1")]

    run(main())


def test_a_daemon_without_descriptors_may_try_again() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            highest = max(int(name) for name in os.listdir("/proc/self/fd"))
            filler = [os.dup(0) for _ in range(highest)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(filler) + 4, before[1]))
            try:
                with pytest.raises(SpawnFailed) as failure:
                    await daemon.spawn("a-0#1", ["true"])
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
                for fd in filler:
                    os.close(fd)
            assert failure.value.data["errno"] == errno.EMFILE
            assert failure.value.data["retryable"] is True
            await daemon.spawn("a-0#1", ["true"])

    run(main())


def test_a_spawn_that_is_cancelled_leaves_no_process_and_no_word(token: str) -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            for n in range(20):
                start = asyncio.create_task(
                    daemon.spawn(f"a-0#{n}", [*PYTHON, "-c", "import time; time.sleep(999)", token])
                )
                for _ in range(n):
                    await asyncio.sleep(0)
                start.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await start
            done = {child.unit for child in daemon.children}
            for unit in done:
                daemon.launcher.kill(unit)
            await daemon.until(lambda: set(daemon.empty) == done)
            async with asyncio.timeout(BOUND_S):
                while await daemon.launcher.listed():
                    pass
            assert with_token(token) == []
            assert set(daemon.exits) == done

    run(main())


def test_a_kill_ends_what_escaped_and_close_ends_the_rest(token: str) -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            pids = await daemon.tree("a-0#1", token, 3, 1)
            await daemon.tree("b-0#1", token, 3, 1)
            listed = {unit.unit: unit.processes for unit in await daemon.launcher.listed()}
            assert sorted(listed) == ["a-0#1", "b-0#1"]
            assert set(listed["a-0#1"]) <= set(pids)
            daemon.launcher.kill("a-0#1")
            await daemon.until(lambda: "a-0#1" in daemon.empty)
            assert not set(pids) & set(with_token(token))
            assert "b-0#1" not in daemon.exits
        assert with_token(token) == []
        assert daemon.exits["b-0#1"].lost is False

    run(main())


def test_a_signal_goes_where_it_is_sent() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            await daemon.spawn("a-0#1", SLEEP)
            daemon.launcher.signal("a-0#1", signal.SIGTERM)
            daemon.launcher.signal("nobody-0#1", signal.SIGTERM)
            await daemon.until(lambda: "a-0#1" in daemon.empty)
            assert os.WTERMSIG(daemon.exits["a-0#1"].status) == signal.SIGTERM

    run(main())


def test_a_launcher_that_does_not_read_meets_a_bound() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            await daemon.spawn("a-0#1", SLEEP)
            os.kill(daemon.launcher.pid, signal.SIGSTOP)
            with pytest.raises(Overloaded):
                flood(daemon.launcher)
            with pytest.raises(SpawnFailed) as failure:
                await daemon.spawn("b-0#1", SLEEP)
            assert failure.value.data["retryable"] is True
            os.kill(daemon.launcher.pid, signal.SIGCONT)
            daemon.launcher.kill("a-0#1")
            await daemon.until(lambda: "a-0#1" in daemon.empty)

    run(main())


def test_hundreds_of_starts_at_once_are_quick_and_complete() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            await asyncio.gather(*(daemon.spawn(f"a-{n}#1", SLEEP) for n in range(200)))
            assert len({child.pid for child in daemon.children}) == 200
        assert len(daemon.empty) == 200

    run(main())


# --- the launcher dies ---


@pytest.mark.parametrize("sole_parent", [False, True])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_killed_launcher_takes_its_units_along_and_is_replaced(token: str, sole_parent: bool, attempt: int) -> None:
    async def main() -> None:
        async with Daemon(sole_parent=sole_parent) as daemon:
            for n in range(3):
                await daemon.tree(f"a-{n}#1", token, 0 if not sole_parent else 3, 2)
            first = daemon.launcher.pid
            os.kill(first, signal.SIGKILL)
            await daemon.until(lambda: len(daemon.empty) == 3 and daemon.losses == 1)
            assert with_token(token) == []
            assert all(exit_.lost for exit_ in daemon.exits.values())
            assert {os.WTERMSIG(exit_.status) for exit_ in daemon.exits.values()} == {9}
            assert await line(await daemon.spawn("a-0#2", ["echo"])) == b"\n"
            assert daemon.launcher.pid != first

    run(main())


def test_a_dead_worker_that_a_debugger_keeps_does_not_hold_up_the_next_launcher() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            child = await daemon.spawn("a-0#1", ["sleep", "1000"])
            with debugged(child.pid):
                os.kill(daemon.launcher.pid, signal.SIGKILL)
                await daemon.until(lambda: "a-0#1" in daemon.empty)
                assert await line(await daemon.spawn("a-0#2", ["echo"])) == b"\n"
            os.waitpid(child.pid, 0)  # its next parent, which is init as a rule, does it

    run(main())


def test_what_a_launcher_said_before_its_death_is_true() -> None:
    # Each signal is one message, and so one turn of its loop; a turn ends with the reports of deaths.
    code = "trap 'echo got' USR1; echo; while :; do sleep 0.01; done"

    async def main() -> None:
        async with Daemon() as daemon:
            witness = await daemon.spawn("b-0#1", ["sh", "-c", code])
            await line(witness)
            child = await daemon.spawn("a-0#1", ["sh", "-c", "sleep 1000 & echo; exec sleep 1000"])
            await line(child)
            # From here to the launcher's death our loop does not turn, so that nothing is heard.
            daemon.launcher.signal("a-0#1", signal.SIGTERM)
            deadline = time.monotonic() + BOUND_S
            while kernel.look_up(child.pid) is not None:
                assert time.monotonic() < deadline
            assert witness.stdout_fd is not None
            for _ in range(2):
                daemon.launcher.signal("b-0#1", signal.SIGUSR1)
                assert select.select([witness.stdout_fd], [], [], BOUND_S)[0]
                os.read(witness.stdout_fd, 4096)
            os.kill(daemon.launcher.pid, signal.SIGKILL)
            await daemon.until(lambda: daemon.losses == 1)
            assert os.WTERMSIG(daemon.exits["a-0#1"].status) == signal.SIGTERM
            assert not daemon.exits["a-0#1"].lost
            assert daemon.exits["b-0#1"].lost
            assert sorted(daemon.empty) == ["a-0#1", "b-0#1"]

    run(main())


def test_the_other_children_of_this_process_outlive_the_launcher(token: str) -> None:
    code = "print(flush=True); import time; time.sleep(999)"
    argv = [*PYTHON, "-c", code, token]

    async def main() -> None:
        async with Daemon() as daemon, Daemon(tier="launcher", state_dir=None) as neighbour:
            await neighbour.spawn("a-0#1", SLEEP)
            await daemon.spawn("a-0#1", SLEEP)
            os.kill(daemon.launcher.pid, signal.SIGKILL)
            await daemon.until(lambda: daemon.losses == 1)
            assert neighbour.text_ == []

    children = [subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=alone) for alone in (True, False)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    run(main())
    for child in children:
        assert child.poll() is None
        child.kill()
        child.communicate()


def test_starts_that_were_under_way_fail_and_may_be_tried_again() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            os.kill(daemon.launcher.pid, signal.SIGSTOP)
            starts = [asyncio.create_task(daemon.spawn(f"a-{n}#1", SLEEP)) for n in range(10)]
            await asyncio.sleep(0)
            os.kill(daemon.launcher.pid, signal.SIGKILL)
            for start in starts:
                with pytest.raises(SpawnFailed) as failure:
                    await start
                assert failure.value.data["retryable"] is True
            await daemon.spawn("a-0#1", SLEEP)
            assert daemon.exits == {}

    run(main())


def test_a_silent_launcher_is_replaced() -> None:
    async def main() -> None:
        async with Daemon(silence_s=1.5) as daemon:
            await daemon.spawn("a-0#1", SLEEP)
            os.kill(daemon.launcher.pid, signal.SIGSTOP)
            await daemon.until(lambda: daemon.losses == 1)
            assert daemon.exits["a-0#1"].lost

    run(main())


def test_a_stall_of_our_own_is_not_the_launchers_silence() -> None:
    async def main() -> None:
        async with Daemon(silence_s=1.5) as daemon:
            await daemon.spawn("a-0#1", SLEEP)
            for _ in range(2):
                select.select([], [], [], 2.5)  # the loop does not turn
                await daemon.launcher.listed()
            assert daemon.losses == 0
            assert daemon.exits == {}

    run(main())


def test_close_ends_a_launcher_that_is_stopped(token: str) -> None:
    async def main() -> None:
        async with Daemon(sole_parent=True, silence_s=1.5) as daemon:
            await daemon.tree("a-0#1", token, 2, 1)
            os.kill(daemon.launcher.pid, signal.SIGSTOP)
        assert daemon.exits["a-0#1"].lost
        assert with_token(token) == []

    run(main())


def test_a_closed_launcher_starts_nothing_and_closes_again() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            await daemon.launcher.close()
            with pytest.raises(ShuttingDown):
                await daemon.spawn("a-0#1", SLEEP)
            daemon.launcher.kill("a-0#1")
            assert await daemon.launcher.listed() == []

    run(main())


def test_a_launcher_that_cannot_start_is_an_error() -> None:
    async def main() -> None:
        for python in ("/no/such/python", "/bin/false"):
            with pytest.raises(SpawnFailed):
                await Daemon(python=python).launcher.start()

    run(main())


# --- the daemon dies ---


@pytest.mark.parametrize("attempt", seeds(4, 1))
def test_nothing_outlives_a_killed_daemon(token: str, attempt: int) -> None:
    options = json.dumps(Daemon.settings, default=str)
    host = [sys.executable, str(AGENTS / "launcher_host.py"), token, "10", options]
    with subprocess.Popen(host, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        launcher_pid = int(daemon.stdout.readline())
        pidfd = os.pidfd_open(launcher_pid)
        # The host itself has the token too.
        assert len(with_token(token)) == 10 * 4 + 1
        daemon.kill()
    assert select.select([pidfd], [], [], BOUND_S)[0], "the launcher ends"
    os.close(pidfd)
    assert with_token(token) == [], "after everything that it kept"


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_killed_daemon_and_launcher_leave_nothing_beyond_the_next_start(
    token: str, tmp_path: Path, attempt: int
) -> None:
    options = {"tier": "launcher"} | Daemon.settings | {"state_dir": tmp_path}
    host = [sys.executable, str(AGENTS / "launcher_host.py"), token, "5"]
    with subprocess.Popen([*host, json.dumps(options, default=str)], stdout=-1) as daemon:
        assert daemon.stdout is not None
        launcher_pid = int(daemon.stdout.readline())
        os.kill(daemon.pid, signal.SIGSTOP)  # so that neither sees the death of the other
        os.kill(launcher_pid, signal.SIGKILL)
        daemon.kill()
    escaped = with_token(token)
    assert len(escaped) >= 5 * 3, "these cleared their environment and have sessions of their own"

    async def main() -> None:
        async with Daemon(**options):
            assert with_token(token) == []

    run(main())


def test_an_earlier_daemons_processes_are_distinguished_from_anothers(token: str, tmp_path: Path, tier: str) -> None:
    argv = [*PYTHON, "-c", "print(flush=True); import time; time.sleep(999)", token]
    this, other = tmp_path / "this", tmp_path / "other"
    other.mkdir()

    async def main() -> None:
        async with Daemon(state_dir=other, tier=tier) as daemon:
            child = await daemon.spawn("a-0#1", argv)
            await line(child)
            this.mkdir()
            async with Daemon(state_dir=this, tier=tier):
                pass
            assert with_token(token) == [child.pid]
            other.rename(tmp_path / "elsewhere")
            other.mkdir()  # as a container has a folder of its own at the same path
            async with Daemon(state_dir=other, tier=tier):
                pass
            assert with_token(token) == [child.pid], "the name of a folder is not the folder"

    run(main())


# --- frozen, seen and limited ---


@pytest.mark.parametrize("dies", ["launcher", "daemon"])
def test_what_is_frozen_outlives_neither_launcher_nor_daemon(token: str, dies: str) -> None:
    async def main() -> None:
        async with Daemon(sole_parent=True) as daemon:
            pids = await daemon.tree("a-0#1", token, 3, 2)
            await daemon.launcher.listed()
            daemon.launcher.freeze("a-0#1")
            assert {unit.unit for unit in await daemon.launcher.listed()} == {"a-0#1"}
            if dies == "launcher":
                os.kill(daemon.launcher.pid, signal.SIGKILL)
                await daemon.until(lambda: daemon.losses == 1)
            assert (dies == "daemon") == bool(set(pids) & set(with_token(token)))
        assert with_token(token) == []

    run(main())


def test_a_unit_is_frozen_and_thawed() -> None:
    code = "import os\nprint(flush=True)\nwhile os.read(0, 1): os.write(1, b'.\\n')"

    async def main() -> None:
        async with Daemon() as daemon:
            child = await daemon.spawn("a-0#1", [*PYTHON, "-c", code])
            await line(child)
            assert child.stdin_fd is not None
            assert child.stdout_fd is not None
            for _ in range(20):
                daemon.launcher.freeze("a-0#1")
                await daemon.launcher.listed()
                os.write(child.stdin_fd, b"x")
                for _ in range(10):
                    await daemon.launcher.listed()
                assert not select.select([child.stdout_fd], [], [], 0)[0]
                daemon.launcher.thaw("a-0#1")
                assert await line(child) == b".\n"
            daemon.launcher.freeze("a-0#1")
            daemon.launcher.freeze("nobody-0#1")
            daemon.launcher.signal("a-0#1", signal.SIGTERM)
            await daemon.until(lambda: "a-0#1" in daemon.empty)
            assert os.WTERMSIG(daemon.exits["a-0#1"].status) == signal.SIGTERM

    run(main())


def test_the_roots_of_a_unit_are_its_leader_and_what_escaped(token: str) -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            assert daemon.launcher.roots("a-0#1") == ()
            leader, *rest = await daemon.tree("a-0#1", token, 2, 1)
            async with asyncio.timeout(BOUND_S):
                while sorted(daemon.launcher.roots("a-0#1")) != sorted([leader, *rest[:2]]):
                    await daemon.launcher.listed()
            os.kill(leader, signal.SIGKILL)
            await daemon.until(lambda: "a-0#1" in daemon.exits)
            async with asyncio.timeout(BOUND_S):
                while sorted(daemon.launcher.roots("a-0#1")) != sorted(rest):
                    await daemon.launcher.listed()
            daemon.launcher.kill("a-0#1")
            await daemon.until(lambda: "a-0#1" in daemon.empty)
            assert daemon.launcher.roots("a-0#1") == ()

    run(main())


def test_the_group_of_a_unit_is_known_while_it_exists(tier: str) -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            child = await daemon.spawn("a-0#1", SLEEP, memory_bytes=1 << 30, cpu_percent=50)
            folder = daemon.launcher.cgroup_of("a-0#1")
            assert (folder is None) == (tier == "launcher")
            assert daemon.launcher.containment.cgroup == (folder and str(folder.parent))
            if folder is not None:
                assert (folder / "cgroup.procs").read_text() == f"{child.pid}\n"
            daemon.launcher.kill("a-0#1")
            await daemon.until(lambda: "a-0#1" in daemon.empty)
            assert daemon.exits["a-0#1"].oom.kills == 0
            assert daemon.launcher.cgroup_of("a-0#1") is None

    run(main())


# --- the lease of a cluster -------------------------------------------------------------------------


def test_units_of_a_lease_end_at_its_deadline_also_while_the_daemon_is_frozen() -> None:
    """The deadline is set by a process that is stopped (SIGSTOP) before it; others go on."""
    program = (
        "import asyncio, os, sys, time\n"
        "from corral.supervisor.workers.process.launcher_client import Launch, Launcher\n"
        "class Owner:\n"
        "    exited = emptied = print\n"
        "async def main():\n"
        "    launcher, owner = Launcher(), Owner()\n"
        "    await launcher.start()\n"
        "    now = time.clock_gettime(time.CLOCK_BOOTTIME)\n"
        "    launcher.set_lease(7, now + 1.0)\n"
        "    env = {'PATH': os.defpath}\n"
        "    script = 'setsid sleep 1000 & exec sleep 1000'\n"
        "    leased = await launcher.spawn(Launch(unit='a-0#1', argv=['sh', '-c', script], env=env, cwd='/', lease=7), owner)\n"
        "    local = await launcher.spawn(Launch(unit='b-0#1', argv=['sleep', '1000'], env=env, cwd='/'), owner)\n"
        "    print(leased.pid, local.pid, launcher.pid, now + 1.0, flush=True)\n"
        "    await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    daemon = subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None, "it is a pipe"
        leased, local, launcher, kill_at = daemon.stdout.readline().split()
        daemon.send_signal(signal.SIGSTOP)
        fd = os.pidfd_open(int(leased))
        assert select.select([fd], [], [], BOUND_S)[0], "it goes on beyond its lease"
        os.close(fd)
        assert time.clock_gettime(time.CLOCK_BOOTTIME) >= float(kill_at)
        children = Path(f"/proc/{launcher}/task/{launcher}/children")
        end = time.monotonic() + BOUND_S
        while children.read_text().split() != [local]:  # what escaped dies with it
            assert time.monotonic() < end, children.read_text()
    finally:
        daemon.kill()
        daemon.wait()
        assert daemon.stdout is not None, "it is a pipe"
        daemon.stdout.close()


def test_a_unit_starts_only_under_the_lease_in_force_and_ends_with_another() -> None:
    async def main() -> None:
        async with Daemon() as daemon:
            launcher = daemon.launcher
            with pytest.raises(SpawnFailed) as before:
                await daemon.spawn("a-0#1", SLEEP, lease=7)
            assert (before.value.data["stage"], before.value.data["retryable"]) == ("lease", True)
            later = time.clock_gettime(time.CLOCK_BOOTTIME) + 1000
            launcher.set_lease(7, later)
            await daemon.spawn("a-0#2", SLEEP, lease=7)
            with pytest.raises(SpawnFailed):
                await daemon.spawn("b-0#1", SLEEP, lease=6)
            launcher.set_lease(8, later)
            await daemon.until(lambda: "a-0#2" in daemon.empty)
            assert daemon.exits["a-0#2"].status == signal.SIGKILL

    run(main())
