"""Times on a terminal are those of its zone, also where a command writes them into a sentence; a pipe gets them as they were sent."""

import subprocess
from pathlib import Path

import pytest

from daemon_process import BIN, BOUND_S
from screen_terminal import ScreenTerminal
from scripted_daemon import ScriptedDaemon

AT = "2026-01-31T20:30:00.250Z"

REVISION = {"revision": 1, "state": "current", "at": AT, "how": "add", "by": "uid 0", "why": ""}
DEPLOYMENT = {"deployment": 1, "agent": "a", "package": "p", "version": "1", "created_at": AT}
EXIT = {"result": "exited", "code": 0, "at": AT}
WORKER = {"id": "a-0", "state": "Terminated", "pid": None, "done": True, "last_exit": EXIT}
JOB = {"name": "a", "kind": "agent", "type": "oneshot", "state": "Terminated", "workers": [WORKER]}
SCHEDULE = {"name": "s", "at": AT, "task": {"agent": "a", "objective": ""}, "next_at": AT}

SCRIPTS: dict[str, object] = {
    "revision.list": {"revisions": [REVISION]},
    "deployment.list": {"deployments": [DEPLOYMENT]},
    "daemon.status": {"daemon": {}, "agents": [JOB], "mcp_servers": []},
    "schedule.list": {"schedules": [SCHEDULE]},
    "task.submit": {"id": "t-1", "state": "queued", "scheduled_at": AT},
}


@pytest.mark.parametrize("words", ["history a", "deployments", "status", "schedules", "run a x --at 5m"])
def test_a_terminal_shows_the_time_of_its_zone(tmp_path: Path, words: str) -> None:
    with ScriptedDaemon(tmp_path / "socket", SCRIPTS) as daemon:
        command = [str(BIN / "corral"), "--socket", str(daemon.path), *words.split()]
        with ScreenTerminal(command, 200, 24, {"TZ": "Asia/Tokyo"}) as screen:
            assert screen.wait_end() == 0
            assert "2026-02-01 05:30" in screen.text
            assert AT[:10] not in screen.text
        piped = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=True)
        assert AT in piped.stdout + piped.stderr
