"""When an agent listens: from the states of its workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.agents.demand.activation import Listening, listening
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle.state_machine import LastExit, State, Worker

pytestmark = pytest.mark.core

SPEC = Spec(name="web", kind="agent", source="", command=("web",), protocol="none")
NEW = Worker("web-0", SPEC)
UP = Worker("web-0", SPEC, state=State.READY, tree=True, wanted=True, incarnation=1)
BACKING_OFF = Worker("web-0", SPEC, state=State.INITIAL, deadline=5.0, wanted=True)
WAITING = Worker("web-0", SPEC, waits=True, wanted=True)
ENDING = Worker("web-0", SPEC, state=State.SHUTTING_DOWN, tree=True)


def ended(result: str, code: int | None = None) -> Worker:
    return Worker("web-0", SPEC, state=State.TERMINATED, last_exit=LastExit(result, code=code))


COMING = (UP, BACKING_OFF, WAITING, ENDING)
STARTABLE = (NEW, ended("stopped"), ended("hibernated"), ended("exited", 0))
FAILED = (ended("exec-failed"), ended("restart-limit"), ended("exited", 1), ended("signaled"))
any_worker = st.sampled_from((*COMING, *STARTABLE, *FAILED))


@given(st.lists(any_worker))
def test_one_that_was_stopped_refuses_connections(workers: list[Worker]) -> None:
    assert listening(workers, held=True) is Listening.CLOSED


@given(st.lists(any_worker, min_size=1), st.sampled_from(COMING))
def test_connections_wait_as_long_as_a_worker_is_up_or_coming(workers: list[Worker], coming: Worker) -> None:
    assert listening([*workers, coming], held=False) is Listening.OPEN


@given(st.lists(st.sampled_from((*STARTABLE, *FAILED))), st.sampled_from(STARTABLE))
def test_a_connection_starts_one_that_is_down_without_a_failure(workers: list[Worker], startable: Worker) -> None:
    assert listening([*workers, startable], held=False) is Listening.ON_DEMAND


@given(st.lists(st.sampled_from(FAILED)))
def test_one_that_has_failed_for_good_refuses_connections(workers: list[Worker]) -> None:
    assert listening(workers, held=False) is Listening.CLOSED
