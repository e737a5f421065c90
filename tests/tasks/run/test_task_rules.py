"""Whether a task is retried after an attempt, how often, and after how long."""

from collections.abc import Sequence

import pytest

from corral.supervisor.config.spec.spec import Tasks
from corral.supervisor.tasks.run.task_rules import Attempted, Policy, policy_of, retries, retry_delay_s
from corral.worker.contract.records import Retry

pytestmark = pytest.mark.core

DEATH = Attempted(died=True, error="WorkerFailed")
RAISED = Attempted(died=False, error="TaskFailed")
LATE = Attempted(died=False, late=True, error="Timeout")
TOOL = Attempted(died=False, error="ToolFailed")


@pytest.mark.parametrize(
    ("retry_on", "again"),
    [
        ("worker-death", [DEATH]),
        ("any", [DEATH, RAISED, TOOL]),
        ("never", []),
        ("Timeout", [LATE]),
        ("WorkerFailed", [DEATH]),
        (("worker-death", "ToolFailed"), [DEATH, TOOL]),
        (("any", "Timeout"), [DEATH, RAISED, TOOL, LATE]),
    ],
)
def test_what_is_tried_again(retry_on: str | tuple[str, ...], again: Sequence[Attempted]) -> None:
    """The word any does not mean the task's own timeout: that is the caller's deadline."""
    rule = policy_of(Tasks(max_attempts=3, retry_on=retry_on), None)
    for ended in (DEATH, RAISED, LATE, TOOL):
        expected = ended in again
        assert [retries(rule, n, ended) for n in (1, 2)] == [expected, expected]
        assert not retries(rule, 3, ended), "three attempts are all"
        asked_for = Attempted(ended.died, counts=False)
        assert retries(rule, 3, asked_for), "a stop is not its fault"


def test_what_a_task_says_of_its_retries_goes_before_what_its_agent_says() -> None:
    tasks = Tasks(max_attempts=3, retry_on="any", retry_backoff_base=1.0, retry_backoff_max=9.0)
    assert policy_of(tasks, None) == Policy(3, frozenset({"any"}), 1.0, 9.0)
    assert policy_of(tasks, Retry(max_attempts=7)).max_attempts == 7
    assert policy_of(tasks, Retry(retry_on="never")).retry_on == {"never"}
    named = Retry(retry_on=["Timeout", "worker-death"], retry_backoff_base_s=0.0)
    rule = policy_of(tasks, named)
    assert rule == Policy(3, frozenset({"Timeout", "worker-death"}), 0.0, 9.0)


def test_the_wait_before_an_attempt_doubles_to_its_most_and_varies_by_a_fifth() -> None:
    rule = policy_of(Tasks(retry_backoff_base=1.0), None)
    middle = [retry_delay_s(rule, attempt, 0.5) for attempt in range(1, 9)]
    assert middle == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert retry_delay_s(rule, 2, 0.0) == pytest.approx(1.6)
    assert retry_delay_s(rule, 2, 1.0) == pytest.approx(2.4)
    assert retry_delay_s(rule, 10_000, 1.0) == pytest.approx(72)
    short = policy_of(Tasks(retry_backoff_base=1.0, retry_backoff_max=3.0), None)
    assert retry_delay_s(short, 5, 0.5) == pytest.approx(3.0)
