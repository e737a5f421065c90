"""The daemon's side of a zygote, with real launchers, real zygotes, and zygotes that lie."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from corral.supervisor.machine.linux import cgroup, kernel
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.workers.process import containment
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.process.parent import Child, Exit, Launch
from corral.supervisor.workers.zygote.client import SO_PASSRIGHTS, Loaded, Zygote
from corral.worker.contract.errors import SpawnFailed, Timeout

pytestmark = pytest.mark.shell

BOUND_S = 60.0
AGENTS = Path(__file__).parents[2] / "support" / "programs"
LIMITS = LogLimits(1 << 20, 5)
ROOT = os.geteuid() == 0


@pytest.fixture(params=["launcher", "cgroup", "pidns"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What a Launcher is made with in each tier that this machine gives."""
    if request.param == "cgroup":
        try:
            containment.claim(tmp_path).remove()
        except containment.Refusal as refusal:
            pytest.skip(f"no cgroup: {refusal}")
        yield {"state_dir": tmp_path, "tier": "auto"}
    elif request.param == "pidns" and not ROOT:
        pytest.skip("an ordinary user's namespace is tested elsewhere")
    else:
        yield {"pid_namespace": request.param == "pidns"}


class ZygoteHarness:
    """A launcher, one zygote of `perjurer`, and what was told of its workers."""

    def __init__(self, folder: Path, options: dict[str, Any], perjury: str, **launch: Any) -> None:
        self.folder = folder
        self.exits: dict[str, Exit] = {}
        self.empty: list[str] = []
        self.losses: list[str] = []
        self.changed = asyncio.Event()
        self.children: list[Child] = []
        self.logs = LogStore(folder / "logs")
        self.launcher = Launcher(**options)
        (folder / "tmp").mkdir()
        self.env = {"PATH": os.defpath, "PERJURY": perjury}
        order = json.dumps({"entrypoint": "perjurer:agent", "preload": []})
        self.launch = Launch(
            unit="perjurer.zygote#1",
            argv=[sys.executable, "-P", "-m", "corral.worker.zygote.program", order],
            env=self.env | {"TMPDIR": str(folder / "tmp" / "zygote")},
            cwd=str(AGENTS),
            temporary=str(folder / "tmp" / "zygote"),
            **launch,
        )

    async def __aenter__(self) -> "ZygoteHarness":
        await self.launcher.start()
        self.log = self.logs.writer("perjurer", "perjurer.zygote", LIMITS)
        self.zygote = Zygote(
            self.launcher,
            self.launch,
            on_changed=lambda _: self.changed.set(),
            on_lost=self._on_lost,
            log=self.log,
            silence_s=1.5,
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.zygote.close()
        await self.launcher.close()
        self.logs.release(self.log)
        self.logs.close()
        for child in self.children:
            for fd in (child.stdin_fd, child.stdout_fd, child.stderr_fd):
                if fd is not None:
                    os.close(fd)
        assert list((self.folder / "tmp").iterdir()) == [], "a zygote's temporary folder is removed"

    def exited(self, report: Exit) -> None:
        assert report.unit not in self.exits, "an exit is told once"
        self.exits[report.unit] = report
        self.changed.set()

    def emptied(self, unit: str) -> None:
        assert unit in self.exits, "an exit comes before the emptiness"
        assert unit not in self.empty, "an emptiness is told once"
        self.empty.append(unit)
        self.changed.set()

    def _on_lost(self, _: Zygote, reason: str) -> None:
        assert not self.zygote.is_loaded, "nobody forks from what is lost"
        self.losses.append(reason)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def none_left(self) -> None:
        async with asyncio.timeout(BOUND_S):
            while self.zygote.count:
                await asyncio.sleep(0)

    async def start(self) -> Loaded:
        async with asyncio.timeout(BOUND_S):
            return await self.zygote.start()

    async def spawn(self, unit: str) -> Child:
        launch = Launch(
            unit=unit,
            argv=["none"],
            env=self.env | {"TMPDIR": str(self.folder / "tmp" / unit)},
            cwd=str(AGENTS),
            temporary=str(self.folder / "tmp" / unit),
        )
        async with asyncio.timeout(BOUND_S):
            child = await self.zygote.spawn(launch, self)
        self.children.append(child)
        return child

    async def lived_in(self, *units: str) -> list[int]:
        """The pids of a zygote and of all below it: forks of these names, and what has escaped of the first."""
        await self.start()
        first, *_ = [await self.spawn(unit) for unit in units]
        await self.talk(first, "escape")
        return [process.pid for process in kernel.walk(self.zygote.pid)]

    async def talk(self, child: Child, objective: str) -> Any:
        """What the task of a fork answers; the first time it is initialized."""
        assert child.stdin_fd is not None, "it has both pipes"
        assert child.stdout_fd is not None, "it has both pipes"
        initialize: dict[str, object] = {
            "protocolVersion": "1",
            "agent": "perjurer",
            "worker": "perjurer-0",
            "incarnation": 1,
            "heartbeat_interval_s": 60,
            "limits": {},
            "config": {},
        }
        run: dict[str, object] = {"task": "t", "attempt": 1, "objective": objective, "input": None, "context": {}}
        requests: list[tuple[str, dict[str, object]]] = [
            ("initialize", initialize),
            ("task/run", run | {"boundaries": {}}),
        ]
        answer: Any = None
        for number, (method, params) in enumerate(requests, 1):
            request: dict[str, object] = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            os.write(child.stdin_fd, json.dumps(request).encode() + b"\n")
            answer = await self._answer(child.stdout_fd, number)
        return answer["result"]["output"]

    async def _answer(self, fd: int, number: int) -> Any:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(fd, readable.set)
        text = b""
        try:
            async with asyncio.timeout(BOUND_S):
                while True:
                    await readable.wait()
                    readable.clear()
                    text += os.read(fd, 65536)
                    *lines, text = text.split(b"\n")
                    for message in map(json.loads, filter(None, lines)):
                        if message.get("id") == number:
                            return message
        finally:
            loop.remove_reader(fd)


def run(main: Coroutine[Any, Any, None]) -> None:
    failures: list[dict[str, Any]] = []  # of callbacks, which the loop would only log
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        runner.run(main)
    assert failures == []


def is_alive(pid: int) -> bool:
    process = kernel.look_up(pid)
    return process is not None and not process.is_dead


def is_there(pid: int) -> bool:
    return kernel.look_up(pid) is not None


def is_serving(pid: int) -> bool:
    """Whether a zygote has said that it is loaded: it handles SIGCHLD from then on."""
    (caught,) = re.findall(r"^SigCgt:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGCHLD - 1) & 1)


# --- an honest zygote ---


def test_a_worker_is_a_fork_of_the_zygote_and_ends_as_any_other(tmp_path: Path, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, options, "") as harness:
            loaded = await harness.start()
            assert loaded.unfit == []
            assert loaded.modules > 10
            child = await harness.spawn("perjurer-0#1")
            process = kernel.look_up(child.pid)
            assert process is not None
            assert process.parent == harness.zygote.pid
            assert process.starttime == child.starttime
            assert harness.zygote.roots("perjurer-0#1") == (child.pid,)
            assert (await harness.talk(child, ""))["unit"] == "perjurer-0#1"
            assert (tmp_path / "tmp" / "zygote" / "0#1").is_dir()
            harness.zygote.signal("perjurer-0#1", signal.SIGKILL)
            await harness.until(lambda: harness.empty == ["perjurer-0#1"])
            report = harness.exits["perjurer-0#1"]
            assert os.WTERMSIG(report.status) == signal.SIGKILL
            assert report.maxrss_bytes > 0
            assert not report.lost
            assert harness.losses == []

    run(main())


def test_what_escapes_from_a_fork_is_its_own_and_dies_with_it(tmp_path: Path, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, options, "") as harness:
            await harness.start()
            child, other = await harness.spawn("perjurer-0#1"), await harness.spawn("perjurer-1#1")
            await harness.talk(child, "escape")
            (escapee,) = [p.pid for p in kernel.walk(child.pid) if p.pid != child.pid]
            harness.zygote.signal("perjurer-0#1", signal.SIGKILL)
            await harness.until(lambda: "perjurer-0#1" in harness.exits)
            assert is_alive(escapee)
            harness.zygote.kill("perjurer-0#1")
            await harness.until(lambda: harness.empty == ["perjurer-0#1"])
            assert not is_alive(escapee)
            assert is_alive(other.pid)

    run(main())


def test_a_frozen_fork_thaws_and_can_be_killed(tmp_path: Path, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, options, "") as harness:
            await harness.start()
            child, frozen = await harness.spawn("perjurer-0#1"), await harness.spawn("perjurer-1#1")
            harness.zygote.freeze("perjurer-0#1")
            harness.zygote.freeze("perjurer-1#1")
            harness.zygote.thaw("perjurer-0#1")
            assert (await harness.talk(child, ""))["unit"] == "perjurer-0#1"
            harness.zygote.signal("perjurer-1#1", signal.SIGTERM, "tree")
            harness.zygote.freeze("perjurer-0#1")
            harness.zygote.kill("perjurer-0#1")
            await harness.until(lambda: len(harness.empty) == 2)
            assert not is_alive(frozen.pid)

    run(main())


def test_each_fork_has_a_group_of_its_own_that_goes_with_it(tmp_path: Path) -> None:
    try:
        containment.claim(tmp_path).remove()
    except containment.Refusal as refusal:
        pytest.skip(f"no cgroup: {refusal}")

    async def main() -> None:
        async with ZygoteHarness(tmp_path, {"state_dir": tmp_path, "tier": "auto"}, "") as harness:
            await harness.start()
            child = await harness.spawn("perjurer-0#1")
            group = harness.zygote.cgroup_of("perjurer-0#1")
            assert group is not None
            assert cgroup.processes(str(group)) == {child.pid}
            harness.zygote.kill("perjurer-0#1")
            await harness.until(lambda: harness.empty == ["perjurer-0#1"])
            assert not group.exists()

    run(main())


def test_a_spare_is_a_worker_once_it_has_another_name(tmp_path: Path, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, options, "") as harness:
            await harness.start()
            child = await harness.spawn("perjurer.spare#1")
            harness.zygote.rename("perjurer.spare#1", "perjurer-0#7", harness)
            assert harness.zygote.roots("perjurer-0#7") == (child.pid,)
            assert harness.zygote.roots("perjurer.spare#1") == ()
            harness.zygote.signal("perjurer-0#7", signal.SIGKILL)
            await harness.until(lambda: harness.empty == ["perjurer-0#7"])

    run(main())


def test_a_spare_whose_death_is_on_its_way_under_its_old_name_is_reported_by_its_new_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "") as harness:
            await harness.start()
            child = await harness.spawn("perjurer.spare#1")
            os.kill(child.pid, signal.SIGKILL)
            until = time.monotonic() + BOUND_S
            while is_there(child.pid):  # the loop stands still: nothing of it is heard meanwhile
                assert time.monotonic() < until
            harness.zygote.rename("perjurer.spare#1", "perjurer-0#7", harness)
            await harness.until(lambda: harness.empty == ["perjurer-0#7"])
            assert harness.losses == []

    run(main())


def test_a_spare_whose_death_is_known_becomes_no_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "") as harness:
            await harness.start()
            child = await harness.spawn("perjurer.spare#1")
            os.kill(child.pid, signal.SIGKILL)
            await harness.until(lambda: "perjurer.spare#1" in harness.exits)
            assert harness.zygote.rename("perjurer.spare#1", "perjurer-0#7", harness) is False
            await harness.until(lambda: harness.empty == ["perjurer.spare#1"])

    run(main())


def test_a_zygote_that_retires_forks_no_more_and_ends_with_its_last_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "") as harness:
            await harness.start()
            await harness.spawn("perjurer-0#1")
            harness.zygote.retire()
            with pytest.raises(SpawnFailed):
                await harness.spawn("perjurer-1#1")
            assert is_alive(harness.zygote.pid)
            harness.zygote.kill("perjurer-0#1")
            async with asyncio.timeout(BOUND_S):
                await harness.zygote.gone.wait()
            assert harness.losses == [], "it was asked to end"

    run(main())


def test_sources_that_are_as_they_were_imported_are_no_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "") as harness:
            await harness.start()
            assert await harness.zygote.check() == []
            harness.zygote.retire()
            with pytest.raises(Timeout):
                await harness.zygote.check()

    run(main())


# --- its end ---


def test_the_death_of_a_zygote_is_that_of_its_workers_and_of_what_escaped(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, options, "") as harness:
            tree = await harness.lived_in("perjurer-0#1", "perjurer-1#1")
            assert len(tree) == 4
            os.kill(harness.zygote.pid, signal.SIGSEGV)
            await harness.until(lambda: len(harness.empty) == 2)
            assert [pid for pid in tree if is_alive(pid)] == []
            (reason,) = harness.losses
            assert "SIGSEGV" in reason
            for unit in ("perjurer-0#1", "perjurer-1#1"):
                assert harness.exits[unit].lost
                assert harness.exits[unit].cause.startswith(reason)
            assert harness.exits["perjurer-1#1"].pid == harness.children[1].pid

    run(main())


def test_the_launchers_death_is_that_of_zygotes_and_their_workers(tmp_path: Path, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, options, "") as harness:
            tree = await harness.lived_in("perjurer-0#1")
            os.kill(harness.launcher.pid, signal.SIGKILL)
            await harness.until(lambda: harness.empty == ["perjurer-0#1"])
            assert [pid for pid in tree if is_alive(pid)] == []
            assert harness.exits["perjurer-0#1"].cause.startswith("the launcher died")

    run(main())


def test_an_import_that_fails_is_reported_with_its_last_line(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "exit") as harness:
            with pytest.raises(SpawnFailed) as failure:
                await harness.start()
            assert "SystemExit: enough" in failure.value.message
            assert failure.value.data["retryable"] is False
            assert harness.log.tail("stderr", 5) != []

    run(main())


def test_an_import_that_hangs_is_ended_by_whoever_waits_no_longer(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "hang") as harness:
            start = asyncio.create_task(harness.start())
            async with asyncio.timeout(BOUND_S):
                while not harness.zygote.pid:
                    await asyncio.sleep(0)
            start.cancel()
            async with asyncio.timeout(BOUND_S):
                await harness.zygote.gone.wait()
            assert not is_alive(harness.zygote.pid)

    run(main())


def test_a_load_that_has_ended_when_nobody_waits_any_more_is_no_fault(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "") as harness:
            start = asyncio.create_task(harness.start())
            async with asyncio.timeout(BOUND_S):
                while not harness.zygote.pid:
                    await asyncio.sleep(0)
            until = time.monotonic() + BOUND_S
            while not is_serving(harness.zygote.pid):  # the loop stands still: nothing of it is heard meanwhile
                assert time.monotonic() < until
            start.cancel()
            async with asyncio.timeout(BOUND_S):
                await harness.zygote.gone.wait()
            assert not harness.zygote.is_loaded
            assert harness.log.tail("log") == []

    run(main())


def test_a_zygote_that_takes_more_memory_than_its_agent_may_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "hang", memory_bytes=1 << 20) as harness:
            with pytest.raises(SpawnFailed) as failure:
                await harness.start()
            assert "memory" in failure.value.message

    run(main())


# --- a zygote that lies ---


@pytest.mark.parametrize("perjury", ["garbage", "number", "huge", "unknown", "pong", "descriptors"])
def test_a_zygote_that_says_what_it_cannot_say_is_killed(tmp_path: Path, perjury: str) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, perjury) as harness:
            with pytest.raises(SpawnFailed):
                await harness.start()
            async with asyncio.timeout(BOUND_S):
                await harness.zygote.gone.wait()
            assert not is_alive(harness.zygote.pid)
            (reason,) = harness.losses
            assert "it sent an invalid message" in reason

    run(main())


def test_a_zygote_can_send_no_descriptor_of_which_the_close_would_hold_up_the_loop(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            pytest.skip("this kernel has no SO_PASSRIGHTS")

    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "descriptor") as harness:
            with pytest.raises(SpawnFailed, match="PermissionError"):
                await harness.start()

    run(main())


def test_a_fork_that_becomes_no_worker_is_given_up_and_the_others_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.supervisor.workers.zygote.client.BIRTH_S", 0.2)

    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "stillborn") as harness:
            await harness.start()
            with pytest.raises(SpawnFailed) as failure:
                await harness.spawn("perjurer-0#1")
            assert failure.value.data["stage"] == "fork"
            await harness.none_left()
            assert harness.losses == []

    run(main())


def test_a_fork_that_becomes_no_worker_can_be_killed(tmp_path: Path) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "stillborn") as harness:
            await harness.start()
            spawned = asyncio.create_task(harness.spawn("perjurer-0#1"))
            while not harness.zygote.count:
                await asyncio.sleep(0)
            harness.zygote.kill("perjurer-0#1")
            await spawned
            await harness.until(lambda: harness.empty == ["perjurer-0#1"])

    run(main())


@pytest.mark.parametrize("perjury", ["flood", "checked", "hang-later", "close", "die"])
def test_a_zygote_that_goes_bad_takes_its_workers_with_it(tmp_path: Path, perjury: str) -> None:
    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, perjury) as harness:
            await harness.start()
            child = await harness.spawn("perjurer-0#1")
            await harness.until(lambda: harness.empty == ["perjurer-0#1"])
            assert harness.exits["perjurer-0#1"].lost
            assert len(harness.losses) == 1
            assert not is_alive(child.pid)

    run(main())


LIES = {
    "pid": "none of its children",
    "alive": "has not ended",
    "status": "no status of an end",
    "twice": "spawned twice",
    "empty": "empty before it has ended",
}


@pytest.mark.parametrize("perjury", LIES)
def test_a_zygote_that_lies_about_a_worker_is_killed(
    tmp_path: Path, options: dict[str, Any], perjury: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.supervisor.workers.zygote.client.KILL_S", 0.5)

    async def main() -> None:
        async with ZygoteHarness(tmp_path, options, perjury) as harness:
            await harness.start()
            try:
                await harness.spawn("perjurer-0#1")
            except SpawnFailed:
                assert perjury == "pid"
            if perjury not in ("pid", "alive"):
                harness.zygote.signal("perjurer-0#1", signal.SIGKILL)
            async with asyncio.timeout(BOUND_S):
                await harness.zygote.gone.wait()
            (reason,) = harness.losses
            blind = perjury == "pid" and "pid_namespace" in options and options["pid_namespace"]
            assert ("did not report the end" if blind else LIES[perjury]) in reason

    run(main())


def test_a_zygote_that_does_not_end_what_it_is_to_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.supervisor.workers.zygote.client.KILL_S", 0.5)

    async def main() -> None:
        async with ZygoteHarness(tmp_path, {}, "deaf") as harness:
            await harness.start()
            await harness.spawn("perjurer-0#1")
            harness.zygote.kill("perjurer-0#1")
            await harness.until(lambda: harness.empty == ["perjurer-0#1"])
            assert "did not end perjurer-0#1" in harness.losses[0]

    run(main())
