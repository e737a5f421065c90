"""One whole version serves after any kill -9: the short form of tests/chaos/deploys.py."""

import random
from pathlib import Path

import pytest

from chaos.deploys import deploys

pytestmark = pytest.mark.long

ROUNDS = 5


def test_a_kill_at_any_moment_of_a_deployment_leaves_one_whole_version(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    verdict = deploys(tmp_path, seed, ROUNDS)
    print(verdict)
    assert verdict.wrong == []
    assert verdict.rounds == ROUNDS
