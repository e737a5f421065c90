"""A short form of `make cluster-chaos`: nodes and the engine are hurt under load, and nothing that was accepted is lost."""

from pathlib import Path

import pytest

from chaos.cluster import again, foreign, is_good, life, tokens_back
from cluster_of_daemons import engine_or_skip

pytestmark = pytest.mark.shell


def test_nothing_accepted_is_lost_and_no_agent_runs_twice_at_a_time(tmp_path: Path) -> None:
    engine_or_skip("nats")
    found = life(("nats", 1, "usual"), tmp_path, 6.0, 5)
    assert found["accepted"]
    assert found["ended"] == found["accepted"]
    assert is_good(found), found


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
    assert not is_good({"lost": 0, "twice_at_a_time": 1, "tokens_back": 0, "foreign_ends": 0})
