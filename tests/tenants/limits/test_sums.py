"""Which worker ends for its tenant, and who gets which share, decided from figures alone."""

import math

import pytest

from corral.supervisor.tenants.limits.sums import LOOK_S, look_in_s, over_memory, over_processes, shared_percent
from corral.supervisor.workers.usage.limits import GROWTH_BYTES_PER_S, MIN_LOOK_S

pytestmark = pytest.mark.core

MIB = 2**20


def test_the_worker_that_uses_the_most_ends_and_the_reason_has_the_figures() -> None:
    used = {"a-0": 30 * MIB, "b-0": 50 * MIB, "c-0": 21 * MIB}
    found = over_memory("acme", 100 * MIB, used)
    assert found is not None
    worker, over = found
    assert (worker, over.key, over.limit, over.used) == (
        "b-0", "max_memory_bytes", 100 * MIB, 101 * MIB,
    )  # fmt: skip
    assert over.result == "oom"
    for part in ("acme", "101.0 MiB", "100.0 MiB", "50.0 MiB"):
        assert part in over.reason
    assert over_memory("acme", 101 * MIB, used) is None
    assert over_memory("acme", 0, used) is None


def test_the_worker_with_the_most_processes_ends() -> None:
    found = over_processes("acme", 9, {"a-0": 2, "b-0": 8})
    assert found is not None
    assert (found[0], found[1].used, found[1].result) == ("b-0", 10, "processes")
    assert over_processes("acme", 10, {"a-0": 2, "b-0": 8}) is None


def test_the_next_look_comes_before_the_room_can_be_filled() -> None:
    assert look_in_s(None, holds_cpu=False, counts=False) == LOOK_S
    assert look_in_s(GROWTH_BYTES_PER_S // 2, holds_cpu=False, counts=False) == 0.5
    assert look_in_s(0, holds_cpu=True, counts=True) == MIN_LOOK_S


def test_light_workers_keep_what_they_use_and_heavy_ones_share_the_rest() -> None:
    found = shared_percent(100, {"light": 10.0, "x": math.inf, "y": math.inf})
    assert found == {"light": 15, "x": 42, "y": 42}
    assert sum(shared_percent(80, {"x": 5.0, "y": 5.0}).values()) == pytest.approx(80, abs=2)
    assert shared_percent(50, {"x": 0.0}) == {"x": 50}
    assert min(shared_percent(1, dict.fromkeys(range(9), math.inf)).values()) == 1
