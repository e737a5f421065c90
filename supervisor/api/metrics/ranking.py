"""Ranks agents by what they did, and decides which are problems. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from corral.supervisor.config.spec.spec import Metrics
from corral.worker.contract.names import tenant_of

from .step import Step, beside


class Ranking(NamedTuple):
    """Holds names, the first in each list before the others."""

    best: list[str]
    worst: list[str]
    slowest: list[str]
    expensive: list[str]


def ranking(steps: Mapping[str, Step], limit: int) -> Ranking:
    """Returns the first `limit` of each kind; a list has only subjects to which it applies."""

    def first(names: Iterable[str], key: Callable[[str], tuple[float, ...]]) -> list[str]:
        return sorted(names, key=lambda name: (*key(name), name))[:limit]

    judged = {name: rate for name, step in steps.items() if (rate := step.error_rate) is not None}
    averages = {name: each for name, step in steps.items() if (each := step.average_ms) is not None}
    failing = [name for name, rate in judged.items() if rate > 0]
    paid = [name for name, step in steps.items() if step.cost_cents or step.tokens]
    return Ranking(
        best=first(judged, lambda name: (judged[name], -steps[name].ok)),
        worst=first(failing, lambda name: (-judged[name], -steps[name].failed)),
        slowest=first(averages, lambda name: (-averages[name],)),
        expensive=first(paid, lambda name: (-steps[name].cost_cents, -steps[name].tokens)),
    )


def by_tenant(steps: Mapping[str, Step]) -> dict[str, Step]:
    """Returns the sums of subjects by tenant, "" for the owner, the most expensive first; empty without any tenant."""
    found: dict[str, Step] = {}
    for name, step in steps.items():
        tenant = tenant_of(name)
        found[tenant] = beside(found[tenant], step) if tenant in found else step
    if not any(found):
        return {}
    return dict(sorted(found.items(), key=lambda it: (-it[1].cost_cents, -it[1].executed, it[0])))


def problems(step: Step, asked: Metrics) -> list[str]:
    """Returns the reasons why a subject is a problem, as text; empty if it is none."""
    found: list[str] = []
    rate, average_ms = step.error_rate, step.average_ms
    judged = step.ok + step.failed
    is_enough = judged >= asked.problem_error_tasks
    if rate is not None and is_enough and rate * 100 > asked.problem_error_percent:
        found.append(f"{step.failed} of {judged} failed: {rate:.0%}")
    is_slow = average_ms is not None and average_ms > asked.problem_average * 1000
    if average_ms is not None and is_slow and step.timed >= asked.problem_average_tasks:
        found.append(f"{average_ms / 1000:.3g} s on average")
    return found
