"""Probes of stores by real files and sockets: states, reasons, events, and that each ends within its time."""

import asyncio
import os
import socket
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from configurations import configuration, in_force
from corral.supervisor.agents.external.stores import Stores, User
from corral.supervisor.config.declared.stores import DeclaredStore, Kind
from corral.worker.contract.errors import SpawnFailed

pytestmark = pytest.mark.shell

BOUND_S = 60.0
PASSWORD = "hunter2"


class Daemon:
    """The stores and agents of a test, and what was published."""

    def __init__(self, *stores: DeclaredStore) -> None:
        self.in_force = in_force()
        self.declare(*stores)
        self.users = [User("reader", tuple(each.name for each in stores), True)]
        self.events: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        self.expand: Callable[[DeclaredStore, str], str] = lambda store, _: store.url

    def declare(self, *stores: DeclaredStore) -> None:
        self.in_force.adopt(configuration(stores={each.name: each for each in stores}))

    def publish(self, kind: str, /, *, name: str, reason: str) -> None:
        self.events.put_nowait((kind, name, reason))

    def stores(self, interval_s: float = 3600.0, timeout_s: float = BOUND_S) -> Stores:
        return Stores(
            self.in_force,
            lambda: self.users,
            lambda store, user: self.expand(store, user),
            self.publish,
            interval_s=interval_s,
            timeout_s=timeout_s,
        )


def bounded(check: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(check, BOUND_S))


def store(kind: Kind, url: str, name: str = "a") -> DeclaredStore:
    return DeclaredStore(name=name, kind=kind, url=url)


async def state(stores: Stores) -> tuple[str, str]:
    (found,) = await stores.listed()
    return found.state, found.reason


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def paths(folder: Path) -> dict[str, Path]:
    found = {name: folder / name for name in ("folder", "text", "empty", "fifo", "base")}
    found["folder"].mkdir()
    found["text"].write_text("no database")
    found["empty"].touch()
    os.mkfifo(found["fifo"])
    with closing(sqlite3.connect(found["base"])) as database:
        database.execute("create table fact (text)")
    return {**found, "gone": folder / "gone"}


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("sqlite", "base", ("up", "")),
        ("sqlite", "empty", ("up", "")),
        ("sqlite", "text", ("down", "it is no SQLite database")),
        ("sqlite", "folder", ("down", "it is no regular file")),
        ("sqlite", "fifo", ("down", "it is no regular file")),
        ("sqlite", "gone", ("down", "no such file or directory")),
        ("files", "folder", ("up", "")),
        ("files", "text", ("up", "")),
        ("files", "fifo", ("down", "it is neither a folder nor a file")),
        ("files", "gone", ("down", "no such file or directory")),
    ],
)
def test_a_path_is_up_where_it_can_be_opened(tmp_path: Path, kind: Kind, name: str, expected: tuple[str, str]) -> None:
    async def check() -> None:
        found = paths(tmp_path)
        daemon = Daemon(store(kind, str(found[name])))
        try:
            assert await state(daemon.stores(timeout_s=BOUND_S / 2)) == expected
        finally:  # An open of the pipe that waits for the other end would keep this process for ever.
            os.close(os.open(found["fifo"], os.O_RDWR))

    bounded(check())


def test_a_store_whose_users_run_is_probed_again_and_reported(listener: socket.socket) -> None:
    async def check() -> None:
        port = listener.getsockname()[1]
        daemon = Daemon(store("redis", f"redis://:{PASSWORD}@127.0.0.1:{port}"))
        stores = daemon.stores(interval_s=0.01)
        running = asyncio.create_task(stores.run())
        try:
            async with asyncio.timeout(BOUND_S):
                assert await state(stores) == ("up", "")
                listener.close()
                assert await daemon.events.get() == ("store.down", "a", "connection refused")
                with socket.create_server(("127.0.0.1", port)):
                    assert await daemon.events.get() == ("store.up", "a", "connection refused")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    bounded(check())


def test_what_does_not_answer_is_down_within_its_time() -> None:
    async def check() -> None:
        with socket.socket() as full:  # whose backlog takes no further connection
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            with socket.create_connection(full.getsockname()):
                daemon = Daemon(store("http", f"http://127.0.0.1:{full.getsockname()[1]}"))
                async with asyncio.timeout(BOUND_S):
                    found = await state(daemon.stores(timeout_s=0.2))
        assert found == ("down", "no answer within 0.2 s")

    bounded(check())


def test_without_its_secret_a_store_is_unknown_and_with_a_wrong_one_as_well() -> None:
    async def check() -> None:
        daemon = Daemon(store("postgres", "${secret:DB}"))

        def lacks(_store: DeclaredStore, user: str) -> str:
            raise SpawnFailed(f"there is no secret for {user}")

        daemon.expand = lacks
        assert await state(daemon.stores()) == ("unknown", "there is no secret for reader")
        daemon.expand = lambda _, __: f"mysql://u:{PASSWORD}@h/db"
        found = await state(daemon.stores())
        assert found[0] == "unknown"
        assert PASSWORD not in found[1]
        assert daemon.events.empty()

    bounded(check())


def test_an_unused_store_is_not_probed_and_a_changed_one_begins_anew(tmp_path: Path) -> None:
    async def check() -> None:
        daemon = Daemon(store("files", str(tmp_path / "gone")))
        stores = daemon.stores()
        assert (await state(stores))[0] == "down"
        daemon.declare(store("files", str(tmp_path)))
        assert await state(stores) == ("up", "")
        daemon.users = []
        assert await state(stores) == ("unused", "")
        assert stores.used_by() == {}
        assert daemon.events.qsize() == 1  # the changed one did not come up: it is another one

    bounded(check())
