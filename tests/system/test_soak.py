"""Nothing that a daemon holds grows for ever: the short form of tests/chaos/soak.py, and how it tells a leak from a cache."""

from pathlib import Path

import pytest

from chaos.growth import ALLOWED, Row, table
from chaos.soak import LOOPS, soak

HOURS = 40 / 3600

SAMPLES = 720


def rows(measure: str, held: "list[float]") -> list[Row]:
    """Samples of two hours in which one measure is as given, and all others stand still."""
    still = dict.fromkeys(ALLOWED, 100.0)
    return [Row(2 * at / len(held), 10 * at, still | {measure: value}) for at, value in enumerate(held)]


@pytest.mark.parametrize(
    ("held", "verdict"),
    [
        pytest.param([5e7 + 1000 * at + 20_000 * (at % 7) for at in range(SAMPLES)], "leak", id="steady growth"),
        pytest.param(
            [5e7 + 4e6 * min(at / 400, 1) + 20_000 * (at % 7) for at in range(SAMPLES)], "plateau", id="a cache"
        ),
        pytest.param([5e7 + 20_000 * (at % 7) + 50 * at for at in range(SAMPLES)], "none", id="within what is allowed"),
        pytest.param([5e7 + 3e6 * (at < 30) for at in range(SAMPLES)], "none", id="a high beginning"),
    ],
)
def test_growth_is_a_leak_only_where_it_goes_on(held: list[float], verdict: str) -> None:
    lines, leaking = table(rows("daemon RSS", held))
    assert lines[1].split()[-1] == verdict
    assert leaking == (["daemon RSS"] if verdict == "leak" else [])
    assert {line.split()[-1] for line in lines[2:]} == {"none"}


@pytest.mark.long
def test_every_loop_works_and_is_measured(tmp_path: Path) -> None:
    found, loops = soak(tmp_path, HOURS, 0.3)
    assert not loops.failures
    assert set(loops.done) == set(LOOPS)
    lines, _ = table(found)
    assert {line.split()[-1] for line in lines[1:]} == {"short"}
