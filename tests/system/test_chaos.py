"""Nothing accepted is lost: the short form of tests/chaos/chaos.py, with a seed that pytest shows."""

import random
from pathlib import Path

from chaos.chaos import VICTIMS, ordeal

TASKS = 200


def test_every_acknowledged_task_ends_once_whoever_is_killed(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    verdict = ordeal(tmp_path, seed, TASKS)
    print(verdict)
    assert verdict.wrong == []
    assert verdict.tasks == TASKS
    assert verdict.kills["daemon"] == VICTIMS["daemon"]
