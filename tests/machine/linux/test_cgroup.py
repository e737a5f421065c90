"""The cgroups of units: which subtree is ours, what is written to it, and that nothing leaves it alive.

Real groups where this machine gives them; the files of controllers in a folder that looks like one.
"""

import asyncio
import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.supervisor.machine.linux import cgroup, kernel
from corral.supervisor.workers.process import containment
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.worker.contract.errors import SpawnFailed
from launcher_wire import AGENTS, BOUND_S, Wire, with_token

pytestmark = pytest.mark.shell

ROOT = os.geteuid() == 0
NOBODY = 65534

needs_root = pytest.mark.skipif(not ROOT, reason="only root may become another user, or delegate")


@pytest.fixture
def subtree(tmp_path: Path) -> Iterator[containment.Subtree]:
    try:
        found = containment.claim(tmp_path)
    except containment.Refusal as refusal:
        pytest.skip(f"no cgroup: {refusal}")
    yield found
    assert cgroup.remove(str(found.path))
    found.remove()


@pytest.fixture
def wire(subtree: containment.Subtree) -> Iterator[Wire]:
    it = Wire(subtree)
    yield it
    it.close()
    assert cgroup.below(str(subtree.path)) == [], "the launcher removes what it made"


@pytest.fixture
def token() -> Iterator[str]:
    word = f"token-{os.getpid()}-{time.monotonic_ns()}"
    yield word
    for pid in with_token(word):
        os.kill(pid, signal.SIGKILL)


def wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + BOUND_S
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is left"


# --- the groups of the units ---


def test_everything_that_a_unit_forks_is_in_its_group(wire: Wire, subtree: containment.Subtree, token: str) -> None:
    pids = wire.tree("a-0#1", token, 3, 2)
    wire.start("b-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    folder = subtree.unit("a-0#1")
    assert sorted(cgroup.processes(str(folder))) == sorted(pids)
    assert {subtree.groups.unit_of(pid) for pid in pids} == {"a-0#1"}
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied", unit="a-0#1")
    assert with_token(token) == []
    wait_until_gone(folder)
    assert cgroup.is_populated(str(subtree.unit("b-0#1")))


def test_units_of_a_tenant_are_in_its_slice_which_goes_with_the_last_of_them(
    wire: Wire, subtree: containment.Subtree, token: str
) -> None:
    pids = wire.tree("acme/a-0#1", token, 1, 1)
    other, _line = wire.start("acme/b-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    mine, _line = wire.start("tenant-acme-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    folder = Path(cgroup.slice_of(str(subtree.path), "acme"))
    assert subtree.unit("acme/a-0#1") == folder / "a-0#1"
    assert sorted(cgroup.processes(str(folder / "a-0#1"))) == sorted(pids)
    assert {subtree.groups.unit_of(pid) for pid in pids} == {"acme/a-0#1"}
    assert subtree.groups.unit_of(other) == "acme/b-0#1"
    assert subtree.groups.unit_of(mine) == "tenant-acme-0#1"
    wire.send(op="kill", unit="acme/a-0#1")
    wire.hear("emptied", unit="acme/a-0#1")
    wait_until_gone(folder / "a-0#1")
    assert cgroup.below(str(folder)) == [str(folder / "b-0#1")]
    wire.send(op="kill", unit="acme/b-0#1")
    wait_until_gone(folder)
    assert cgroup.is_populated(str(subtree.unit("tenant-acme-0#1")))


@pytest.mark.long
def test_a_slice_that_is_removed_in_the_same_moment_is_made_again(subtree: containment.Subtree) -> None:
    groups = subtree.groups
    code = (
        "import sys; from corral.supervisor.machine.linux import cgroup; groups = cgroup.Groups(*sys.argv[1:3])\n"
        "for _ in range(10000): assert cgroup.remove(groups.make('acme/b-0#1', 0, 0, 0, (0, 0, 0)))"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code, groups.path, groups.name]) as other:
        while other.poll() is None:
            assert cgroup.remove(groups.make("acme/a-0#1", 0, 0, 0, (0, 0, 0)))
    assert other.returncode == 0
    assert cgroup.below(groups.path) == []


def test_a_start_that_fails_leaves_no_group(wire: Wire, subtree: containment.Subtree) -> None:
    for stage, program, cwd in (
        ("exec", "/no/such/program", "/"),
        ("chdir", "true", "/no/such/folder"),
        ("descriptors", "true", "/"),
    ):
        if stage == "descriptors":
            seq = wire.send(op="spawn", unit="a-0#1", argv=[program])  # without any
        else:
            seq, reading = wire.spawn("a-0#1", [program], cwd=cwd)
            os.close(reading)
        assert wire.hear("failed", seq=seq)["stage"] == stage
        wait_until_gone(subtree.unit("a-0#1"))


def test_a_group_that_cannot_be_made_is_a_start_that_failed(wire: Wire, subtree: containment.Subtree) -> None:
    cgroup.write(str(subtree.path), "cgroup.max.descendants", "0")
    seq, reading = wire.spawn("a-0#1", ["true"])
    os.close(reading)
    answer = wire.hear("failed", seq=seq)
    assert (answer["stage"], answer["errno"]) == ("cgroup", errno.EAGAIN)
    assert answer["retryable"], "other units' groups may go"
    assert wire.listed()["units"] == []


@needs_root
def test_a_worker_that_leaves_its_group_is_killed_all_the_same(wire: Wire, subtree: containment.Subtree) -> None:
    own = subtree.path.parent
    code = f"echo $$ > {own}/cgroup.procs; setsid sleep 1000 & echo; exec sleep 1000"
    pid, _line = wire.start("a-0#1", ["sh", "-c", code])
    assert not cgroup.is_populated(str(subtree.unit("a-0#1")))
    (unit,) = wire.listed()["units"]
    assert len(unit["processes"]) == 2
    pidfds = [os.pidfd_open(pid) for pid in unit["processes"]]
    assert unit["pid"] == pid
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied", unit="a-0#1")
    assert select.select(pidfds, [], [], 0)[0] == pidfds
    for pidfd in pidfds:
        os.close(pidfd)


def test_a_stranger_in_the_group_of_a_unit_is_part_of_it(wire: Wire, subtree: containment.Subtree) -> None:
    pid, _line = wire.start("a-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    with subprocess.Popen(["sleep", "1000"]) as stranger, contextlib.ExitStack() as undo:
        undo.callback(stranger.kill)
        cgroup.write(str(subtree.unit("a-0#1")), "cgroup.procs", str(stranger.pid))
        os.kill(pid, signal.SIGKILL)
        wire.hear("exited", unit="a-0#1")
        wire.hear("pong", seq=wire.send(op="ping"))
        assert all(message["op"] != "emptied" for message in wire.said)
        wire.send(op="kill", unit="a-0#1")
        assert stranger.wait(BOUND_S) == -signal.SIGKILL
        wire.hear("emptied", unit="a-0#1")


@needs_root
def test_groups_that_a_worker_made_below_its_own_go_with_it(wire: Wire, subtree: containment.Subtree) -> None:
    folder = subtree.unit("a-0#1")
    inner = folder / "x" / "y"
    code = f"mkdir -p {inner}; sleep 1000 & echo $! > {inner}/cgroup.procs; echo; exec sleep 1000"
    wire.start("a-0#1", ["sh", "-c", code])
    assert cgroup.processes(str(inner))
    wire.send(op="kill", unit="a-0#1")
    wire.hear("emptied", unit="a-0#1")
    wait_until_gone(folder)


@pytest.mark.parametrize(("depth", "is_removed"), [(1500, True), (2500, False)])
def test_no_depth_of_groups_ends_whoever_removes_them(tmp_path: Path, depth: int, is_removed: bool) -> None:
    (tmp_path / "group").mkdir()
    folder = os.open(tmp_path / "group", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("x", dir_fd=folder)
        inner = os.open("x", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert cgroup.remove(str(tmp_path / "group")) is is_removed, "a path has 4,096 bytes at most"
    subprocess.run(["rm", "-rf", tmp_path / "group"], check=True)  # which knows no such bound


def test_a_launcher_that_ends_leaves_the_groups_of_its_successor_alone(
    wire: Wire, subtree: containment.Subtree
) -> None:
    wire.start("a-0#1", ["sh", "-c", "echo; exec sleep 1000"])
    successor = Wire(subtree)
    pid, _line = successor.start("a-0#2", ["sh", "-c", "echo; exec sleep 1000"])
    wire.close()
    assert cgroup.processes(str(subtree.unit("a-0#2"))) == {pid}
    assert cgroup.below(str(subtree.path)) == [str(subtree.unit("a-0#2"))]
    successor.start("a-0#3", ["sh", "-c", "echo; exec sleep 1000"])
    successor.close()


def test_the_subtree_of_a_dead_daemon_is_removed_unless_the_next_one_holds_it(
    tmp_path: Path, subtree: containment.Subtree
) -> None:
    path = str(subtree.path)
    with pytest.raises(BlockingIOError):
        cgroup.remove_unheld(path)
    successor = containment.claim(tmp_path)
    subtree.remove()  # which cannot have it, for one
    successor.remove()
    successor.make()
    with pytest.raises(BlockingIOError):
        cgroup.remove_unheld(path)
    successor.remove()
    os.mkdir(path)
    cgroup.remove_unheld(path)
    assert cgroup.hold(path) == -1


# --- the files of the controllers, in a folder that looks like a group ---


@pytest.fixture
def lookalike(tmp_path: Path) -> Path:
    """A folder with the files of a group that has all controllers, and a unit's below it."""
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    (tmp_path / "a-0#1").mkdir()
    for name in names:
        (tmp_path / "a-0#1" / name).touch()
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {path.name: text for path in folder.iterdir() if (text := path.read_text())}


def test_limits_are_written_as_the_kernel_reads_them(lookalike: Path) -> None:
    groups = cgroup.Groups(str(lookalike), "/corral")
    folder = Path(groups.make("a-0#1", 2 << 30, 80, 40))
    assert contents(folder) == {
        "memory.max": "2147483648",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "40",
        "cpu.max": "80000 100000",
    }


def test_a_slice_is_made_with_its_limits_and_given_others(tmp_path: Path) -> None:
    slice_, unit = tmp_path / "tenant-acme", tmp_path / "tenant-acme" / "a-0#1"
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    unit.mkdir(parents=True)
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    for folder in (slice_, unit):
        for name in (*names, "cgroup.subtree_control"):
            (folder / name).touch()
    groups = cgroup.Groups(str(tmp_path), "/corral")
    groups.make("acme/a-0#1", 0, 0, 0, (1 << 20, 50, 7))
    assert (slice_ / "cgroup.subtree_control").read_text().startswith("+")
    assert (slice_ / "memory.max").read_text() == "", "it was there, with its limits"
    assert (unit / "memory.oom.group").read_text() == "1"
    cgroup.relimit_slice(str(slice_), 1 << 20, 50, 7)
    told = {name: (slice_ / name).read_text() for name in names}
    assert told == {
        "memory.max": "1048576",
        "memory.swap.max": "0",
        "memory.oom.group": "",
        "pids.max": "7",
        "cpu.max": "50000 100000",
    }
    for name in names:
        (slice_ / name).write_text("")
    cgroup.relimit_slice(str(slice_), 0, 0, 0)
    assert {(slice_ / name).read_text() for name in ("memory.max", "pids.max")} == {"max"}
    cgroup.relimit_slice(str(tmp_path / "gone"), 1, 1, 1)


def test_a_limit_without_its_controller_or_of_zero_is_not_written(lookalike: Path) -> None:
    (lookalike / "cgroup.subtree_control").write_text("pids\n")
    (lookalike / "a-0#1" / "memory.swap.max").unlink()  # a kernel without swap
    folder = Path(cgroup.Groups(str(lookalike), "/corral").make("a-0#1", 1 << 20, 50, 7))
    assert contents(folder) == {"pids.max": "7"}
    (lookalike / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (lookalike / "a-0#1" / "pids.max").write_text("")
    cgroup.Groups(str(lookalike), "/corral").make("a-0#1", 0, 0, 0)
    assert contents(folder) == {}


def test_the_limits_of_a_living_group_change_and_go(lookalike: Path) -> None:
    folder = lookalike / "a-0#1"
    (folder / "memory.swap.max").unlink()  # a kernel without swap
    cgroup.relimit(str(folder), 1 << 20, 0)
    assert contents(folder) == {"memory.max": "1048576", "memory.oom.group": "1", "cpu.max": "max 100000"}
    for path in folder.iterdir():
        path.write_text("")
    cgroup.relimit(str(folder), 0, 150)
    assert contents(folder) == {"memory.max": "max", "cpu.max": "150000 100000"}
    cgroup.relimit(str(lookalike / "gone"), 1, 1)


@pytest.mark.parametrize(
    ("own", "of_tenant", "of", "limit", "peak"),
    [(2, 0, "unit", 1000, 990), (2, 5, "unit", 1000, 990), (0, 5, "tenant", 5000, 4990), (0, 0, "above", 0, 0)],
)
def test_kills_for_memory_are_counted_and_whose_limit_it_was(
    tmp_path: Path, own: int, of_tenant: int, of: str, limit: int, peak: int
) -> None:
    unit = tmp_path / "unit"
    unit.mkdir()
    (unit / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom {own}\noom_kill 0\n")
    assert cgroup.oom(str(unit))["kills"] == 0
    (unit / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom {own}\noom_kill 3\n")
    (tmp_path / "memory.events.local").write_text(f"oom {of_tenant}\noom_kill 0\n")
    for folder, limit_bytes in ((unit, 1000), (tmp_path, 5000)):
        (folder / "memory.max").write_text(f"{limit_bytes}\n")
        (folder / "memory.peak").write_text(f"{limit_bytes - 10}\n")
    told = {"kills": 3, "of": of, "limit_bytes": limit, "peak_bytes": peak}
    assert cgroup.oom(str(unit)) == told
    assert cgroup.oom(str(tmp_path / "gone"))["kills"] == 0


# --- which subtree is ours ---


def test_the_subtree_of_a_state_folder_has_always_the_same_name(subtree: containment.Subtree, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    again = containment.claim(tmp_path / "." / "x" / "..")
    assert (again.path, again.name) == (subtree.path, subtree.name)
    again.remove()
    other = containment.claim(tmp_path / "x")
    other.remove()
    assert other.path != subtree.path
    assert cgroup.name_of(os.getpid()) == os.path.dirname(subtree.name) or "/"


def test_what_was_left_in_the_subtree_is_killed_and_removed(subtree: containment.Subtree) -> None:
    folder = subtree.unit("a-0#1")
    (folder / "inner").mkdir(parents=True)
    subtree.unit("b-0#1").mkdir()
    with subprocess.Popen(["sleep", "1000"]) as left, contextlib.ExitStack() as undo:
        undo.callback(left.kill)
        cgroup.write(str(folder / "inner"), "cgroup.procs", str(left.pid))
        asyncio.run(subtree.clear())
        assert left.wait(BOUND_S) == -signal.SIGKILL
    assert cgroup.below(str(subtree.path)) == []


@needs_root
def test_an_ordinary_user_takes_no_subtree_that_is_not_its_own(tmp_path: Path) -> None:
    os.seteuid(NOBODY)
    try:
        with pytest.raises(containment.Refusal) as refusal:
            containment.claim(tmp_path)
    finally:
        os.seteuid(0)
    assert str(refusal.value)


def test_a_tier_that_is_asked_for_and_not_to_be_had_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as undo:
        if ROOT:
            os.seteuid(NOBODY)
            undo.callback(os.seteuid, 0)
        try:
            containment.claim(tmp_path).remove()
            pytest.skip("this user has a subtree of its own")
        except containment.Refusal:
            pass
        launcher = Launcher(state_dir=Path("/"), tier="cgroup")
        with pytest.raises(SpawnFailed) as failure:
            asyncio.run(launcher.start())
        assert failure.value.data["stage"] == "cgroup"


def test_a_refusal_names_the_folder_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "App.slice" / "Agents.service"

    def refuse(_state_dir: Path) -> containment.Subtree:
        raise containment.Refusal(f"systemd has not delegated {folder}")

    monkeypatch.setattr(containment, "claim", refuse)
    launcher = Launcher(state_dir=tmp_path, tier="cgroup")
    with pytest.raises(SpawnFailed) as failure:
        asyncio.run(launcher.start())
    assert str(folder) in failure.value.message


def test_what_this_machine_gives_is_reported_part_by_part(tmp_path: Path) -> None:
    async def tell(**options: object) -> containment.Containment:
        launcher = Launcher(**options)  # type: ignore[arg-type] # of the rows below
        await launcher.start()
        await launcher.close()
        return launcher.containment

    plain = asyncio.run(tell(state_dir=tmp_path, tier="launcher"))
    assert (plain.tier, plain.kill, plain.freeze) == ("launcher", "subreaper", "signals")
    assert (plain.memory, plain.cpu, plain.processes) == ("sampled", "sampled", "rlimit")
    assert plain.cgroup is None
    best = asyncio.run(tell(state_dir=tmp_path))
    parts = {best.memory, best.cpu, best.processes}
    if best.cgroup is None:
        assert best.tier == "launcher"
    else:
        assert (best.kill, best.freeze) == ("cgroup.kill", "cgroup.freeze")
        assert best.tier == ("cgroup" if parts == {"cgroup"} else "cgroup-kill")
    assert bool(best.reason) == (parts != {"cgroup"})


@needs_root
@pytest.mark.parametrize("is_in_leaf", [False, True])
def test_below_a_delegated_group_the_daemon_moves_to_a_leaf(
    subtree: containment.Subtree, token: str, tmp_path: Path, is_in_leaf: bool
) -> None:
    service = subtree.path / "service"
    start = service / "supervisor" if is_in_leaf else service  # systemd's DelegateSubgroup=
    start.mkdir(parents=True)
    try:
        os.setxattr(service, "user.delegate", b"1")
    except OSError:
        pytest.skip("this kernel keeps no attributes of groups")
    options = json.dumps({"state_dir": str(tmp_path), "tier": "cgroup"})
    host = [sys.executable, str(AGENTS / "launcher_host.py"), token, "2", options]
    enter = ["sh", "-c", f'echo $$ > {start}/cgroup.procs; exec "$@"', "sh"]
    with subprocess.Popen([*enter, *host], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        launcher_pid = int(daemon.stdout.readline())
        pidfd = os.pidfd_open(launcher_pid)
        assert cgroup.processes(str(service)) == set()
        assert cgroup.processes(str(service / "supervisor")) == {daemon.pid, launcher_pid}
        workers = sorted(path.name for path in (service / "agents").iterdir() if path.is_dir())
        assert workers == ["a-0#1", "a-1#1"]
        assert len(cgroup.processes(str(service / "agents" / "a-1#1"))) == 4
        daemon.kill()
    assert select.select([pidfd], [], [], BOUND_S)[0], "the launcher ends"
    os.close(pidfd)
    assert with_token(token) == []
    assert not (service / "agents").exists(), "nobody holds it any more"


def test_a_group_is_named_by_the_kernel(subtree: containment.Subtree) -> None:
    process = kernel.look_up(os.getpid())
    assert process is not None
    assert cgroup.name_of(process.pid) == cgroup.name_of("self")
    assert subtree.groups.unit_of(process.pid) == ""
    assert cgroup.name_of(2**22 + 1) == "", "no such process"
