"""The end of a worker that serves connections: how long it waits for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from corral.supervisor.config.spec.listen import ListenAddress
from corral.supervisor.config.spec.spec import Process, Spec
from corral.supervisor.workers.lifecycle import state_machine as sm
from corral.supervisor.workers.lifecycle.transitions import step

pytestmark = pytest.mark.core

GRACE_S = 4.0


def ready(drain_s: float, *, listens: bool = True) -> sm.Worker:
    listen = (ListenAddress("127.0.0.1:80"),) if listens else ()
    process = Process(shutdown_grace_period=GRACE_S, drain_timeout=drain_s)
    spec = Spec(name="web", kind="agent", source="", command=("web",), protocol="none", listen=listen, process=process)
    worker, _ = step(sm.Worker("web-0", spec), sm.Start(), 0.0)
    worker, _ = step(worker, sm.Spawned(7), 0.0)
    worker, _ = step(worker, sm.Tick(), 2.0)
    assert worker.state is sm.State.READY
    return worker


def end(worker: sm.Worker, event: sm.Event, serves_until: float) -> list[tuple[float, sm.Action]]:
    """All actions with their times, of a worker that never ends by itself, until it is killed."""
    found: list[tuple[float, sm.Action]] = []
    now = 10.0
    worker, actions = step(worker, event, now)
    for _ in range(10_000):
        found += [(now, each) for each in actions if not isinstance(each, sm.Transition)]
        if any(isinstance(each, sm.Kill) for each in actions):
            return found
        assert worker.deadline is not None, "an end always has a deadline"
        now = worker.deadline
        worker, actions = step(worker, sm.Tick(serves=now < serves_until), now)
    raise AssertionError("it is never killed")


def killed_at(found: list[tuple[float, sm.Action]]) -> float:
    return next(at for at, each in found if isinstance(each, sm.Kill))


@pytest.mark.parametrize("event", [sm.Restart(), sm.Stop(drains=True)])
@given(drain_s=st.floats(0, 500), served_s=st.floats(0, 1000))
def test_a_worker_that_is_replaced_may_finish_its_connections_within_the_limit(
    event: sm.Event, drain_s: float, served_s: float
) -> None:
    found = end(ready(drain_s), event, 10.0 + served_s)
    assert isinstance(found[0][1], sm.Ask)
    waited_s = killed_at(found) - 10.0
    assert waited_s >= min(GRACE_S, max(served_s, GRACE_S))
    assert waited_s >= min(served_s, drain_s) or waited_s >= GRACE_S
    assert waited_s <= max(GRACE_S, min(drain_s, served_s + 0.5) + GRACE_S) + 0.001


@given(st.floats(0, 500))
def test_a_worker_that_is_stopped_has_the_grace_period_alone(served_s: float) -> None:
    found = end(ready(100.0), sm.Stop(), 10.0 + served_s)
    assert killed_at(found) == 10.0 + GRACE_S


def test_one_that_serves_gets_no_second_signal_before_it_has_finished() -> None:
    found = end(ready(100.0), sm.Restart(), 40.0)
    signals = [at for at, each in found if isinstance(each, sm.Signal)]
    assert signals
    assert min(signals) >= 40.0


def test_a_stop_during_the_wait_ends_it() -> None:
    worker, _ = step(ready(100.0), sm.Restart(), 10.0)
    worker, _ = step(worker, sm.Tick(serves=True), 12.0)
    worker, _ = step(worker, sm.Stop(), 13.0)
    assert worker.deadline is not None
    found = end(replace(worker), sm.Tick(serves=True), 1000.0)
    assert killed_at(found) <= 13.0 + GRACE_S


def test_without_sockets_nothing_is_waited_for() -> None:
    found = end(ready(100.0, listens=False), sm.Restart(), 1000.0)
    assert killed_at(found) == 10.0 + GRACE_S
