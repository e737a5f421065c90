"""The seeds of random lives: some in each run of the tests, the others in `make long`."""

import pytest

USUAL = 20
"""Lives that a run of the tests has time for: a planted fault in what they check is found by fewer."""


def seeds(count: int, usual: int = USUAL) -> list[object]:
    """The arguments of a test that is run with each of `count` seeds: of lives that take long, fewer than usual in each run."""
    return [*range(min(usual, count)), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(usual, count))]
