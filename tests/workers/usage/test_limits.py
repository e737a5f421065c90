"""Which limit was reached, by figures and by ends; and that a look is never too late to see it."""

from collections.abc import Callable

import pytest

from corral.supervisor.config.spec.spec import Resources
from corral.supervisor.workers.usage import limits
from corral.supervisor.workers.usage.limits import MIN_LOOK_S, SHARE, Excess, look_in_s, pause_s

pytestmark = pytest.mark.core

MIB = 1024 * 1024

LIMITS = Resources(
    max_memory_bytes=100 * MIB, max_cpu_seconds=10, max_file_size_bytes=MIB, max_file_descriptors=64, max_processes=20
)

NONE = Resources(max_memory_bytes=0)


def wait_s(cpu_s: float = 0.0, resources: Resources = LIMITS, *, age_s: float = 1e6, processors: int = 2) -> float:
    return look_in_s(cpu_s, resources, age_s=age_s, interval_s=5.0, processors=processors)


@pytest.mark.parametrize(
    ("judge", "within", "beyond", "key", "result"),
    [
        (limits.memory, 100 * MIB, 100 * MIB + 1, "max_memory_bytes", "oom"),
        (limits.cpu_seconds, 11.0, 11.1, "max_cpu_seconds", "cpu-time"),
        (limits.file_descriptors, 63, 64, "max_file_descriptors", None),
        (limits.processes, 19, 20, "max_processes", None),
    ],
)
def test_a_figure_beyond_its_limit_is_an_excess_with_both(
    judge: Callable[[float, Resources], Excess | None], within: float, beyond: float, key: str, result: str | None
) -> None:
    assert judge(within, LIMITS) is None
    found = judge(beyond, LIMITS)
    assert found is not None
    assert (found.key, found.result) == (key, result)
    assert found.facts["limit"] == getattr(LIMITS, key)
    assert found.facts["used"] == pytest.approx(beyond)
    assert found.event.startswith("limit.")


def test_the_figures_of_memory_are_for_people_in_the_message_and_exact_beside_it() -> None:
    found = limits.memory(71971840, Resources(max_memory_bytes=52428800))
    assert found is not None
    assert "68.6 MiB" in found.message
    assert "50.0 MiB" in found.message
    assert (found.facts["used"], found.facts["limit"]) == (71971840, 52428800)


@pytest.mark.parametrize("judge", [limits.memory, limits.cpu_seconds, limits.processes])
def test_a_limit_of_0_is_none(judge: Callable[[float, Resources], Excess | None]) -> None:
    assert judge(10**15, NONE) is None


@pytest.mark.parametrize(
    ("code", "signal", "cpu_s", "oom_kills", "result"),
    [
        (None, "SIGXCPU", 10.0, 0, "cpu-time"),
        (None, "SIGKILL", 10.99, 0, "cpu-time"),  # it had ignored SIGXCPU
        (None, "SIGKILL", 5.0, 0, None),
        (None, "SIGXFSZ", 0.0, 0, "file-size"),
        (None, "SIGKILL", 0.0, 1, "oom"),
        (1, None, 0.0, 2, "oom"),  # a child was killed, and it gave up
        (0, None, 0.0, 1, None),  # a child was killed, and it went on to a good end
        (1, None, 99.0, 0, None),
        (None, "SIGSEGV", 99.0, 0, None),
        (0, None, 0.0, 0, None),
    ],
)
def test_an_end_by_the_kernel_is_called_after_its_limit(
    code: int | None, signal: str | None, cpu_s: float, oom_kills: int, result: str | None
) -> None:
    oom = limits.Oom(kills=oom_kills, of="unit", limit_bytes=1 << 20, peak_bytes=1 << 20)
    found = limits.at_end(code, signal, cpu_s, oom, LIMITS)
    assert (found.result if found else None) == result


def test_a_kill_of_a_program_without_a_limit_says_nothing_of_limits() -> None:
    assert limits.at_end(None, "SIGKILL", 1e6, limits.NO_OOM, NONE) is None


@pytest.mark.parametrize(
    ("of", "limit_bytes", "peak_bytes", "used", "words"),
    [
        ("unit", 52428800, 52420608, 52420608, ("50.0 MiB of max_memory_bytes = 50.0 MiB",)),
        ("unit", 52428800, 0, None, ("max_memory_bytes = 50.0 MiB",)),  # before Linux 5.19
        ("tenant", 104857600, 104857600, 104857600, ("100.0 MiB of max_memory_bytes", "tenant")),
        ("above", 0, 0, None, ("machine",)),
    ],
)
def test_a_kill_for_memory_says_whose_memory_was_used_up_and_how_much(
    of: str, limit_bytes: int, peak_bytes: int, used: int | None, words: tuple[str, ...]
) -> None:
    oom = limits.Oom(kills=2, of=of, limit_bytes=limit_bytes, peak_bytes=peak_bytes)
    found = limits.at_end(None, "SIGKILL", 0.0, oom, NONE)
    assert found is not None
    assert (found.result, found.limit, found.used) == ("oom", limit_bytes, used)
    assert all(word in found.message for word in words)


@pytest.mark.parametrize("cpu_s", [0.0, 5.0, 9.0, 10.5])
def test_a_tree_is_looked_at_before_it_could_have_used_up_its_processor_time(cpu_s: float) -> None:
    passed_s = wait_s(cpu_s, processors=4)
    assert cpu_s + 4 * passed_s <= 11.0 + 1e-9


def test_a_young_tree_is_looked_at_more_often_than_an_old_one() -> None:
    waits = [wait_s(0.0, NONE, age_s=age_s) for age_s in (0.0, 0.5, 2.0, 8.0, 100.0)]
    assert waits == sorted(waits)
    assert waits[0] < 0.2
    assert waits[-1] == 5.0


def test_a_look_that_costs_much_is_seldom() -> None:
    assert pause_s(0.1) == pytest.approx(0.1 / SHARE)
    assert pause_s(1e-5) == MIN_LOOK_S
