"""No orphan, ever: the short form of tests/chaos/orphans.py, where each scenario is told.

How fast is not asserted here, only that it ends, that nobody is left, and that no life meets an earlier one.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.orphans import LITTER, PROCESSES, SCENARIOS, Lives, repeated
from daemon_process import BOUND_S

ROUNDS = 2
WORKERS = 5

KILLS = ("daemon_killed", "launcher_killed", "worker_killed", "both_killed")
"""What is tried in a PID namespace, too."""


@pytest.fixture
def tier(request: pytest.FixtureRequest) -> str:
    """The containment that is asked for; skips where this machine has no PID namespaces for us."""
    asked = str(request.param)
    if asked == "pidns":
        try:
            made = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, timeout=BOUND_S)
        except FileNotFoundError:
            pytest.skip("no unshare(1): whether PID namespaces can be had is not known")
        if made.returncode != 0:
            pytest.skip(f"no PID namespace for us: {made.stderr.decode().strip()}")
    return asked


@pytest.mark.parametrize(
    ("name", "tier"),
    [*((name, tier) for name in SCENARIOS for tier in ("auto", "launcher")), *((name, "pidns") for name in KILLS)],
    indirect=["tier"],
)
def test_nothing_outlives_its_supervisor(name: str, tier: str, tmp_path: Path) -> None:
    workers = 40 if name == "daemon_killed_in_start" else WORKERS
    result = repeated(name, tmp_path / "it", rounds=ROUNDS, workers=workers, containment=tier)
    assert len(result.outcomes) == ROUNDS
    assert (result.survivors, result.overlaps, result.left) == (0, 0, [])
    assert all(outcome.gone_s is not None for outcome in result.outcomes)


def test_a_stop_that_had_to_force_says_so(tmp_path: Path) -> None:
    result = repeated("stop_answers", tmp_path / "it", rounds=1, workers=WORKERS)
    (outcome,) = result.outcomes
    assert outcome.facts["forced"] == WORKERS


def test_an_orphan_would_be_seen(tmp_path: Path) -> None:
    for name in ("alive", "locks"):
        (tmp_path / name).mkdir()
    lives = Lives.of(tmp_path, ["stray-0"])
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(LITTER), str(tmp_path), "escape"], env={"CORRAL_WORKER": "stray-0#1"}
    ) as leader:
        try:
            lives.await_lines(PROCESSES["escape"])
        finally:
            leader.kill()
    assert lives.await_end(time.monotonic(), bound_s=0.1) is None
    assert len(lives.holders()) == PROCESSES["escape"] - 1
    again = subprocess.run(  # which meets those of the life before
        [sys.executable, "-I", "-S", str(LITTER), str(tmp_path), "brief"],
        env={"CORRAL_WORKER": "stray-0#2"},
        timeout=BOUND_S,
    )
    assert again.returncode == 0
    lives.await_lines(PROCESSES["escape"] + 1)
    assert lives.said[-1] == "leader overlap"
    assert lives.end() == PROCESSES["escape"] - 1
    assert lives.await_end(time.monotonic()) is not None
    lives.close()
