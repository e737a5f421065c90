"""A launcher in a PID namespace of its own: the kernel ends everything in it, and its pids are told as ours."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.launcher import program, protocol
from corral.supervisor.machine.linux import kernel
from corral.supervisor.workers.process.launcher_client import Child, Exit, Launch, Launcher
from corral.worker.contract.errors import SpawnFailed
from launcher_wire import AGENTS, BOUND_S, PYTHON, with_token
from seeds import seeds

ROOT = os.geteuid() == 0
NOBODY = 65534
SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.fixture(scope="module")
def available() -> None:
    """Skips where this user gets no namespace here."""

    async def probe() -> None:
        it = Launcher(pid_namespace=True)
        await it.start()
        await it.close()

    try:
        asyncio.run(probe())
    except SpawnFailed as failure:
        if failure.data["stage"] == "pid-namespace":
            pytest.skip(str(failure))
        raise


pytestmark = [pytest.mark.shell, pytest.mark.usefixtures("available")]


@pytest.fixture
def token() -> Iterator[str]:
    word = f"token-{os.getpid()}-pidns"
    yield word
    for pid in with_token(word):
        os.kill(pid, signal.SIGKILL)


class Kept:
    """A Launcher in a PID namespace, and what it has told."""

    def __init__(self, **options: Any) -> None:
        self.exits: dict[str, Exit] = {}
        self.empty = asyncio.Event()
        self.lost = asyncio.Event()
        self.launcher = Launcher(on_lost=self.lost.set, pid_namespace=True, **options)
        self.children: list[Child] = []

    def exited(self, report: Exit) -> None:
        self.exits[report.unit] = report

    def emptied(self, unit: str) -> None:
        self.empty.set()

    async def __aenter__(self) -> "Kept":
        await self.launcher.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.launcher.close()
        for child in self.children:
            for fd in (child.stdin_fd, child.stdout_fd, child.stderr_fd):
                if fd is not None:
                    os.close(fd)

    async def start(self, argv: list[str]) -> tuple[Child, str]:
        """A process of unit a-0#1, and the line that it prints."""
        launch = Launch(unit="a-0#1", argv=argv, env={"PATH": os.defpath}, cwd="/")
        child = await self.launcher.spawn(launch, self)
        self.children.append(child)
        assert child.stdout_fd is not None
        readable = asyncio.Event()
        asyncio.get_running_loop().add_reader(child.stdout_fd, readable.set)
        text = b""
        async with asyncio.timeout(BOUND_S):
            while not text.endswith(b"\n"):
                await readable.wait()
                readable.clear()
                text += os.read(child.stdout_fd, 65536)
        asyncio.get_running_loop().remove_reader(child.stdout_fd)
        return child, text.decode()


def tree(token: str, escapees: int) -> list[str]:
    return [*PYTHON, str(AGENTS / "launcher_tree.py"), token, str(escapees), "0"]


def test_pids_are_reported_as_this_process_sees_them(token: str) -> None:
    async def main() -> None:
        async with Kept() as kept:
            child, text = await kept.start(tree(token, 2))
            inner: list[int] = json.loads(text)
            process = kernel.look_up(child.pid)
            assert process is not None
            assert process.starttime == child.starttime
            assert process.parent == kept.launcher.pid
            pids = sorted(with_token(token))
            assert len(pids) == 3
            assert not set(inner) & set(pids), "they have others there"
            async with asyncio.timeout(BOUND_S):
                while sorted(kept.launcher.roots("a-0#1")) != pids:
                    (listed,) = await kept.launcher.listed()
                    assert listed.pid == child.pid
                    assert set(listed.processes) <= set(pids)
            kept.launcher.signal("a-0#1", signal.SIGKILL)
            kept.launcher.kill("a-0#1")
            await asyncio.wait_for(kept.empty.wait(), BOUND_S)
            assert kept.exits["a-0#1"].pid == child.pid
            assert os.WTERMSIG(kept.exits["a-0#1"].status) == signal.SIGKILL
            assert with_token(token) == []

    asyncio.run(main())


def test_a_worker_sees_no_process_outside() -> None:
    async def main() -> None:
        async with Kept() as kept:
            code = "import os; own = str(os.getpid())\n"
            code += "others = [n for n in os.listdir('/proc') if n.isdigit() and n != own]\n"
            code += "print(others, os.getppid())"
            _child, text = await kept.start([*PYTHON, "-c", code])
            assert text == "['1'] 1\n"

    asyncio.run(main())


def test_a_killed_launcher_is_replaced_by_one_in_a_namespace(token: str) -> None:
    async def main() -> None:
        async with Kept() as kept:
            await kept.start(tree(token, 3))
            first = kept.launcher.pid
            os.kill(first, signal.SIGKILL)
            await asyncio.wait_for(kept.lost.wait(), BOUND_S)
            assert kept.exits["a-0#1"].lost
            assert with_token(token) == []
            _child, text = await kept.start([*PYTHON, "-c", "import os; print(os.getppid())"])
            assert text == "1\n"
            assert kept.launcher.pid != first

    asyncio.run(main())


@pytest.mark.parametrize("attempt", seeds(3, 1))
@pytest.mark.parametrize("dies", ["daemon", "launcher", "both"])
def test_nothing_is_left_whoever_dies(token: str, dies: str, attempt: int) -> None:
    options = json.dumps({"pid_namespace": True})
    host = [sys.executable, str(AGENTS / "launcher_host.py"), token, "5", options]
    with subprocess.Popen(host, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdout is not None
        launcher_pid = int(daemon.stdout.readline())
        inside = [pid for pid in with_token(token) if pid != daemon.pid]
        assert len(inside) == 5 * 4
        pidfds = [os.pidfd_open(pid) for pid in inside]
        if dies == "both":
            os.kill(daemon.pid, signal.SIGSTOP)  # so that neither sees the death of the other
        if dies != "daemon":
            os.kill(launcher_pid, signal.SIGKILL)
        if dies != "launcher":
            daemon.kill()
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], BOUND_S)[0]
            os.close(pidfd)
        daemon.kill()


def test_an_ordinary_user_has_a_namespace_or_learns_why_not() -> None:
    if not ROOT:
        pytest.skip("the other tests are those of an ordinary user then")
    if not SYSTEM_PYTHON.exists():
        pytest.skip("no python that another user may run")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = [str(SYSTEM_PYTHON), "-I", "-S", program.__file__, str(theirs.fileno())]
    with ours, theirs:
        process = subprocess.Popen(
            [*argv, json.dumps({"pid_namespace": True})],
            pass_fds=[theirs.fileno()],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            env={},
        )
        theirs.close()
        ours.settimeout(BOUND_S)
        assert select.select([ours], [], [], BOUND_S)[0]
        first: dict[str, Any] = protocol.receive(ours)[0]
        assert process.wait(BOUND_S) == 0, "the process that was started ends"
        if first["op"] == "refused":
            assert first["message"]
            return
        inside = os.pidfd_open(first["pid"])
        ours.send(protocol.encode({"op": "ping", "seq": 1})[0])
        assert select.select([ours], [], [], BOUND_S)[0]
        assert protocol.receive(ours)[0]["op"] == "pong"
    assert select.select([inside], [], [], BOUND_S)[0], "it ends when nobody listens"
    os.close(inside)


def test_a_namespace_that_is_refused_is_an_error_with_its_reason() -> None:
    async def main() -> None:
        # An effective uid alone may not map itself, so that nobody lets it.
        os.seteuid(NOBODY)
        try:
            with pytest.raises(SpawnFailed) as failure:
                async with Kept(python=str(SYSTEM_PYTHON)):
                    pass
        finally:
            os.seteuid(0)
        assert failure.value.data["stage"] == "pid-namespace"
        assert failure.value.data["errno"]

    if not ROOT or not SYSTEM_PYTHON.exists():
        pytest.skip("only root can have such a uid, and needs a python that nobody may run")
    asyncio.run(main())
