"""Backups of a running daemon, and what comes back from them."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import CorralError, NotFound, PermissionDenied
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess, run_corral
from small_disk import mounted

CONFIG = f"""
include = ["more/*.toml"]
[agents.crew]
command = ["python", "{AGENTS}/crew_agent.py"]
instances = 2
environment = {{ KEY = "${{secret:key}}", WHERE = "${{WHERE}}" }}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    folder = tmp_path / "one"
    (folder / "more").mkdir(parents=True)
    (folder / ".env").write_text("WHERE=here\n")
    (folder / "more" / "idle.toml").write_text(
        '[agents.idle]\ncommand = ["sleep", "1000"]\nprotocol = "none"\nautostart = false\n'
    )
    environ = {"CORRAL_STATE_DIR": ""}
    with DaemonProcess(folder, CONFIG.replace("${secret:key}", "x"), environ=environ) as daemon:
        daemon.call("secret.set", name="key", secret="a secret value")
        daemon.call("team.add", name="red", spec={"mode": "broadcast", "members": ["crew"]})
        yield daemon


def restore(folder: Path, archive: Path, *words: str) -> subprocess.CompletedProcess[str]:
    state, config = folder / "state", folder / "corral.toml"
    places = ("--state-dir", str(state), "--config", str(config))
    return run_corral(folder, "restore", str(archive), *places, *words)


class Load:
    """Submits tasks until it is stopped, and remembers which were acknowledged."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.acknowledged: list[str] = []
        self._daemon = daemon
        self._is_over = threading.Event()
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._daemon.client() as client:
            while not self._is_over.is_set():
                task: Any = client.call("task.submit", {"agent": "crew", "objective": "echo"}, timeout_s=BOUND_S)
                self.acknowledged.append(task["id"])
                if len(self.acknowledged) > 50:
                    self._has_begun.set()

    def __enter__(self) -> "Load":
        self._thread.start()
        assert self._has_begun.wait(BOUND_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def test_a_backup_under_load_has_every_task_that_was_acknowledged_before(daemon: DaemonProcess, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    with Load(daemon) as load:
        before = list(load.acknowledged)
        done = daemon.corral("backup", str(archive))
        assert done.returncode == 0, done.stderr
        assert len(load.acknowledged) > len(before), "tasks went on during it"
    assert archive.stat().st_mode & 0o777 == 0o600
    (event,) = daemon.call("event.list", types=["daemon.backed_up"])["events"]
    assert event["size_bytes"] == archive.stat().st_size
    assert (event["agent"], event["logs"], event["secrets"]) == (None, False, True)
    assert list((daemon.state_dir / "backup").iterdir()) == []
    other = tmp_path / "two"
    other.mkdir()
    assert restore(other, archive).returncode == 0
    assert (other / "more" / "idle.toml").exists()
    (other / ".env").unlink()
    with DaemonProcess(other, (other / "corral.toml").read_text(), environ={"WHERE": "there"}) as copy:
        for task in before:
            assert copy.call("task.show", task=task)["id"] == task
        status = copy.call("daemon.status")
        assert [each["name"] for each in status["agents"]] == ["crew", "idle"]
        assert [each["name"] for each in status["teams"]] == ["red"]
        assert copy.call("secret.list")["secrets"][0]["name"] == "key"
        assert copy.call("audit.verify")["ok"]


def test_a_restored_state_replaces_that_of_a_running_daemon_at_its_next_start(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    archive = tmp_path / "b.tar.zst"
    assert daemon.corral("backup", str(archive)).returncode == 0
    incarnation = daemon.worker("crew-0")["incarnation"]
    daemon.call("team.rm", name="red")
    refused = restore(daemon.folder, archive)
    assert refused.returncode == 4
    assert "--replace" in refused.stderr
    assert restore(daemon.folder, archive, "--replace").returncode == 0
    with pytest.raises(NotFound):
        daemon.call("team.show", name="red")
    daemon.kill()
    daemon.start()
    assert daemon.call("team.show", name="red")["team"]["name"] == "red"
    assert daemon.worker("crew-0")["incarnation"] > incarnation + 100
    (before,) = daemon.state_dir.glob("before-*")
    with closing(sqlite3.connect(before / "corral.db")) as kept:
        assert kept.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_with_a_socket_the_folders_are_those_of_its_daemon(daemon: DaemonProcess, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    assert daemon.corral("backup", str(archive)).returncode == 0
    daemon.call("team.rm", name="red")
    done = daemon.corral("restore", str(archive), "--replace", "--json")
    assert json.loads(done.stdout)["state_dir"] == str(daemon.state_dir)
    daemon.stop()
    refused = daemon.corral("--connect-timeout", "0", "restore", str(archive), "--replace")
    assert refused.returncode == 6
    assert "--state-dir" in refused.stderr
    daemon.start()
    assert daemon.call("team.show", name="red")["team"]["name"] == "red"


def test_a_changed_configuration_is_kept_beside_the_restored_one(daemon: DaemonProcess, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    assert daemon.corral("backup", str(archive)).returncode == 0
    text = daemon.config.read_text()
    daemon.config.write_text(f"{text}# changed\n")
    assert restore(daemon.folder, archive, "--replace").returncode == 0
    assert daemon.config.read_text() == text
    (kept,) = daemon.folder.glob("corral.toml.before-*")
    assert kept.read_text() == f"{text}# changed\n"
    other = tmp_path / "two"
    other.mkdir()
    (other / "corral.toml").write_text("# mine\n")
    assert restore(other, archive).returncode == 4
    assert not (other / "state" / "restore" / "ready.json").exists()


def test_restore_with_check_reads_everything_and_changes_nothing(daemon: DaemonProcess, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    assert daemon.corral("backup", "--logs", str(archive)).returncode == 0
    checked = run_corral(tmp_path, "restore", "--check", str(archive))
    assert checked.returncode == 0, checked.stderr
    assert "audit records" in checked.stdout
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    assert run_corral(tmp_path, "restore", "--check", str(archive)).returncode == 1
    assert run_corral(tmp_path, "restore", "--check", str(tmp_path / "none")).returncode == 3


def test_without_secrets_the_archive_has_no_value_of_one(daemon: DaemonProcess, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    for words, has in ((["--no-secrets"], False), ([], True)):
        archive.unlink(missing_ok=True)
        assert daemon.corral("backup", *words, str(archive)).returncode == 0
        listed = subprocess.run(
            [sys.executable, "-c", LISTING, str(archive)], capture_output=True, text=True, check=True
        ).stdout
        assert ("state/secrets.d/key" in listed) is has
        assert ("config/.env" in listed) is has


LISTING = """
import sys
from pathlib import Path
from corral.supervisor.records.backup.archive import Reader
print(*(each.path for each in Reader(open(sys.argv[1], "rb"), "b").manifest.files), sep="\\n")
"""


def test_only_admin_may_make_a_backup_and_nothing_is_written_over(daemon: DaemonProcess, tmp_path: Path) -> None:
    token = daemon.call("token.add", name="operator", rights="operate")["token"]
    with daemon.client() as client:
        client.call("auth.login", {"token": token})
        for method in ("backup.make", "backup.read", "backup.discard"):
            with pytest.raises(PermissionDenied):
                client.call(method, {} if method == "backup.make" else {"id": "x"})
    there = tmp_path / "there"
    there.write_text("mine")
    assert daemon.corral("backup", str(there)).returncode == 4
    assert there.read_text() == "mine"
    with pytest.raises(NotFound):
        daemon.call("backup.read", id="x")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "2m")


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk_of_the_caller_leaves_no_half_file(daemon: DaemonProcess, disk: Path) -> None:
    fill(disk)
    done = daemon.corral("backup", str(disk / "b.tar.zst"))
    assert done.returncode == 2
    assert "space" in done.stderr
    assert [each.name for each in disk.iterdir()] == ["filler"]


def test_a_full_disk_of_the_daemon_is_a_typed_error_and_leaves_nothing(tmp_path: Path) -> None:
    for disk in mounted(tmp_path, "3m"):
        with DaemonProcess(disk, "") as daemon:
            (daemon.state_dir / "cortex").mkdir(exist_ok=True)
            (daemon.state_dir / "cortex" / "big").write_bytes(os.urandom(1_200_000))
            fill(daemon.state_dir / "cortex")
            with pytest.raises(CorralError) as refused:
                daemon.call("backup.make")
            assert refused.value.data["reason"] == "disk-full"
            assert list((daemon.state_dir / "backup").iterdir()) == []
            (daemon.state_dir / "cortex" / "filler").unlink()
            daemon.call("backup.make")


def test_a_restoration_that_is_killed_has_no_effect_and_can_be_made_again(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    archive = tmp_path / "b.tar.zst"
    assert daemon.corral("backup", str(archive)).returncode == 0
    other = tmp_path / "two"
    other.mkdir()
    fifo = tmp_path / "fifo"  # an archive of which the end does not come
    os.mkfifo(fifo)
    command = [str(BIN / "corral"), "restore", str(fifo), "--state-dir", str(other / "state")]
    process = subprocess.Popen([*command, "--config", str(other / "corral.toml")])
    with fifo.open("wb") as writer:
        writer.write(archive.read_bytes()[:-200])
        writer.flush()
        process.send_signal(signal.SIGKILL)
        process.wait(BOUND_S)
    assert not (other / "state" / "restore" / "ready.json").exists()
    assert restore(other, archive).returncode == 0
    assert (other / "state" / "restore" / "ready.json").exists()
