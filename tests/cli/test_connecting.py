"""A command waits, within its bound, for a daemon that is about to listen."""

import fcntl
import json
import os
import pty
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from scripted_daemon import BOUND_S, ScriptedDaemon

pytestmark = pytest.mark.shell

CORRAL = [sys.executable, "-P", "-m", "corral.cli"]

STATUS: dict[str, object] = {"daemon": {"pid": 1, "version": "9.8.7"}, "agents": [], "mcp_servers": [], "tasks": {}}


def environment(path: Path, **more: str) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("CORRAL_")}
    return own | {"CORRAL_SOCKET": str(path)} | more


@contextmanager
def started(path: Path, *arguments: str) -> Generator[tuple["subprocess.Popen[str]", IO[bytes]]]:
    """A command that is running."""
    ours, theirs = pty.openpty()
    with (
        open(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(
            [*CORRAL, *arguments], env=environment(path), stdout=subprocess.PIPE, stderr=theirs, text=True
        ) as process,
    ):
        os.close(theirs)
        yield process, terminal


def noted_on(terminal: IO[bytes]) -> str:
    """The line that says that a command waits, as soon as it is there."""
    line = b""
    while not line.endswith(b"\n"):
        line += terminal.read(1)
    return line.decode()


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, _ = process.communicate(timeout=BOUND_S)
    return process.returncode, out


def test_a_command_waits_for_a_socket_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "corral.sock"
    with started(path, "--connect-timeout", "20s", "status") as (process, terminal):
        assert "20 s" in noted_on(terminal)
        with ScriptedDaemon(path, {"daemon.status": STATUS}):
            code, out = end_of(process)
    assert (code, "9.8.7" in out) == (0, True)


def test_a_command_waits_longer_while_a_daemon_holds_the_lock_of_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "corral.sock"
    with Path(f"{path}.lock").open("w") as lock, started(path, "status") as (process, terminal):
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "10 s" in noted_on(terminal)
        with ScriptedDaemon(path, {"daemon.status": STATUS}):
            assert end_of(process)[0] == 0


@pytest.mark.parametrize(("arguments", "variable"), [(("--connect-timeout", "0"), ""), ((), "0"), ((), "50ms")])
def test_a_bound_of_its_own_ends_the_waiting(tmp_path: Path, arguments: tuple[str, ...], variable: str) -> None:
    done = subprocess.run(
        [*CORRAL, *arguments, "status"],
        env=environment(tmp_path / "corral.sock", CORRAL_CONNECT_TIMEOUT=variable),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)
    assert "corrald --detach" in done.stderr, "it names the command that starts a daemon"
    assert ("waited 0.05 s" in done.stderr) == (variable == "50ms")


def test_a_variable_that_is_no_duration_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CORRAL, "status", "--json"],
        env=environment(tmp_path / "corral.sock", CORRAL_CONNECT_TIMEOUT="soon"),
        capture_output=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["data"]["key"] == "CORRAL_CONNECT_TIMEOUT"


def test_a_socket_that_waiting_cannot_mend_is_refused_at_once(tmp_path: Path) -> None:
    with started(tmp_path / ("x" * 200), "status", "--json") as (process, _):
        code, out = end_of(process)
    assert (code, json.loads(out)["error"]["data"]["reason"]) == (6, "too-long")
