"""`corrald --detach` starts a daemon in the background, and `corral daemon stop` ends it."""

import os
import subprocess
from pathlib import Path

import pytest

from corral.supervisor.daemon.host import background
from daemon_process import BIN, BOUND_S, marked

pytestmark = [pytest.mark.shell, pytest.mark.long]

CONFIG = '[agents.one]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n'


class Place:
    """A folder with a configuration, and the commands that use it."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.folder = folder
        (folder / "corral.toml").write_text(config)

    def run(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        own = {key: value for key, value in os.environ.items() if not key.startswith("CORRAL_")}
        names = {"CORRAL_SOCKET": "s.sock", "CORRAL_STATE_DIR": "state"}
        return subprocess.run(
            [BIN / program, *arguments],
            cwd=self.folder,
            env=own | names | {"CORRAL_CONFIG": "corral.toml"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )


def test_a_detached_daemon_answers_when_its_starter_has_ended_and_leaves_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    begun = place.run("corrald", "--detach")
    assert begun.returncode == 0, begun.stderr
    pid = int(begun.stdout)
    try:
        assert os.getsid(pid) == pid, "it has a session of its own"
        assert place.run("corral", "status", "one", "--connect-timeout", "0").returncode == 0
        again = place.run("corrald", "--detach")
        assert (again.returncode, again.stdout, str(pid) in again.stderr) == (1, "", True)
        log = tmp_path / "state" / background.LOG_NAME
        assert log.stat().st_mode & 0o077 == 0
        assert f"pid={pid}" in log.read_text()
    finally:
        stopped = place.run("corral", "daemon", "stop")
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped corrald, pid {pid}\n")
    assert place.run("corral", "status", "--connect-timeout", "0").returncode == 6
    assert marked(tmp_path) == []


def test_a_detached_daemon_that_cannot_start_says_why_and_is_gone(tmp_path: Path) -> None:
    place = Place(tmp_path, "[agents.one]\ncommand = 1\n")
    wrong = place.run("corrald", "--detach")
    assert (wrong.returncode, wrong.stdout, "agents.one.command" in wrong.stderr) == (2, "", True)
    place = Place(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "corral.db").write_text("this is no database, and never was one")
    broken = place.run("corrald", "--detach")
    assert (broken.returncode, broken.stdout, broken.stderr.count("\n")) == (1, "", 1)
    assert "corral.db" in broken.stderr
    assert place.run("corral", "status", "--connect-timeout", "0").returncode == 6


def test_a_log_file_that_is_full_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_LOG_BYTES", 10)
    path = tmp_path / "corrald.log"
    kept = [os.dup(1), os.dup(2)]
    try:
        log = background.LogFile.open(path)
        os.write(2, b"first of all\n")
        log.rotate()
        os.write(2, b"second\n")
        log.rotate()
    finally:
        for target, fd in zip((1, 2), kept, strict=True):
            os.dup2(fd, target)
            os.close(fd)
    assert path.read_bytes() == b"second\n"
    assert Path(f"{path}.1").read_bytes() == b"first of all\n"
