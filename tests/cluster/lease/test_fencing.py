"""Fencing tokens: late writers change nothing, and a record ends once, in any order of writes."""

import random

import pytest

from corral.supervisor.cluster.lease.fencing import Record, judge, written
from seeds import seeds

pytestmark = pytest.mark.core


def test_an_older_token_is_late_and_the_same_one_may_write_again() -> None:
    record = written(Record(), 7)
    assert judge(record, 6) == "late"
    assert judge(record, 7) == judge(record, 8) == "write"


def test_an_ended_record_ends_once_and_a_late_writer_is_late_there_too() -> None:
    record = written(Record(), 7, is_final=True)
    assert judge(record, 8) == "ended"
    assert judge(record, 3) == "late"


@pytest.mark.parametrize("seed", seeds(100))
def test_tokens_of_a_record_never_go_back_and_it_ends_at_most_once(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    record, ends = Record(), 0
    tokens: list[int] = []
    for _ in range(200):
        token, final = rng.randint(1, 30), rng.random() < 0.05
        if judge(record, token) == "write":
            record = written(record, token, is_final=final)
            ends += final
            tokens.append(token)
    assert tokens == sorted(tokens)
    assert ends <= 1
