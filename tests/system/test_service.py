"""corrald as a service: what it tells the service manager, how signals end it, and where its things are."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from corral.worker.client.sync import Client
from daemon_process import AGENTS, BIN, BOUND_S, marked

ROOT = Path(__file__).parents[2]

DEAF = f"""
[agents.deaf]
command = ["{sys.executable}", "{AGENTS / "raw_worker.py"}", "deaf"]
process.shutdown_grace_period = "1h"
"""
"""A worker that ignores every request to end, and may take an hour over it."""


@contextlib.contextmanager
def notified(folder: Path) -> Generator[socket.socket, None, None]:
    """The service manager's end of sd_notify(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(folder / "notify.sock"))
        receiver.settimeout(BOUND_S)
        yield receiver


@contextlib.contextmanager
def corrald(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path, uid: int | None = None
) -> Generator[subprocess.Popen[bytes], None, None]:
    """A daemon that is killed at the end if it still runs; its log is cwd/daemon.log."""
    with (
        (cwd / "daemon.log").open("ab") as log,
        subprocess.Popen(
            [str(BIN / "corrald"), *arguments],
            env={"PATH": os.environ["PATH"], **(environ or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=uid,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def options(folder: Path, config: str = "") -> list[str]:
    (folder / "corral.toml").write_text(config)
    return [f"--config={folder}/corral.toml", f"--socket={folder}/corral.sock", f"--state-dir={folder}/state"]


# -- the service manager


def test_it_says_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify.sock")}
    with notified(tmp_path) as manager, corrald(*options(tmp_path), environ=environ, cwd=tmp_path) as process:
        assert manager.recv(256) == b"READY=1"
        with Client(str(tmp_path / "corral.sock")) as client:  # ready means that it answers
            client.call("daemon.status", timeout_s=BOUND_S)
        process.terminate()
        assert manager.recv(256) == b"STOPPING=1"
        assert process.wait(BOUND_S) == 0
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):  # no watchdog was asked for
            manager.recv(256)


def test_it_speaks_to_an_abstract_socket_as_well(tmp_path: Path) -> None:
    name = f"corral-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(BOUND_S)
        with corrald(*options(tmp_path), environ={"NOTIFY_SOCKET": f"@{name}"}, cwd=tmp_path):
            assert manager.recv(256) == b"READY=1"


@pytest.mark.long
def test_it_feeds_the_watchdog_while_its_loop_turns_and_not_while_it_is_stopped(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify.sock"), "WATCHDOG_USEC": "30000000"}
    with notified(tmp_path) as manager, corrald(*options(tmp_path), environ=environ, cwd=tmp_path) as process:
        said = [manager.recv(256) for _ in range(4)]
        assert sorted(said) == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        _drain(manager)  # what it said before it stopped
        manager.settimeout(2.5)  # more than two beats of a loop that turns
        with pytest.raises(TimeoutError):
            manager.recv(256)
        process.send_signal(signal.SIGCONT)
        manager.settimeout(BOUND_S)
        assert manager.recv(256) == b"WATCHDOG=1"


def _drain(receiver: socket.socket) -> None:
    receiver.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver.recv(256)


def test_a_watchdog_for_another_process_is_not_fed(tmp_path: Path) -> None:
    # sd_watchdog_enabled(3): WATCHDOG_PID names the process that is meant.
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify.sock"), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}
    with notified(tmp_path) as manager, corrald(*options(tmp_path), environ=environ, cwd=tmp_path) as process:
        assert manager.recv(256) == b"READY=1"
        process.terminate()
        assert manager.recv(256) == b"STOPPING=1"


# -- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify.sock")}
    config = '[agents.plain]\ncommand = ["sleep", "600"]\nprotocol = "none"\n'
    with notified(tmp_path) as manager, corrald(*options(tmp_path, config), environ=environ, cwd=tmp_path) as process:
        assert manager.recv(256) == b"READY=1"
        with Client(str(tmp_path / "corral.sock")) as client:
            client.call("agent.start", {"names": ["plain"]}, timeout_s=BOUND_S)
        process.send_signal(number)
        assert process.wait(BOUND_S) == 0
    assert marked(tmp_path) == []
    assert not (tmp_path / "corral.sock").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_means_at_once(tmp_path: Path, number: signal.Signals) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify.sock")}
    with notified(tmp_path) as manager, corrald(*options(tmp_path, DEAF), environ=environ, cwd=tmp_path) as process:
        assert manager.recv(256) == b"READY=1"
        with Client(str(tmp_path / "corral.sock")) as client:
            client.call("agent.start", {"names": ["deaf"]}, timeout_s=BOUND_S)
        process.send_signal(number)
        assert manager.recv(256) == b"STOPPING=1"  # the first was taken, and the drain has an hour
        process.send_signal(number)
        assert process.wait(BOUND_S) == 0
    assert marked(tmp_path) == []


def test_a_hangup_does_not_end_the_daemon(tmp_path: Path) -> None:
    # systemd counts a death by SIGHUP as a wish, and does not start it again (systemd.service(5)).
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify.sock")}
    with notified(tmp_path) as manager, corrald(*options(tmp_path), environ=environ, cwd=tmp_path) as process:
        assert manager.recv(256) == b"READY=1"
        process.send_signal(signal.SIGHUP)
        process.terminate()
        assert process.wait(BOUND_S) == 0


# -- where things are


def _ordinary(tmp_path: Path) -> int | None:
    """The uid to run as so that the defaults are an ordinary user's, who is given `tmp_path`; None: as we are."""
    if os.getuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody").pw_uid
    try:
        version = [str(BIN / "corrald"), "--version"]
        subprocess.run(version, user=nobody, capture_output=True, check=True, cwd="/")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("corrald is where an ordinary user cannot reach it")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid != 0 or folder == Path("/tmp"):
            break
        folder.chmod(folder.stat().st_mode | 0o011)
    os.chown(tmp_path, nobody, -1)
    return nobody


@pytest.mark.parametrize("variables", ["xdg", "home"])
def test_an_ordinary_user_s_defaults_are_the_base_directories(tmp_path: Path, variables: str) -> None:
    uid = _ordinary(tmp_path)
    environ = {"HOME": str(tmp_path), "NOTIFY_SOCKET": str(tmp_path / "notify.sock")}
    if variables == "xdg":
        places = {name: tmp_path / name for name in ("config", "state", "run")}
        environ |= {
            "XDG_CONFIG_HOME": str(places["config"]),
            "XDG_STATE_HOME": str(places["state"]),
            "XDG_RUNTIME_DIR": str(places["run"]),
        }
        config, state, run = (places[name] / "corral" for name in ("config", "state", "run"))
    else:
        config, state = tmp_path / ".config/corral", tmp_path / ".local/state/corral"
        run = Path(f"/tmp/corral-{os.getuid() if uid is None else uid}")
        if run.exists():
            pytest.skip(f"{run} is somebody's already")
    config.mkdir(parents=True)
    (config / "corral.toml").write_text("[agents.a\n")
    checked = _check(environ, tmp_path, uid)
    assert checked.returncode == 2  # so it was this file that was read
    (config / "corral.toml").write_text('[agents.a]\ncommand = ["true"]\nautostart = false\n')
    assert _check(environ, tmp_path, uid).returncode == 0
    try:
        with notified(tmp_path) as manager, corrald(environ=environ, cwd=tmp_path, uid=uid) as it:
            os.chmod(tmp_path / "notify.sock", 0o666)
            assert manager.recv(256) == b"READY=1"
            with Client(str(run / "corral.sock")) as client:
                status = client.call("daemon.status", timeout_s=BOUND_S)
            assert isinstance(status, dict)
            assert status["daemon"]["socket"] == str(run / "corral.sock")
            assert status["daemon"]["state_dir"] == str(state)
            assert (state / "corral.db").exists()
            assert run.stat().st_mode & 0o777 == 0o700
            it.terminate()
            assert it.wait(BOUND_S) == 0
    finally:
        if variables == "home":
            shutil.rmtree(run, ignore_errors=True)


def _check(
    environ: Mapping[str, str], cwd: Path, uid: int | None = None, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "corrald"), "--check", *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        user=uid,
        timeout=BOUND_S,
        check=False,
    )


def test_variables_say_where_things_are_and_the_command_follows(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('[agents.mine]\ncommand = ["true"]\nautostart = false\n')
    environ = {
        "CORRAL_CONFIG": str(tmp_path / "my.toml"),
        "CORRAL_SOCKET": str(tmp_path / "my.sock"),
        "CORRAL_STATE_DIR": str(tmp_path / "my-state"),
        "NOTIFY_SOCKET": str(tmp_path / "notify.sock"),
    }
    with notified(tmp_path) as manager, corrald(environ=environ, cwd=tmp_path):
        assert manager.recv(256) == b"READY=1"
        assert (tmp_path / "my-state" / "corral.db").exists()
        status = subprocess.run(
            [str(BIN / "corral"), "status", "mine"],
            env={"PATH": os.environ["PATH"], **environ},
            capture_output=True,
            timeout=BOUND_S,
            check=False,
        )
        assert status.returncode == 0


def test_the_sdk_can_be_read_by_agents_of_other_users(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify.sock")}
    with notified(tmp_path) as manager, corrald(*options(tmp_path), environ=environ, cwd=tmp_path):
        assert manager.recv(256) == b"READY=1"
        assert (tmp_path / "state" / "sdk").stat().st_mode & 0o055 == 0o055
        assert (tmp_path / "state" / "corral.db").stat().st_mode & 0o077 == 0  # and this cannot


def test_an_option_comes_before_a_variable(tmp_path: Path) -> None:
    environ = {
        name: str(tmp_path / "not" / "here") for name in ("CORRAL_CONFIG", "CORRAL_SOCKET", "CORRAL_STATE_DIR")
    } | {"NOTIFY_SOCKET": str(tmp_path / "notify.sock")}
    with notified(tmp_path) as manager, corrald(*options(tmp_path), environ=environ, cwd=tmp_path):
        assert manager.recv(256) == b"READY=1"
        with Client(str(tmp_path / "corral.sock")) as client:
            client.call("daemon.status", timeout_s=BOUND_S)
    assert not (tmp_path / "not").exists()


# -- --check


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "status"),
    [("", 0), ('[agents.a]\ncommand = ["no-such-program"]\n', 0), ("[agents.a]\n", 2), ("=", 2)],
    ids=["empty", "a program that is not there", "no command", "no TOML"],
)
def test_check_says_whether_the_configuration_is_valid_and_touches_nothing(
    tmp_path: Path, text: str, status: int
) -> None:
    ended = _check({}, tmp_path, None, *options(tmp_path, text))
    lines = (len(ended.stdout.splitlines()), len(ended.stderr.splitlines()))
    assert (ended.returncode, lines) == (status, (0, 1) if status else (1, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["corral.toml"]


# -- the units


def _make(target: str, destination: Path, **variables: str) -> None:
    subprocess.run(
        [
            "make",
            "--silent",
            "-C",
            str(ROOT / "systemd"),
            target,
            f"DESTDIR={destination}",
            *(f"{name}={value}" for name, value in variables.items()),
        ],
        env={"PATH": os.environ["PATH"], "HOME": "/home/somebody"},
        check=True,
        capture_output=True,
        timeout=BOUND_S,
    )


def _files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or p.is_file()}


def _verify(unit: Path, *arguments: str) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    with tempfile.TemporaryDirectory() as runtime:  # a short path: other units name sockets in it
        ended = subprocess.run(
            [analyze, "verify", "--recursive-errors=yes", "--man=no", *arguments, str(unit)],
            env={**os.environ, "XDG_RUNTIME_DIR": runtime},  # without it --user ends at once
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
    if "unrecognized option" in ended.stderr:
        pytest.skip("systemd-analyze is older than --recursive-errors (systemd 250)")
    complaints = ended.stderr.splitlines()
    assert [line for line in complaints if "corrald" in line] == []
    assert ended.returncode == 0 or complaints, "it failed for the sake of another unit"


@pytest.mark.long
def test_the_system_unit_has_only_what_systemd_knows(tmp_path: Path) -> None:
    _make("install", tmp_path, PREFIX=str(BIN.parent))
    unit = tmp_path / "usr/local/lib/systemd/system/corrald.service"
    assert "@" not in "".join(
        line for line in unit.read_text().splitlines() if not line.startswith(("#", "SystemCallFilter"))
    )
    _verify(unit)


def test_the_user_unit_has_only_what_systemd_knows(tmp_path: Path) -> None:
    _make("install-user", tmp_path, CORRALD=str(BIN / "corrald"))
    unit = tmp_path / "home/somebody/.config/systemd/user/corrald.service"
    assert f"ExecStart={BIN}/corrald\n" in unit.read_text()
    _verify(unit, "--user")


@pytest.mark.long
def test_uninstall_removes_what_install_brought_but_the_configuration(tmp_path: Path) -> None:
    _make("install", tmp_path)
    config = tmp_path / "etc/corral/corral.toml"
    assert config.stat().st_mode & 0o777 == 0o600  # it may hold secrets
    config.write_text("# mine\n")
    _make("install", tmp_path)
    assert config.read_text() == "# mine\n"
    _make("uninstall", tmp_path)
    assert _files(tmp_path) == {"etc/corral/corral.toml"}
    _make("install-user", tmp_path / "user", CORRALD="/opt/corral/bin/corrald")
    _make("uninstall-user", tmp_path / "user")
    assert _files(tmp_path / "user") == set()


@pytest.mark.long
def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "systemd" / "corral.toml").read_text()
    everything = "\n".join(
        line.removeprefix("# ") if "=" in line or line.startswith("# [") else line for line in text.splitlines()
    )
    for written in (text, everything):
        assert _check({}, tmp_path, None, *options(tmp_path, written)).returncode == 0


@pytest.mark.long
def test_the_unit_waits_longer_than_the_default_grace_period(tmp_path: Path) -> None:
    _make("install", tmp_path)
    _make("install-user", tmp_path, CORRALD="/opt/corral/bin/corrald")
    for unit in _files(tmp_path):
        if unit.endswith(".service"):
            lines = (tmp_path / unit).read_text().splitlines()
            (stop_s,) = [
                float(line.removeprefix("TimeoutStopSec=").removesuffix("s"))
                for line in lines
                if line.startswith("TimeoutStopSec=")
            ]
            assert stop_s > 10 + 5  # shutdown_grace_period, and the end of the launcher
