"""The wall clock is for people: it may jump, and nothing that is decided changes.

The daemon runs with a wall clock that the test sets (`agents/wall_clock.c`, preloaded); its monotonic
clock is the real one.
"""

import shutil
import struct
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from daemon_process import AGENTS, BOUND_S, DaemonProcess

YEAR_S = 365 * 24 * 3600

CONFIG = """
[monitoring]
heartbeat_interval = "100ms"
heartbeat_timeout = "2s"
[recovery]
restart_backoff_base = "200ms"
[agents.crew]
command = ["python", "{agents}/crew_agent.py"]
[agents.idle]
command = ["sleep", "infinity"]
protocol = "none"
[agents.late]
command = ["python", "{agents}/crew_agent.py"]
autostart = false
"""


class WallClock:
    """The daemon's wall clock, as far as it is off."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler: the wall clock of one process cannot be set")
        library = folder / "wall_clock.so"
        source = AGENTS / "wall_clock.c"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True, timeout=BOUND_S
        )
        self._file = folder / "offset"
        self.jump(0)
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("WALL_CLOCK_OFFSET", str(self._file))

    def jump(self, offset_s: int) -> None:
        """Sets how far the clock is off from now on."""
        mode = "r+b" if self._file.exists() else "wb"
        with self._file.open(mode) as file:
            file.write(struct.pack("q", offset_s))


@pytest.mark.parametrize("offset_s", [YEAR_S, -YEAR_S], ids=["a-year-ahead", "a-year-back"])
def test_a_jump_of_the_wall_clock_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset_s: int
) -> None:
    clock = WallClock(tmp_path, monkeypatch)
    with DaemonProcess(tmp_path, CONFIG.format(agents=AGENTS)) as daemon:
        monkeypatch.delenv("LD_PRELOAD")
        for name in ("crew", "idle"):
            daemon.call("agent.start", names=[name])
        first = daemon.call("task.run", agent="crew", objective="echo", input={"text": "before"})
        lives = {each: daemon.worker(each)["pid"] for each in ("crew-0", "idle-0")}
        clock.jump(offset_s)
        # A timer that counted in wall-clock time would be due at once, or never again.
        daemon.call("agent.start", names=["late"])
        second = daemon.call("task.run", agent="crew", objective="echo", input={"text": "after"})
        daemon.call("agent.signal", name="late", signal="KILL")
        died = daemon.await_worker("late-0", lambda w: w["incarnation"] == 2)
        daemon.await_worker("late-0", lambda w: w["state"] == "Ready")
        assert died["last_exit"]["signal"] == "SIGKILL"
        assert {each: daemon.worker(each)["pid"] for each in lives} == lives
        assert (first["state"], second["state"]) == ("succeeded", "succeeded")
        moved = datetime.fromisoformat(second["created_at"]) - datetime.fromisoformat(first["created_at"])
        assert abs(moved - timedelta(seconds=offset_s)) < timedelta(days=1), "it did jump"
        assert 0 <= second["duration_s"] < BOUND_S
