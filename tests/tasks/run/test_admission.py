"""Which agent a task goes to by capability, and when a refused caller may retry."""

import pytest

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.config.spec.team import Candidate
from corral.supervisor.tasks.run.admission import retry_after_s
from corral.supervisor.tasks.run.routing import has_capability, route

pytestmark = pytest.mark.core


def test_a_capability_goes_to_the_agent_with_most_free_workers_then_the_shortest_queue() -> None:
    assert route([Candidate("a", 1, 0), Candidate("b", 2, 9)]) == "b"
    assert route([Candidate("a", 0, 3), Candidate("b", 0, 2)]) == "b"
    assert route([Candidate("b", 0, 2), Candidate("a", 0, 2)]) == "a"
    assert route([]) is None


def test_capabilities_that_are_announced_count_only_where_the_configuration_is_silent() -> None:
    silent = Spec(name="a", kind="agent", source="test")
    says = Spec(name="a", kind="agent", source="test", capabilities=("search",))
    assert has_capability(silent, ["sum"], "sum")
    assert not has_capability(says, ["sum"], "sum")
    assert has_capability(says, [], "search")


def test_who_is_refused_comes_again_when_a_place_is_likely_to_be_free() -> None:
    assert retry_after_s(500, ends=1000, window_s=10.0) == 5.0
    assert retry_after_s(1, ends=1000, window_s=10.0) == 1.0
    assert retry_after_s(500, ends=1, window_s=60.0) == 60.0
    assert retry_after_s(1, ends=0, window_s=0.0) == 1.0
