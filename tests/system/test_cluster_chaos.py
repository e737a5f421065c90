"""A short form of `make long cluster-chaos`: nodes and the engine are hurt under load, and nothing that was accepted is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.cluster import SETUPS, again, foreign, is_good, life, tokens_back
from cluster_of_daemons import engine_or_skip
from faults import versions
from faults.place import why_not_apart

pytestmark = pytest.mark.shell

CHAOS = Path(__file__).parents[1] / "chaos" / "cluster.py"

WAYS = ("cut_node,mute_node", "cut_server", "part_servers", "fill_node", "fill_server", "move_node_clock", "other_version")  # fmt: skip


def test_nothing_accepted_is_lost_and_no_agent_runs_twice_at_a_time(tmp_path: Path) -> None:
    engine_or_skip("nats")
    found = life(("nats", 1, "usual"), tmp_path, 6.0, 5)
    assert found["accepted"]
    assert found["ended"] == found["accepted"]
    assert is_good(found), found


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("setup", range(len(SETUPS)))
def test_a_cluster_outlives_partitions_clocks_full_disks_and_two_versions(tmp_path: Path, setup: int, way: str) -> None:
    engine_or_skip(SETUPS[setup][0])
    if reason := why_not_apart() or versions.why_not("HEAD~1"):
        pytest.skip(reason)
    if way == "part_servers" and SETUPS[setup][1] == 1:
        pytest.skip("one server has no other")
    command = [sys.executable, "-P", str(CHAOS), f"--only={setup}", f"--ways={way}"]
    command += ["--seconds=8", "--older=HEAD~1", f"--keep={tmp_path}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    found = json.loads(run.stdout)
    assert found["hurts"], run.stderr
    assert found["ended"] == found["accepted"] > 0


def test_the_checker_sees_two_copies_a_token_that_went_back_and_a_foreign_end() -> None:
    lines = [
        ["alone", "a", "5", "1", "0"],
        ["ran", "x1", "5", "0", "0"],
        ["ran", "x1", "5", "0", "0"],
        ["alone", "a", "4", "2", "0"],
    ]
    assert tokens_back(lines) == 1
    assert again(lines) == 1
    end = {"task": {"id": "x1", "state": "succeeded", "output": {"token": 6}}}
    assert foreign(lines, {"x1": end}) == 1
    assert not is_good({"lost": 0, "twice_at_a_time": 1, "tokens_back": 0, "foreign_ends": 0, "doubled": 0})
