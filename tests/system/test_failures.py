"""The table of docs/reference/operations.md, "When something is wrong", row by row with the real commands."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess

ROOT = Path(__file__).parents[2]

RAW = AGENTS / "raw_worker.py"

TOO_LONG = "x" * 120
"""A file name that makes any socket's path longer than sun_path (unix(7))."""

CODES = {
    "broken TOML": 2,
    "broken TOML, checked": 2,
    "unknown key": 2,
    "no such file": 1,
    "missing program": 1,
    "worker that exits at once": 1,
    "worker that never becomes ready": 5,
    "worker that prints garbage": 0,
    "worker that prints nothing but garbage": 5,
    "stopped agent": 4,
    "agent that gave up": 4,
    "unknown agent, run": 3,
    "unknown agent, start": 3,
    "unknown agent, status": 3,
    "daemon not running, status": 6,
    "daemon not running, start": 6,
    "second daemon": 1,
    "second daemon on the same state folder": 1,
    "socket path too long, corrald": 2,
    "socket path too long, corral": 6,
}
"""What is wrong, and how the command ends that meets it."""

WORKERS = {
    "missing program": "missing",
    "worker that exits at once": "exits",
    "worker that never becomes ready": "silent",
    "worker that prints garbage": "garbage",
    "worker that prints nothing but garbage": "chatter",
}

SUCCEEDS = {"worker that prints garbage"}
"""No failure at all: the one line is a result, on stdout."""


def raw(name: str, fault: str, more: str = "") -> str:
    command = f'command = ["{sys.executable}", "{RAW}", "{fault}"]'
    return f"[agents.{name}]\n{command}\nautostart = false\n{more}\n"


IMPATIENT = 'process.spawn_timeout = "500ms"\nrecovery.restart = "never"'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    config = "".join(
        (
            '[agents.missing]\ncommand = ["no-such-program"]\nautostart = false\n',
            raw("exits", "exit", 'recovery.restart_backoff_base = "10ms"'),
            raw("silent", "silent", IMPATIENT),
            raw("garbage", "garbage"),
            raw("chatter", "only-garbage", IMPATIENT),
            raw("idle", "garbage"),
        )
    )
    with DaemonProcess(tmp_path_factory.mktemp("failures"), config) as process:
        yield process


def corrald(folder: Path, text: str, *arguments: str, **options: Path) -> list[str]:
    """A command line of a daemon that has everything of its own in `folder`, unless `options` say otherwise."""
    config = folder / "corral.toml"
    config.write_text(text)
    places = {"config": config, "socket": folder / "corral.sock", "state-dir": folder / "state"}
    places |= {name.replace("_", "-"): path for name, path in options.items()}
    return [str(BIN / "corrald"), *(f"--{name}={path}" for name, path in places.items()), *arguments]


def corral(socket: Path, *arguments: str) -> list[str]:
    return [str(BIN / "corral"), f"--socket={socket}", *arguments]


def command(row: str, daemon: DaemonProcess, folder: Path) -> list[str]:
    """The command line that meets it."""
    there, nowhere = daemon.socket, folder / "nobody.sock"
    match row.split(", ")[0], row.partition(", ")[2]:
        case "broken TOML", "checked":
            return corrald(folder, "[agents.a\n", "--check")
        case "broken TOML", _:
            return corrald(folder, "[agents.a\n")
        case "unknown key", _:
            return corrald(folder, '[agents.a]\ncommand = ["true"]\nmemory = 3\n')
        case "no such file", _:
            return corrald(folder, "", config=folder / "absent.toml")
        case "stopped agent", _:
            return corral(there, "run", "idle", "hello")
        case "agent that gave up", _:
            subprocess.run(corral(there, "start", "missing"), check=False, capture_output=True)
            return corral(there, "run", "missing", "hello")
        case "unknown agent", "run":
            return corral(there, "run", "nobody", "hello")
        case "unknown agent", verb:
            return corral(there, verb, "nobody")
        case "daemon not running", "start":
            return corral(nowhere, "start", "a")
        case "daemon not running", _:
            return corral(nowhere, "status")
        case "second daemon", _:
            return corrald(folder, "", socket=there)
        case "second daemon on the same state folder", _:
            return corrald(folder, "", state_dir=daemon.state_dir)
        case "socket path too long", "corrald":
            return corrald(folder, "", socket=folder / TOO_LONG)
        case "socket path too long", _:
            return corral(folder / TOO_LONG, "status")
        case worker, _:
            return corral(there, "start", WORKERS[worker])


def documented() -> dict[str, int]:
    """The exit codes in the table, by what is wrong."""
    text = (ROOT / "docs" / "reference" / "operations.md").read_text("utf-8")
    section = text.partition("## When something is wrong")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|`]+?) \|.*\| (\d+) \|$", section, re.MULTILINE)
    return {row: int(code) for row, code in rows}


def test_the_table_on_paper_has_the_rows_and_codes_of_this_test() -> None:
    assert documented() == CODES


@pytest.mark.parametrize("row", CODES)
def test_what_is_wrong_is_one_line_and_an_exit_code(row: str, daemon: DaemonProcess, tmp_path: Path) -> None:
    ended = subprocess.run(
        command(row, daemon, tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    said, silent = (ended.stdout, ended.stderr) if row in SUCCEEDS else (ended.stderr, ended.stdout)
    assert (ended.returncode, len(said.splitlines()), silent) == (CODES[row], 1, ""), ended
    assert said.endswith("\n")


@pytest.mark.long
def test_a_daemon_that_did_not_start_left_nothing_behind(daemon: DaemonProcess, tmp_path: Path) -> None:
    for row in ("broken TOML", "unknown key", "socket path too long, corrald"):
        folder = tmp_path / row.replace(" ", "-")
        folder.mkdir()
        subprocess.run(command(row, daemon, folder), capture_output=True, timeout=BOUND_S, check=False)
        assert [path.name for path in folder.iterdir()] == ["corral.toml"]


def test_a_worker_that_prints_garbage_still_works(daemon: DaemonProcess) -> None:
    assert daemon.corral("start", "garbage").returncode == 0
    assert daemon.corral("run", "garbage", "hello").stdout == "done\n"


def test_the_running_daemon_is_none_the_worse_for_it(daemon: DaemonProcess, tmp_path: Path) -> None:
    for row in ("second daemon", "second daemon on the same state folder"):
        subprocess.run(command(row, daemon, tmp_path), capture_output=True, timeout=BOUND_S, check=False)
    assert daemon.call("daemon.status")["daemon"]["pid"] == daemon.pid
    assert daemon.corral("start", "garbage").returncode == 0
