"""What trees of real processes use, and that those who watch them are told in time."""

import asyncio
import contextlib
import operator
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path

import pytest

from corral.supervisor.machine.linux import cgroup as groups
from corral.supervisor.workers.usage import sampler
from corral.supervisor.workers.usage.limits import GROWTH_BYTES_PER_S
from corral.supervisor.workers.usage.sampler import Sampler
from corral.supervisor.workers.usage.tree import (
    Process,
    Tree,
    Usage,
    allocated_bytes,
    open_files,
    pss_bytes,
    read_process,
    used_s,
)

pytestmark = pytest.mark.shell

BOUND_S = 60.0

MIB = 1024 * 1024

HOG = str(Path(__file__).parents[2] / "support" / "programs" / "hog.py")


@contextlib.contextmanager
def running(*arguments: str) -> Generator[subprocess.Popen[str]]:
    """A process group of its own that is killed in the end; its output can be read line by line."""
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None, "asked for"
    return process.stdout.readline()


def survey(tree: Tree) -> Usage:
    return asyncio.run(tree.survey())


def waiting(code: str) -> list[str]:
    """Arguments of a Python that runs `code`, says so, and waits for its stdin to end or for a kill."""
    return ["-c", f"import os, sys, time, threading\n{code}\nprint('so', flush=True)\ntime.sleep(600)"]


# -- one tree


def test_a_tree_is_all_that_descends_from_its_roots() -> None:
    code = "if os.fork() == 0: os.fork()"
    with running(*waiting(code)) as process:
        for _ in range(3):
            line_of(process)
        tree = Tree(lambda: (process.pid,))
        assert survey(tree).processes == 3
        assert process.pid in tree.pids


def test_children_of_any_thread_are_of_the_tree() -> None:
    code = (
        "def other():\n  if os.fork() == 0: time.sleep(600)\n  time.sleep(600)\n"
        "threading.Thread(target=other, daemon=True).start()\n"
        "while len(os.listdir('/proc/self/task')) < 2 or not any(open(f'/proc/self/task/{t}/children').read()"
        " for t in os.listdir('/proc/self/task')): pass"
    )
    with running(*waiting(code)) as process:
        line_of(process)
        usage = survey(Tree(lambda: (process.pid,)))
        assert (usage.processes, usage.threads) == (2, 3)


def test_what_escaped_counts_by_its_root() -> None:
    with running(HOG, "escapee", "40") as process:
        escaped = int(line_of(process))
        line_of(process)
        roots: Sequence[int] = (process.pid,)
        tree = Tree(lambda: roots)
        assert survey(tree).rss_bytes < 40 * MIB
        roots = (process.pid, escaped)
        assert not tree.is_quiet()
        try:
            assert survey(tree).rss_bytes > 40 * MIB
        finally:
            os.kill(escaped, signal.SIGKILL)


def test_a_tree_whose_leader_is_gone_uses_nothing() -> None:
    with running("-c", "pass") as process:
        process.wait(BOUND_S)
        assert survey(Tree(lambda: (process.pid,))) == Usage()


def test_shared_pages_count_once_in_the_proportional_share() -> None:
    with running(HOG, "shared", "50", "4") as process:
        for _ in range(5):
            line_of(process)
        tree = Tree(lambda: (process.pid,))
        assert survey(tree).rss_bytes > 5 * 50 * MIB
        assert 50 * MIB < asyncio.run(tree.pss_bytes()) < 2 * 50 * MIB


def test_a_process_that_has_ended_since_has_no_share() -> None:
    with running(HOG, "take", "20") as process:
        line_of(process)
        tree = Tree(lambda: (process.pid,))
        assert survey(tree).rss_bytes > 20 * MIB
        process.kill()
        process.wait(BOUND_S)
        assert asyncio.run(tree.pss_bytes()) == 0


def test_a_share_that_is_not_known_is_all_that_the_process_has() -> None:
    with running(HOG, "take", "20") as process:
        line_of(process)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            assert pss_bytes({process.pid: 12345}) == 12345
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert 20 * MIB < pss_bytes({process.pid: 12345}) < 100 * MIB


def test_shares_that_take_too_long_to_measure_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def stuck(_: object) -> int:
        release.wait(BOUND_S)
        return 1

    monkeypatch.setattr("corral.supervisor.workers.usage.tree.pss_bytes", stuck)
    monkeypatch.setattr("corral.supervisor.workers.usage.tree.PSS_S", 0.01)

    async def main() -> None:
        tree = Tree(lambda: (os.getpid(),))
        usage = await tree.survey()
        assert await tree.pss_bytes() == usage.rss_bytes
        release.set()
        monkeypatch.setattr("corral.supervisor.workers.usage.tree.PSS_S", BOUND_S)
        assert await tree.pss_bytes() == 1

    asyncio.run(main())


def test_a_tree_is_quiet_until_something_in_it_runs() -> None:
    code = "signal = __import__('signal'); signal.signal(signal.SIGUSR1, lambda *_: print('ran', flush=True))"
    with running(*waiting(code)) as process:
        line_of(process)
        tree = Tree(lambda: (process.pid,))
        while not (survey(tree), tree.is_quiet())[1]:
            pass  # it was still on its way to sleep
        process.send_signal(signal.SIGUSR1)
        line_of(process)
        assert not tree.is_quiet()


def test_a_tree_that_has_lost_a_process_is_not_quiet() -> None:
    with running(*waiting("if os.fork(): time.sleep(600)")) as process:
        line_of(process)
        tree = Tree(lambda: (process.pid,))
        while not (survey(tree), tree.is_quiet())[1]:
            pass
        (child,) = [pid for pid in tree.pids if pid != process.pid]
        pidfd = os.pidfd_open(child)
        os.kill(child, signal.SIGKILL)
        assert select.select([pidfd], [], [], BOUND_S)[0]
        os.close(pidfd)
        assert not tree.is_quiet()


def test_processor_time_is_that_of_the_whole_tree_and_outlives_its_children() -> None:
    with running(HOG, "spin-in-children", "0.05") as process:
        tree = Tree(lambda: (process.pid,))

        async def watch() -> list[float]:
            seen: list[float] = []
            while not seen or seen[-1] < 0.5:
                seen.append((await tree.survey()).cpu_s)
            return seen

        seen = asyncio.run(asyncio.wait_for(watch(), BOUND_S))
        assert seen == sorted(seen)
        process.send_signal(signal.SIGSTOP)
        line = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        reaped_s = sum(map(int, line[11:15])) / os.sysconf("SC_CLK_TCK")
        # One child lives, and each of ten that were reaped may have been rounded down by a tick.
        assert survey(tree).cpu_s == pytest.approx(reaped_s, abs=0.25)


def test_descriptors_are_counted() -> None:
    with running(*waiting("held = [os.open('/dev/null', os.O_RDONLY) for _ in range(50)]")) as process:
        line_of(process)
        assert open_files(process.pid) == len(os.listdir(f"/proc/{process.pid}/fd")) >= 50
    assert open_files(process.pid) == 0


def test_a_survey_of_many_processes_gives_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.supervisor.workers.usage.tree.BATCH", 4)
    with running(*waiting("for _ in range(5): os.fork()")) as process:
        for _ in range(32):
            line_of(process)
        tree = Tree(lambda: (process.pid,))

        async def turns() -> int:
            count = 0
            task = asyncio.create_task(tree.survey())
            while not task.done():
                await asyncio.sleep(0)
                count += 1
            assert (await task).processes == 32
            return count

        assert asyncio.run(turns()) >= 32 / 4


@contextlib.contextmanager
def new_cgroup() -> Generator[Path]:
    """A group of version 2 for a test; skips where we may not have one."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    tops = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    if not tops or not os.access(tops[0], os.W_OK):
        pytest.skip("no cgroup v2 that we may write")
    path = tops[0] / f"corral-test-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        assert groups.remove(str(path))


def test_a_cgroup_shows_whose_its_processes_are_whatever_their_parents() -> None:
    with new_cgroup() as path:
        (path / "below").mkdir()
        with running(HOG, "spin-in-children", "0.05") as member:
            (path / "cgroup.procs").write_text(str(member.pid))
            with running(*waiting("")) as nested, running(*waiting("")) as outside:
                (path / "below" / "cgroup.procs").write_text(str(nested.pid))
                tree = Tree(lambda: (outside.pid,), path)
                survey(tree)
                assert {member.pid, nested.pid, outside.pid} <= set(tree.pids)
                while asyncio.run(tree.cpu_s()) < 0.3:
                    pass  # bounded by the test's own bound
                text_ = groups.read(str(path), "cpu.stat").split()
                assert survey(tree).cpu_s == pytest.approx(int(text_[1]) / 1e6, abs=0.2)
                nested.kill()
                nested.wait(BOUND_S)
            member.send_signal(signal.SIGSTOP)
            groups.kill(str(path))
            member.wait(BOUND_S)
            while groups.is_populated(str(path)):
                pass


# -- what is counted between two surveys


def process(started: int = 1, parent: int = 1, own_s: float = 0.0, reaped_s: float = 0.0) -> Process:
    return Process(started, parent, 1, 0, int(own_s * 1e9), reaped_s)


LEADER, CHILD = 10, 11


@pytest.mark.parametrize(
    ("before", "now", "expected_s"),
    [
        ({}, {LEADER: process(own_s=2.0, reaped_s=1.0)}, 3.0),
        ({LEADER: process(own_s=1.0)}, {LEADER: process(own_s=1.5)}, 0.5),
        pytest.param(
            {LEADER: process(), CHILD: process(parent=LEADER, own_s=2.0)},
            {LEADER: process(reaped_s=2.3)},
            0.3,
            id="a child that was reaped brings what it used since",
        ),
        pytest.param(
            {LEADER: process(), CHILD: process(parent=LEADER, own_s=2.0)},
            {LEADER: process(own_s=0.1)},
            0.1,
            id="a child that nobody of the tree reaped takes nothing away",
        ),
        pytest.param(
            {LEADER: process()},
            {LEADER: process(), CHILD: process(started=500, own_s=0.2)},
            0.2,
            id="a child that was born since brings all",
        ),
        pytest.param(
            {LEADER: process()},
            {LEADER: process(), CHILD: process(started=50, own_s=3600.0)},
            0.0,
            id="one that was found again brings nothing",
        ),
        pytest.param(
            {LEADER: process(), CHILD: process(started=50, own_s=5.0)},
            {LEADER: process(reaped_s=0.0), CHILD: process(started=500, own_s=0.1)},
            0.1,
            id="another process with the same pid",
        ),
        ({LEADER: process(own_s=1.0)}, {}, 0.0),
    ],
)
def test_processor_time_is_counted_once(before: dict[int, Process], now: dict[int, Process], expected_s: float) -> None:
    found_s, _ = used_s(before, now, 100 if before else 0, {})
    assert found_s == pytest.approx(expected_s)


def test_a_child_that_is_reaped_while_the_tree_is_read_is_counted_once() -> None:
    first = {LEADER: process(), CHILD: process(parent=LEADER, own_s=2.0)}
    second = {LEADER: process()}  # it was read before it reaped, and the child after
    third = {LEADER: process(reaped_s=2.3)}
    early_s, owed = used_s(first, second, 100, {})
    late_s, owed = used_s(second, third, 200, owed)
    assert early_s + late_s == pytest.approx(0.3)
    assert owed == {}


def test_a_process_that_is_gone_is_none() -> None:
    with running("-c", "pass") as ended:
        ended.wait(BOUND_S)
        assert read_process(ended.pid) is None


# -- all trees


class Notes:
    """A judge that writes down what it is told."""

    def __init__(self, wait_s: float = 0.01, room_bytes: int | None = None) -> None:
        self.room = room_bytes
        self.seen: list[Usage] = []
        self.wait = wait_s
        self.text_ = asyncio.Event()
        self.attended = asyncio.Event()
        self.is_over = False
        self.content = False
        self.glances: list[Usage] = []

    async def judge(self, usage: Usage) -> None:
        self.seen.append(usage)
        self.text_.set()

    def is_fine(self, usage: Usage) -> bool:
        self.glances.append(usage)
        return self.content

    def wait_s(self) -> float:
        return self.wait

    def pause_s(self) -> float:
        return 0.0

    def room_bytes(self) -> int | None:
        return self.room

    async def attend(self) -> None:
        try:
            self.attended.set()
            await asyncio.Event().wait()
        finally:
            self.is_over = True


@contextlib.asynccontextmanager
async def watching() -> AsyncGenerator[Sampler]:
    watcher = Sampler()
    task = asyncio.create_task(watcher.run())
    try:
        async with asyncio.timeout(BOUND_S):
            yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_tree_is_looked_at_again_and_again_when_its_judge_says() -> None:
    async def main() -> None:
        with running(HOG, "spin") as busy:
            async with watching() as watcher:
                notes = Notes()
                watcher.watch("busy", Tree(lambda: (busy.pid,)), notes)
                while len(notes.seen) < 3:
                    notes.text_.clear()
                    await notes.text_.wait()
                assert notes.seen[-1].cpu_s > 0.0
                assert watcher.of("busy").rss_bytes > MIB

    asyncio.run(main())


def test_a_tree_that_is_quiet_is_not_read_again() -> None:
    async def main() -> None:
        with running(*waiting("")) as idle, running(HOG, "spin") as busy:
            line_of(idle)
            line_of(busy)
            async with watching() as watcher:
                sleeper, spinner = Notes(), Notes()
                watcher.watch("idle", Tree(lambda: (idle.pid,)), sleeper)
                watcher.watch("busy", Tree(lambda: (busy.pid,)), spinner)
                while len(spinner.seen) < 20:
                    spinner.text_.clear()
                    await spinner.text_.wait()
                assert len(sleeper.seen) < 5  # the first, and what it did before it slept

    asyncio.run(main())


class Given:
    """What the machine has given out, in the place of /proc/vmstat, and whether it was asked for."""

    def __init__(self) -> None:
        self.mib = 0
        self.read = asyncio.Event()

    def allocated_bytes(self) -> int:
        self.read.set()
        return self.mib * MIB


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    found = Given()
    monkeypatch.setattr(sampler, "allocated_bytes", found.allocated_bytes)
    return found


def test_a_tree_is_looked_at_when_the_machine_has_given_out_what_it_may_still_take(given: Given) -> None:
    async def main() -> None:
        with running(HOG, "spin") as busy:
            async with watching() as watcher:
                near, far = Notes(600.0, 200 * MIB), Notes(600.0, 10_000 * MIB)
                watcher.watch("far", Tree(lambda: (busy.pid,)), far)
                watcher.watch("near", Tree(lambda: (busy.pid,)), near)
                for given.mib in (50, 201, 250, 402):
                    given.read.clear()
                    await given.read.wait()  # the figure before this one has been acted upon
                    while len(near.seen) < given.mib // 201:
                        near.text_.clear()
                        await near.text_.wait()
                assert len(near.seen) == 2
                assert far.seen == []

    asyncio.run(main())


def test_a_tree_that_was_quiet_when_it_might_have_been_over_its_limit_is_asked_after_again(given: Given) -> None:
    async def main() -> None:
        with running(*waiting("")) as idle:
            line_of(idle)
            async with watching() as watcher:
                watcher.watch("idle", Tree(lambda: (idle.pid,)), Notes(600.0, 200 * MIB))
                for _ in range(4):
                    given.mib += 201
                    for _ in range(2):  # by the second time it was looked at
                        given.read.clear()
                        await given.read.wait()

    asyncio.run(main())


class Spied(Tree):
    """A tree that counts how often it is asked after."""

    def __init__(self, pid: int, other: int) -> None:
        self.asked = 0
        self.other = other
        self.also: list[int] = []

        def roots() -> Sequence[int]:
            self.asked += 1
            return (pid, *self.also)

        super().__init__(roots)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


def asleep(*pids: int) -> bool:
    return all(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S" for pid in pids)


def test_quiet_trees_of_which_one_wakes_are_held_to_their_limits_however_long_they_have_rested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_mib = 0
    monkeypatch.setattr(sampler, "allocated_bytes", lambda: given_mib * MIB)

    async def main() -> None:
        nonlocal given_mib
        async with contextlib.AsyncExitStack() as stack:
            cats = [stack.enter_context(cat()) for _ in range(2 * sampler.COHORT_LEAST)]
            await until(lambda: asleep(*(each.pid for each in cats)))
            watcher = await stack.enter_async_context(watching())
            trees = [Spied(each.pid, cats[-1].pid) for each in cats]
            all_notes = [Notes(600.0, 20 * MIB) for _ in cats]
            for number, (tree, notes) in enumerate(zip(trees, all_notes, strict=True)):
                watcher.watch(str(number), tree, notes)

            async def asked() -> None:
                """Has all of them asked after, since one of them may have taken what the machine gave out."""
                nonlocal given_mib
                given_mib += 30
                before = [tree.asked for tree in trees]
                await until(lambda: all(map(operator.lt, before, (tree.asked for tree in trees))))

            async def is_found(number: int, wake: Callable[[Cat, Spied], None]) -> None:
                before = len(all_notes[number].seen)
                wake(cats[number], trees[number])
                await asked()
                await until(lambda: len(all_notes[number].seen) > before)
                assert {len(notes.seen) for notes in all_notes[9:]} == {1}, "the others rest"

            for _ in range(4):  # by the third time they rest, and by the fourth together
                await asked()
            assert {len(notes.seen) for notes in all_notes} == {1}, "nothing has happened"
            for number, wake in enumerate((woken, claimed, woken, gone)):
                await is_found(number, wake)
            watcher.stir("5")
            for number in (5, 6):
                await is_found(number, woken)
            watcher.forget("7")
            woken(cats[7], trees[7])
            del trees[7], cats[7]
            forgotten = all_notes.pop(7)
            await is_found(7, woken)
            assert len(forgotten.seen) == 1

    asyncio.run(asyncio.wait_for(main(), BOUND_S))


Cat = subprocess.Popen[bytes]


@contextlib.contextmanager
def cat() -> Generator[Cat]:
    """A process that says back what it is told, and sleeps until then."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def woken(process: Cat, _tree: Spied) -> None:
    assert process.stdin is not None, "asked for"
    assert process.stdout is not None, "asked for"
    process.stdin.write(b"so\n")
    process.stdin.flush()
    process.stdout.readline()


def claimed(_process: Cat, tree: Spied) -> None:
    """Something that had escaped is found to be of it."""
    tree.also.append(tree.other)


def gone(process: Cat, _tree: Spied) -> None:
    process.kill()
    process.wait(BOUND_S)


def test_what_a_process_takes_is_in_what_the_kernel_has_given_out() -> None:
    before = allocated_bytes()
    with running(HOG, "take", "40") as process:
        line_of(process)
        assert allocated_bytes() >= before + 40 * MIB


def test_where_the_kernel_does_not_report_it_all_have_taken_memory_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("corral.supervisor.workers.usage.tree._vmstat", lambda: b"nr_free_pages 1\n")
    before, until = allocated_bytes(), time.monotonic() + 0.05
    while time.monotonic() < until:
        pass
    assert allocated_bytes() - before >= 0.05 * GROWTH_BYTES_PER_S


def test_what_is_forgotten_is_attended_no_more() -> None:
    async def main() -> None:
        with running(*waiting("")) as idle:
            line_of(idle)
            async with watching() as watcher:
                notes = Notes()
                watcher.watch("idle", Tree(lambda: (idle.pid,)), notes)
                await notes.attended.wait()
                watcher.forget("idle")
                watcher.forget("idle")
                while not notes.is_over:
                    await asyncio.sleep(0)
                assert watcher.of("idle") == sampler.Sample()

    asyncio.run(main())


def test_a_judge_that_fails_does_not_leave_the_others_unwatched() -> None:
    class Broken(Notes):
        async def judge(self, usage: Usage) -> None:
            raise RuntimeError("a fault of ours")

        async def attend(self) -> None:
            raise RuntimeError("another one")

    async def main() -> None:
        with running(HOG, "spin") as busy:
            async with watching() as watcher:
                notes = Notes()
                watcher.watch("broken", Tree(lambda: (busy.pid,)), Broken())
                watcher.watch("busy", Tree(lambda: (busy.pid,)), notes)
                while len(notes.seen) < 3:
                    notes.text_.clear()
                    await notes.text_.wait()

    asyncio.run(main())


@pytest.mark.parametrize("how", ["spin", "spin-in-children"])
def test_a_share_of_the_processors_is_never_below_nothing_nor_above_all_of_them(how: str) -> None:
    async def main() -> None:
        with running(HOG, how, "1" if how == "spin" else "0.02") as busy:
            if how == "spin":
                for _ in range(3):
                    line_of(busy)  # it has used 0.3 s before anybody looks
            async with watching() as watcher:
                notes = Notes()
                watcher.watch("busy", Tree(lambda: (busy.pid,)), notes)
                seen: list[float] = []
                while len(notes.seen) < 60:
                    notes.text_.clear()
                    await notes.text_.wait()
                    seen.append(watcher.of("busy").cpu_percent)
                assert min(seen) >= 0.0
                assert 0.0 < max(seen) <= 100.0 * (os.cpu_count() or 1) + 10.0

    asyncio.run(main())


# -- a glance at a single process


def test_a_glance_sees_what_a_survey_sees() -> None:
    with running(*waiting("held = bytearray(30 << 20)")) as process:
        line_of(process)
        tree = Tree(lambda: (process.pid,))
        assert tree.quick_look() is None, "nothing is known of it yet"
        surveyed = survey(tree)
        tree.count_files()
        files = tree.most_files
        glanced = tree.quick_look()
        assert glanced is not None
        assert glanced._replace(cpu_s=0.0) == surveyed._replace(cpu_s=0.0)
        assert glanced.cpu_s >= surveyed.cpu_s
        assert tree.most_files == files > 0
        tree.close()


def test_processor_time_goes_on_from_a_survey_to_glances_and_back() -> None:
    with running(HOG, "spin") as process:
        tree = Tree(lambda: (process.pid,))
        seen = [survey(tree).cpu_s]
        while seen[-1] < 0.2:
            glanced = tree.quick_look()
            assert glanced is not None
            seen.append(glanced.cpu_s)
        seen.append(survey(tree).cpu_s)
        assert seen == sorted(seen)
        own_s = time.clock_gettime((~process.pid << 3) | 2)
        assert seen[-1] == pytest.approx(own_s, abs=0.2)
        tree.close()


@pytest.mark.parametrize("code", ["os.fork()", "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"])
def test_more_than_one_process_or_thread_is_too_much_for_a_glance(code: str) -> None:
    grow = f"sys.stdin.readline()\n{code}\nprint('grown', flush=True)"
    with subprocess.Popen(
        [sys.executable, *waiting("print('so far', flush=True)\n" + grow)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdin is not None, "asked for"
            line_of(process)
            tree = Tree(lambda: (process.pid,))
            survey(tree)
            assert tree.quick_look() is not None
            process.stdin.write("\n")
            process.stdin.flush()
            line_of(process)
            assert tree.quick_look() is None
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_is_gone_is_none_at_a_glance_and_holds_nothing_open() -> None:
    with running(*waiting("")) as process:
        line_of(process)
        tree = Tree(lambda: (process.pid,))
        survey(tree)
        before = len(os.listdir("/proc/self/fd"))
        assert tree.quick_look() is not None
        process.kill()
        process.wait(BOUND_S)
        assert tree.quick_look() is None
        assert len(os.listdir("/proc/self/fd")) == before


def test_who_is_alone_in_its_cgroup_is_seen_at_a_glance() -> None:
    with new_cgroup() as path, running(*waiting("")) as alone, running(*waiting("")) as other:
        line_of(alone)
        line_of(other)
        (path / "cgroup.procs").write_text(str(alone.pid))
        tree = Tree(lambda: (alone.pid,), path)
        survey(tree)
        assert tree.quick_look() is not None
        (path / "below").mkdir()
        assert tree.quick_look() is None, "others may be below it"
        (path / "below").rmdir()
        assert tree.quick_look() is not None
        (path / "cgroup.procs").write_text(str(other.pid))
        assert tree.quick_look() is None
        tree.close()
        groups.kill(str(path))
        alone.wait(BOUND_S)
        other.wait(BOUND_S)
        while groups.is_populated(str(path)):
            pass


def test_a_content_judge_is_asked_at_a_glance_and_figures_are_reported_when_they_change() -> None:
    async def main() -> None:
        text_: list[object] = []
        with running(HOG, "spin") as busy:
            watcher = Sampler(text_.append)
            task = asyncio.create_task(watcher.run())
            notes = Notes()
            notes.content = True
            watcher.watch("busy", Tree(lambda: (busy.pid,)), notes)
            async with asyncio.timeout(BOUND_S):
                while len(notes.glances) < 3:
                    await asyncio.sleep(0)
            assert len(notes.seen) == 1, "only the first look was a survey"
            assert text_
            assert set(text_) == {notes}
            watcher.forget("busy")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_thousands_that_are_due_together_give_others_their_turn() -> None:
    looks = 0

    class Quiet(Tree):
        def is_quiet(self) -> bool:
            nonlocal looks
            looks += 1
            return True

    async def main() -> None:
        most = 0
        async with watching() as watcher:
            for number in range(10 * sampler.LOOKS_PER_TURN):
                watcher.watch(str(number), Quiet(lambda: (os.getpid(),)), Notes(wait_s=0.2))
            while looks < 30 * sampler.LOOKS_PER_TURN:
                before = looks
                await asyncio.sleep(0)
                most = max(most, looks - before)
        # The last of a turn may be a cohort, of whose members each is asked, and has then to be looked at.
        assert sampler.LOOKS_PER_TURN <= most <= 3 * sampler.LOOKS_PER_TURN

    asyncio.run(main())
