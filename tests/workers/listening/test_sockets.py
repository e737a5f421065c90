"""The listening sockets of agents, with real sockets."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.supervisor.config.spec.listen import ListenAddress
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.listening.sockets import ListenSockets
from corral.worker.contract.errors import Conflict, InvalidParams, SpawnFailed
from free_ports import free_port

pytestmark = pytest.mark.shell


@pytest.fixture
def sockets() -> Iterator[ListenSockets]:
    made = ListenSockets()
    yield made
    made.close_all()


def spec(*addresses: str | ListenAddress, name: str = "web") -> Spec:
    listen = tuple(a if isinstance(a, ListenAddress) else ListenAddress(a) for a in addresses)
    return Spec(name=name, kind="agent", source="", listen=listen)


def connect(address: str) -> socket.socket:
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(address.removeprefix("unix:"))
        return client
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)))


def is_refused(address: str) -> bool:
    try:
        connect(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_every_life_is_handed_the_same_socket(sockets: ListenSockets, tmp_path: Path) -> None:
    web = spec("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s")
    first, second = (sockets.hand_out(web, f"web-0#{n}") for n in (1, 2))
    try:
        assert [inode(fd) for fd in first] == [inode(fd) for fd in second]
        for held in sockets.of("web"):
            connect(held.bound).close()
        assert not any(os.get_inheritable(fd) for fd in first)
        assert os.get_blocking(first[0]), "as sd_listen_fds(3) hands them out"
    finally:
        for fd in (*first, *second):
            os.close(fd)


def test_an_address_that_stays_is_the_same_socket_after_a_change(sockets: ListenSockets) -> None:
    stays, goes, comes = (f"127.0.0.1:{free_port()}" for _ in range(3))
    before = sockets.open(spec(stays, goes))
    after = sockets.open(spec(comes, stays))
    sockets.keep(spec(comes, stays))
    assert before[0] is after[1]
    assert is_refused(goes)
    assert not is_refused(stays)
    assert not is_refused(comes)


def test_a_former_address_is_kept_while_a_life_has_it(sockets: ListenSockets) -> None:
    former, new = (f"127.0.0.1:{free_port()}" for _ in range(2))
    for fd in sockets.hand_out(spec(former), "web-0#1"):
        os.close(fd)
    sockets.open(spec(new))
    sockets.keep(spec(new))
    sockets.keep(spec())
    assert not is_refused(former), "a change that is taken back finds it"
    assert sockets.ended("web-0#1") == "web"
    sockets.keep(spec(new))
    assert is_refused(former)


def test_an_address_in_use_is_refused_with_its_owner(sockets: ListenSockets) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Conflict) as caught:
            sockets.open(spec(address))
        assert caught.value.data["address"] == address
        assert f"pid {os.getpid()} (" in str(caught.value.data["owner"])
        with pytest.raises(SpawnFailed) as failed:
            sockets.hand_out(spec(address), "web-0#1")
        facts = failed.value.data
        assert (facts["stage"], facts["errno"]) == ("listen", errno.EADDRINUSE)
        assert facts["retryable"] is False
    assert len(sockets.open(spec(address))) == 1


def test_an_address_of_another_agent_is_refused_with_its_name(sockets: ListenSockets) -> None:
    address = f"127.0.0.1:{free_port()}"
    sockets.open(spec(address, name="first"))
    with pytest.raises(Conflict) as caught:
        sockets.open(spec(address, name="second"))
    assert caught.value.data["owner"] == 'agent "first"'


def test_an_address_that_this_machine_does_not_have_is_refused(sockets: ListenSockets) -> None:
    with pytest.raises(InvalidParams) as caught:
        sockets.open(spec("192.0.2.1:80"))
    assert caught.value.data["errno"] == errno.EADDRNOTAVAIL
    with pytest.raises(InvalidParams):
        sockets.open(spec("unix:/nowhere/at/all/s"))


def test_a_unix_socket_has_its_mode_and_is_removed_when_it_is_closed(sockets: ListenSockets, tmp_path: Path) -> None:
    path = tmp_path / "s"
    sockets.open(spec(ListenAddress(f"unix:{path}", mode="0660")))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    (same,) = sockets.of("web")
    sockets.open(spec(ListenAddress(f"unix:{path}", mode="0606")))
    assert stat.S_IMODE(path.stat().st_mode) == 0o606
    assert sockets.of("web")[0].socket is same.socket
    sockets.close("web")
    assert not path.exists()


def test_a_path_that_a_dead_process_left_is_taken_over_and_a_live_one_is_not(
    sockets: ListenSockets, tmp_path: Path
) -> None:
    dead, live, file = (tmp_path / name for name in ("dead", "live", "file"))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    file.write_text("")
    sockets.open(spec(f"unix:{dead}"))
    connect(f"unix:{dead}").close()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(live))
        other.listen()
        for path in (live, file):
            with pytest.raises(Conflict):
                sockets.open(spec(f"unix:{path}", name="other"))
        connect(f"unix:{live}").close()


def test_a_path_that_a_worker_removed_is_opened_anew(sockets: ListenSockets, tmp_path: Path) -> None:
    web = spec(f"unix:{tmp_path}/s")
    sockets.open(web)
    (tmp_path / "s").unlink()
    sockets.open(web)
    connect(f"unix:{tmp_path}/s").close()


def test_a_process_serves_a_life_while_it_has_a_connection_of_its_socket(
    sockets: ListenSockets, tmp_path: Path
) -> None:
    for address in ("127.0.0.1:0", f"unix:{tmp_path}/s"):
        name = address[:4].replace(".", "")
        web = spec(address, name=name)
        (fd,) = sockets.hand_out(web, f"{name}-0#1")
        me = [os.getpid()]
        with socket.socket(fileno=fd) as listening:
            with connect(sockets.of(name)[0].bound):
                assert not sockets.is_serving(f"{name}-0#1", me), "nobody has accepted it"
                accepted, _ = listening.accept()
                with accepted:
                    assert sockets.is_serving(f"{name}-0#1", me)
                    assert not sockets.is_serving(f"{name}-0#1", [os.getppid() + 10**6])
                    assert not sockets.is_serving("other-0#1", me)
            assert not sockets.is_serving(f"{name}-0#1", me)
