"""A state folder that was copied, cut short, handed over or mixed up: the daemon says so in one line, and loses nothing."""

import asyncio
import os
import select
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from corral.supervisor.daemon.host.state_folder import check_state_folder, make_sdk_folder, open_store
from corral.worker.contract.errors import Conflict, CorralError, PermissionDenied
from daemon_process import AGENTS, BIN, BOUND_S, NO_RIGHTS, DaemonProcess
from small_disk import mounted

pytestmark = pytest.mark.long

LINES = """
[agents.{name}]
command = ["sh", "-c", "while :; do echo a line; sleep 0.1; done"]
protocol = "none"
"""

CONFIG = f"""
[daemon]
http = "127.0.0.1:0"
[agents.crew]
command = ["python", "{AGENTS}/crew_agent.py"]
""" + LINES.format(name="lines")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and own files of others")


class Ended(NamedTuple):
    """The end of a daemon that was started with a state folder."""

    is_ready: bool
    status: int
    lines: list[str]
    """Its lines on stderr that are warnings or worse, but for the one about the user of agents."""


class Folder:
    """A state folder that a daemon has used and left in order, and copies of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.original = folder / "state"

    def copy(self) -> Path:
        """A fresh copy, as `cp -a` makes it."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.original, copy, symlinks=True)
        return copy

    def start(self, state: Path, *prefix: str, until: Callable[[], bool] = lambda: True) -> Ended:
        """Starts a daemon with this folder; stops it once it is ready and `until` holds."""
        address = self.folder / "notify.sock"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(address))
            notified.setblocking(False)
            process = subprocess.Popen(
                [
                    *prefix,
                    str(BIN / "corrald"),
                    f"--config={self.folder / 'corral.toml'}",
                    f"--socket={self.folder / 'corral.sock'}",
                    f"--state-dir={state}",
                ],
                env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "NOTIFY_SOCKET": str(address)},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            is_ready = self._await(process, notified)
            if is_ready:
                await_so(until)
                process.terminate()
            _, said = process.communicate(timeout=BOUND_S)
        lines = [line for line in said.splitlines() if " info " not in line and "corral-agent" not in line]
        return Ended(is_ready, process.returncode, lines)

    def _await(self, process: subprocess.Popen[str], notified: socket.socket) -> bool:
        ended = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(notified, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while True:
                found = dict(poll.poll(BOUND_S * 1000))
                assert found, "it neither gets ready nor ends"
                if notified.fileno() in found:
                    if notified.recv(256) == b"READY=1":
                        return True
                elif ended in found:
                    return False
        finally:
            os.close(ended)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The state folder of a daemon that has run a task, and was stopped."""
    folder = tmp_path_factory.mktemp("used")
    with DaemonProcess(folder, CONFIG) as daemon:
        daemon.await_worker("lines-0", lambda w: w["state"] == "Ready")
        daemon.call("task.run", agent="crew", objective="echo")
    return Folder(folder)


@pytest.fixture(scope="module")
def entries(used: Folder) -> list[Path]:
    """What a running daemon has made in its state folder, of itself and for its workers."""
    found = [path.relative_to(used.original) for path in sorted(used.original.rglob("*"))]
    names = {str(path) for path in found}
    assert {"corral.db", "cortex", "http.token", "logs", "logs/.alive", "sdk", "sdk/corral", "tmp"} <= names
    return [*found, Path("corral.db-wal"), Path("corral.db-shm")]


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """The contents of a folder: of files the bytes, of links the target, of folders nothing."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


def refused(ended: Ended, *named: str) -> None:
    """Holds if it ended at the start, with one line that names these."""
    assert (ended.is_ready, ended.status, len(ended.lines)) == (False, 1, 1), ended
    assert ended.lines[0].startswith("corrald: cannot "), ended
    assert all(each in ended.lines[0] for each in named), ended


def prepared(state: Path) -> CorralError | None:
    """The error of the daemon's steps that prepare the folder, without the rest of it; None where they succeed."""

    async def run() -> None:
        check_state_folder(state)
        store = await open_store(state, asyncio.Event(), lambda _: None)
        assert store is not None, "it does not have to end"
        try:
            make_sdk_folder(state)
        finally:
            await store.close()

    try:
        asyncio.run(run())
    except CorralError as error:
        failure = error
    else:
        return None
    assert "\n" not in failure.message
    assert str(state) in failure.message
    return failure


def await_so(is_so: Callable[[], bool]) -> None:
    """Looks again and again until it is so."""
    bound = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < bound, "it never was so"


def exchange(path: Path) -> None:
    """Puts a folder with a file where a file or a link is, and a file where a folder is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        path.write_text("somebody's")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
        (path / "file").write_text("somebody's")


def test_an_entry_of_the_wrong_kind_is_named_and_stays(used: Folder, entries: list[Path]) -> None:
    for entry in entries:
        if entry.parts[0] == "logs" and len(entry.parts) > 1 and entry.name != ".alive":
            continue  # of one worker: below
        state = used.copy()
        exchange(state / entry)
        before = snapshot(state)
        error = prepared(state)
        assert isinstance(error, Conflict), entry
        assert error.data["path"] == str(state / entry)
        assert snapshot(state) == before, entry
    state = used.copy()
    exchange(state / "tmp")
    refused(used.start(state), str(state), "tmp")


def test_a_wrong_entry_among_the_logs_costs_that_workers_lines_alone_until_it_is_mended(
    used: Folder, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    shutil.copytree(used.original, state, symlinks=True)
    wrong = [state / "logs" / "lines", state / "logs" / "more" / "more-0.log"]
    exchange(wrong[0])
    wrong[1].mkdir(parents=True)
    with DaemonProcess(tmp_path, CONFIG + LINES.format(name="more")) as daemon:
        for name in ("lines", "more"):
            daemon.await_worker(f"{name}-0", lambda w: w["state"] == "Ready")
            await_so(lambda name=name: daemon.worker(f"{name}-0")["log_trouble"] is not None)  # type: ignore[misc]  # mypy knows no bound default
        assert daemon.call("daemon.status")["daemon"]["degraded"] == ["logs"]
        assert daemon.call("task.run", agent="crew", objective="echo")["state"] == "succeeded"
        assert daemon.call("log.read", names=["crew"])["records"]
        assert wrong[0].read_text() == "somebody's"
        wrong[0].unlink()
        wrong[1].rmdir()
        for name in ("lines", "more"):
            await_so(lambda name=name: daemon.worker(f"{name}-0")["log_trouble"] is None)  # type: ignore[misc]  # mypy knows no bound default
            assert daemon.call("log.read", names=[name])["records"]
        assert daemon.call("daemon.status")["daemon"]["degraded"] == []
    assert "Traceback" not in daemon.log.read_text()


def test_what_is_no_data_is_made_anew(used: Folder, entries: list[Path]) -> None:
    """A missing entry is made again, but for what the store, the token and the logs had in them."""
    state = used.copy()
    for name in ("cortex", "http.token", "sdk", "tmp"):
        path = state / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    shutil.rmtree(state / "logs" / ".alive")
    ended = used.start(state)
    assert (ended.is_ready, ended.status, ended.lines) == (True, 0, [])
    assert (state / "sdk" / "corral").is_symlink()
    for each in ("cortex", "http.token", "tmp"):
        assert (state / each).exists()


def test_a_copy_with_links_followed_gets_its_link_back(used: Folder) -> None:
    state = used.copy()
    for way in ("cp -rL", "empty"):
        copy = used.folder / "followed"
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["cp", "-rL", str(state), str(copy)], check=True)
        if way == "empty":
            shutil.rmtree(copy / "sdk" / "corral")
            (copy / "sdk" / "corral").mkdir()
        if way == "empty":
            assert prepared(copy) is None
            continue
        ended = used.start(copy, until=lambda copy=copy: not list((copy / "tmp").glob(".sdk*")))  # type: ignore[misc]  # mypy knows no bound default
        assert (ended.is_ready, ended.status, ended.lines) == (True, 0, [])
        assert os.readlink(copy / "sdk" / "corral") == os.readlink(state / "sdk" / "corral")
        assert rows(copy, "SELECT count(*) FROM task") == [(1,)]


def rows(state: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / "corral.db")) as connection:
        return connection.execute(sql).fetchall()


def test_a_store_that_is_cut_off_foreign_or_newer_is_left_as_it_is(used: Folder) -> None:
    def cut(size: int) -> Callable[[Path], None]:
        return lambda path: os.truncate(path, size)

    def newer(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 999")
            connection.commit()

    def other(path: Path) -> None:
        path.unlink()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE mine (a)")

    found: list[object] = []
    harms: list[Callable[[Path], object]] = [cut(10), cut(100), cut(4096), cut(60_000), newer, other]
    harms.append(lambda path: path.write_bytes(b"no database" * 1000))
    for harm in harms:
        state = used.copy()
        harm(state / "corral.db")
        before = snapshot(state)
        error = prepared(state)
        assert isinstance(error, Conflict)
        found.append(error.data["reason"])
        after = snapshot(state)
        assert {key: after[key] for key in before} == before
    corrupt, foreign = "corrupt", "not-a-store"
    assert found == [foreign, corrupt, corrupt, corrupt, "newer-version", foreign, foreign]
    state = used.copy()
    newer(state / "corral.db")
    refused(used.start(state), "corral.db")
    shutil.copy(used.original / "corral.db", state)
    mended = used.start(state)
    # A busy machine stalls the daemon, which says so.
    lines = [line for line in mended.lines if " stalled for " not in line]
    assert (mended.is_ready, mended.status, lines) == (True, 0, [])
    assert rows(state, "SELECT count(*) FROM task") == [(1,)]


def test_a_write_ahead_log_without_its_store_is_not_thrown_away(used: Folder) -> None:
    """SQLite deletes such a log when it makes a new file, and acknowledged tasks may be in it alone."""
    for is_empty in (False, True):
        state = used.copy()
        with closing(sqlite3.connect(state / "corral.db")) as connection:
            connection.execute("INSERT INTO meta VALUES ('more', 1)")
            connection.commit()
            wal = (state / "corral.db-wal").read_bytes()
        assert wal
        (state / "corral.db-wal").write_bytes(wal)
        store = state / "corral.db"
        store.write_bytes(b"") if is_empty else store.unlink()
        error = prepared(state)
        assert isinstance(error, Conflict)
        assert error.data["reason"] == "half-copied"
        assert (state / "corral.db-wal").read_bytes() == wal


def test_a_store_that_was_left_out_of_a_copy_is_noticed(used: Folder) -> None:
    state = used.copy()
    (state / "corral.db").unlink()
    ended = used.start(state)
    assert (ended.is_ready, ended.status, len(ended.lines)) == (True, 0, 1)
    assert " warning " in ended.lines[0]
    assert "corral.db" in ended.lines[0]


@needs_root
def test_a_folder_of_another_user_is_refused_by_its_name(used: Folder) -> None:
    for mode in (0o700, 0o755):
        for prefix in (NO_RIGHTS, ()):
            state = used.copy()
            subprocess.run(["chown", "-R", "65534", str(state)], check=True)
            state.chmod(mode)
            before = snapshot(state)
            refused(used.start(state, *prefix), str(state), "65534")
            assert snapshot(state) == before
    subprocess.run(["chown", "-R", "0", str(state)], check=True)
    assert used.start(state).is_ready


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "4m")


def test_a_read_only_file_system_is_named(used: Folder, small_disk: Path) -> None:
    state = small_disk / "state"
    shutil.copytree(used.original, state, symlinks=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert isinstance(prepared(small_disk / "new"), PermissionDenied)
    refused(used.start(state), str(state), "read-only")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert prepared(state) is None


def test_a_disk_that_is_full_at_the_start_is_named_and_loses_nothing(used: Folder, small_disk: Path) -> None:
    """With each amount of free space the start either succeeds or ends in one line; with more of it it succeeds."""
    page = os.sysconf("SC_PAGESIZE")
    state = small_disk / "state"
    shutil.copytree(used.original, state, symlinks=True)
    for name in ("sdk", "tmp", "cortex"):
        shutil.rmtree(state / name)
    fill = small_disk / "fill"
    with fill.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(page)):
                pass
        except OSError:
            pass
    outcomes: list[bool] = []
    for free in (0, 4, 12, 200):
        os.truncate(fill, max(0, os.path.getsize(fill) - free * page))
        ended = used.start(state)
        outcomes.append(ended.is_ready)
        assert not any("Traceback" in line for line in ended.lines), ended
        if not ended.is_ready:
            refused(ended, str(state), "full")
    assert (outcomes[0], outcomes[-1]) == (False, True), outcomes
    assert rows(state, "SELECT count(*) FROM task") == [(1,)]


def test_a_state_folder_that_is_a_file_or_below_one_is_refused(used: Folder) -> None:
    file = used.folder / "file"
    file.write_text("somebody's")
    assert isinstance(prepared(file), PermissionDenied)
    assert isinstance(prepared(file / "below"), PermissionDenied)
    assert file.read_text() == "somebody's"


def test_a_slow_disk_is_named_while_the_store_is_opened_and_a_stop_does_not_wait(used: Folder, tmp_path: Path) -> None:
    """Each sync takes a minute: the start says so, and a stop ends it at once."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the disk cannot be slowed down")
    library = tmp_path / "slow_sync.so"
    source = AGENTS / "slow_sync.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=BOUND_S)
    state = used.copy()
    command = [str(BIN / "corrald"), f"--config={used.folder / 'corral.toml'}"]
    command += [f"--socket={used.folder / 'corral.sock'}", f"--state-dir={state}"]
    with subprocess.Popen(
        command,
        env={**os.environ, "LD_PRELOAD": str(library), "SLOW_SYNC_S": "60"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " warning " in line, line
        assert str(state) in line
        process.terminate()
        assert process.wait(BOUND_S) == 0
    assert rows(state, "SELECT count(*) FROM task") == [(1,)]
