"""The control socket: who holds it, whose it is when the service manager passes it, and what is left without descriptors."""

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.api.table.table import Control
from corral.supervisor.faces.socket.peer import Peers, identify
from corral.supervisor.faces.socket.socket_lock import FIRST_INHERITED_FD, SocketLock
from corral.supervisor.faces.socket.unix import MAX_CONNECTIONS, RESERVE, Listener, Reserve
from corral.worker.contract.errors import Conflict, InvalidParams, PermissionDenied

pytestmark = pytest.mark.shell

BOUND_S = 60.0


class Table:
    """The method table's place: every call is answered with who has called."""

    def note_refused(self, *_: object) -> None:
        """What is refused is recorded elsewhere."""

    async def call(self, _name: str, _params: Mapping[str, object], caller: Any) -> object:
        return {"permission": caller.permission}


class Workers:
    """Workers by their pids, each with the name of its agent and what `control` of that grants."""

    def __init__(self, grants: Mapping[int, tuple[str, str]]) -> None:
        self.grants = grants

    @property
    def agents(self) -> dict[str, object]:
        specs = self.grants.values()
        return {name: SimpleNamespace(spec=SimpleNamespace(control=control)) for name, control in specs}

    def lives(self) -> list[object]:
        return [
            SimpleNamespace(worker=SimpleNamespace(pid=pid), spec=SimpleNamespace(name=name))
            for pid, (name, _) in self.grants.items()
        ]


def listener_of(lock: SocketLock, workers: Workers, *, max_connections: int = MAX_CONNECTIONS) -> Listener:
    no_commands: Any = SimpleNamespace(leaders=dict)
    of_nothing: Any = None
    peers = Peers(cast("Registry", workers), of_nothing, no_commands, no_commands, None, None)
    return Listener(cast("Control", Table()), of_nothing, of_nothing, peers, lock, max_connections=max_connections)


def serve(
    path: Path, client: str, *, grants: Mapping[int, tuple[str, str]] | None = None, max_connections: int = 4096
) -> object:
    """Listens at `path` while `client`, a program of this Python, runs; what it printed."""

    async def run() -> str:
        lock = SocketLock(path)
        listener = listener_of(lock, Workers(grants or {}), max_connections=max_connections)
        listener.open()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", client, str(path), stdout=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(BOUND_S):
                out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode().strip()
        finally:
            await listener.close()
            lock.release()

    return uvloop.run(run())


# -- the lock


def test_a_path_has_one_listener_and_a_dead_one_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "corral.sock"
    first = SocketLock(path)
    with pytest.raises(Conflict) as refused:
        SocketLock(path)
    assert refused.value.data["pid"] == os.getpid()
    first.release()
    SocketLock(path).release()


@pytest.mark.parametrize("name", ["x" * 120], ids=["too long"])
def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParams):
        SocketLock(tmp_path / name)


# -- a socket of the service manager's


ADOPT = """
import os, socket, sys
from corral.supervisor.faces.socket.socket_lock import inherited_socket
from corral.worker.contract.errors import CorralError
os.environ["LISTEN_PID"] = str(os.getpid()) if sys.argv[1] == "ours" else "1"
try:
    sock = inherited_socket(os.environ, os.getpid())
except CorralError as error:
    print(error.code)
else:
    print(sock and (sock.getsockname(), os.get_inheritable(sock.fileno())), any(n.startswith("LISTEN_") for n in os.environ))
"""


def adopted(sock: socket.socket, whose: str, *more: socket.socket) -> str:
    """What a process says that is given sockets as the service manager gives them."""
    fds = [each.fileno() for each in (sock, *more)]
    moves = " ".join(f"{FIRST_INHERITED_FD + n}<&{fd}" for n, fd in enumerate(fds))
    done = subprocess.run(
        ["bash", "-c", f'exec {moves}; exec "$@"', "bash", sys.executable, "-c", ADOPT, whose],
        env={**os.environ, "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": "corrald.socket"},
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=True,
    )
    return done.stdout.strip()


def test_the_socket_of_the_service_manager_is_taken_and_nobody_inherits_it_further(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        assert adopted(sock, "ours") == f"{(path, False)} False"
        assert adopted(sock, "another's") == "None False"


def test_what_is_no_socket_for_control_is_refused(tmp_path: Path) -> None:
    code = str(InvalidParams.code)
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_INET) as network:
        deaf.bind(str(tmp_path / "s"))
        assert adopted(deaf, "ours") == code
        network.listen()
        assert adopted(network, "ours") == code
        deaf.listen()
        assert adopted(deaf, "ours", deaf) == code


def test_a_socket_of_the_service_manager_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(path))
        manager.listen()
        path.chmod(0o640)
        before = path.stat()
        lock = SocketLock(path, manager.dup())
        with pytest.raises(Conflict):
            SocketLock(path)
        assert path.stat() == before
        listening = lock.listen("no-such-group")  # whose it is, is not for us to say
        assert listening.getsockname() == str(path)
        lock.release()
        assert path.stat() == before


# -- who is there


def test_the_owner_may_everything_and_a_process_of_ours_nothing(tmp_path: Path) -> None:
    ask = "from corral.worker.client.sync import Client; import sys; Client(sys.argv[1]).call('x')"
    outcome = f"""
import sys
from corral.worker.contract.errors import CorralError
try:
    {ask}
    print("served")
except CorralError as error:
    print(error.code)
"""
    # The client is a child of this process, as a worker is of the daemon.
    assert serve(tmp_path / "s", outcome) == str(PermissionDenied.code)


def test_a_worker_has_what_its_agent_s_spec_grants_and_its_children_with_it(tmp_path: Path) -> None:
    client = """
import json, os, sys
from corral.worker.client.sync import Client
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
print(Client(sys.argv[1]).call("x")["permission"])
"""

    async def run(granted: str) -> str:
        lock = SocketLock(tmp_path / "s")
        grants: dict[int, tuple[str, str]] = {}
        workers = Workers(grants)
        listener = listener_of(lock, workers)
        listener.open()
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", 'read; exec "$@"', "bash", sys.executable, "-c", client, str(tmp_path / "s"),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        workers.grants = {process.pid: ("it", granted)}
        async with asyncio.timeout(BOUND_S):
            out, _ = await process.communicate(b"\n")
        await listener.close()
        lock.release()
        return out.decode().strip()

    for right in ("read", "operate", "admin"):
        assert uvloop.run(run(right)) == right
    assert uvloop.run(run("none")) == ""


def test_connections_beyond_the_share_of_their_client_end_and_leave_room_for_the_owner(tmp_path: Path) -> None:
    client = f"""
import select, socket, sys, time
held = []
for _ in range(6):
    one = socket.socket(socket.AF_UNIX); one.connect(sys.argv[1]); held.append(one)
until = time.monotonic() + {BOUND_S}
ended = set()
while len(ended) < 4 and time.monotonic() < until:
    ended |= {{one for one in select.select([each for each in held if each not in ended], [], [], 0.1)[0] if not one.recv(1)}}
time.sleep(0.2)
print(len(select.select(held, [], [], 0)[0]))
"""
    assert serve(tmp_path / "s", client, max_connections=8) == "4", "an agent has a quarter"


def test_a_peer_that_is_dead_when_it_is_looked_at_has_no_rights(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        # The child is not reaped: its pid is still its, and its parents can still be read.
        pid = os.fork()
        if pid == 0:
            socket.socket(socket.AF_UNIX).connect(str(tmp_path / "s"))
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        accepted, _ = listening.accept()
        with accepted:
            identity = identify(accepted, lambda: {pid: "it"})
        os.waitpid(pid, 0)
    assert (identity.pid, identity.is_inside, identity.agent) == (pid, True, None)


# -- without descriptors


def test_a_reserve_is_spent_and_taken_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    reserve = Reserve(2)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert (reserve.spend(), reserve.spend(), reserve.spend()) == (True, True, False)
    reserve.refill()
    assert len(os.listdir("/proc/self/fd")) == before + 2
    reserve.close()
    assert len(os.listdir("/proc/self/fd")) == before


@contextlib.contextmanager
def no_descriptors() -> Generator[None, None, None]:
    """Every descriptor that this process may have is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as taken:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 50, hard))
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):  # EMFILE
            while True:
                taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


def test_a_daemon_without_descriptors_serves_out_of_its_reserve(tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    client = f"""
import sys
from corral.worker.client.sync import Client
open({str(go)!r}).read()
def granted(): return Client(sys.argv[1])
for _ in range(3 * {RESERVE}):           # one after the other: the reserve is taken back each time
    one = granted(); assert one.call("x")["permission"] == "admin"; one.close()
many = [granted() for _ in range({RESERVE} + 3)]
for one in many[:{RESERVE}]:             # so many at a time are served…
    assert one.call("x")["permission"] == "admin"
for one in many[:3]: one.close()
for one in many[{RESERVE}:]:             # …and the others when there is room again
    assert one.call("x", timeout_s={BOUND_S})["permission"] == "admin"
"""

    async def run() -> int:
        lock = SocketLock(tmp_path / "s")
        workers = Workers({})
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", client, str(tmp_path / "s"))
        workers.grants = {process.pid: ("it", "admin")}
        listener = listener_of(lock, workers)
        listener.open()
        try:
            with open(go, "wb") as started, no_descriptors():
                started.close()
                async with asyncio.timeout(BOUND_S):
                    return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await listener.close()
            lock.release()

    assert uvloop.run(run()) == 0
