"""What hangs on every attempt of a task and has to cost next to nothing: its deadline, and who is told how it stands."""

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest

from corral.supervisor.api.table.handlers import Caller
from corral.supervisor.api.task_methods.task import ProgressSender
from corral.supervisor.tasks.run.attempt import ALARMS_SLACK, Alarms
from corral.worker.contract.records import Task
from worker_peer import on_loop

pytestmark = pytest.mark.shell

BOUND_S = 60.0
"""How long anything is waited for before the test fails."""

FAR_S = 1_000.0


@on_loop
async def test_an_alarm_rings_at_its_time_and_those_around_it_do_not() -> None:
    loop, alarms = asyncio.get_running_loop(), Alarms()
    far, near, gone = (loop.create_future() for _ in range(3))
    now = loop.time()
    alarms.set(now + FAR_S, far)
    off = alarms.set(now + 0.001, gone)
    alarms.set(now + 0.002, near)
    alarms.cancel(off)
    alarms.cancel(off)
    async with asyncio.timeout(BOUND_S):
        assert await near is False
    assert not far.done()
    assert not gone.done()
    assert loop.time() >= now + 0.002
    alarms.close()


@on_loop
async def test_an_alarm_that_was_due_before_it_was_set_rings_too() -> None:
    loop, alarms = asyncio.get_running_loop(), Alarms()
    late, ended = loop.create_future(), loop.create_future()
    alarms.set(loop.time() + FAR_S, loop.create_future())
    alarms.set(loop.time() - FAR_S, ended)
    alarms.set(loop.time() - 1.0, late)
    ended.set_result(True)
    async with asyncio.timeout(BOUND_S):
        assert await late is False
    assert ended.result() is True
    alarms.close()


@on_loop
async def test_alarms_that_are_called_off_are_not_kept() -> None:
    loop, alarms = asyncio.get_running_loop(), Alarms()
    for number in range(10 * ALARMS_SLACK):
        alarm = alarms.set(loop.time() + FAR_S + number, loop.create_future())
        alarms.cancel(alarm)
    assert len(alarms) <= 2 * ALARMS_SLACK
    alarms.close()


@on_loop
async def test_an_alarm_that_comes_while_they_are_held_rings_at_the_release() -> None:
    loop, alarms = asyncio.get_running_loop(), Alarms()
    before, meanwhile, begun = loop.create_future(), loop.create_future(), loop.time()
    alarms.set(begun + 0.001, before)
    alarms.hold()
    alarms.set(loop.time() - 1.0, meanwhile)
    while loop.time() < begun + 0.01:
        await asyncio.sleep(0)
    assert not before.done()
    assert not meanwhile.done()
    alarms.release()
    async with asyncio.timeout(BOUND_S):
        assert (await before, await meanwhile) == (False, False)
    alarms.close()


class Heard:
    """A caller who writes down what he is told."""

    def __init__(self) -> None:
        self.states: list[object] = []
        self.changed = asyncio.Event()

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        assert method == "task.progress"
        self.states.append((params["state"], params["progress"]))
        self.changed.set()


def listener_for(heard: Heard) -> ProgressSender:
    """What `task.run` listens with; it needs a way to the caller."""
    return ProgressSender(cast(Caller, heard))


RUNNING = Task(id="1", agent="a", state="running")


@on_loop
async def test_a_task_that_ends_at_once_reports_only_its_end() -> None:
    heard = Heard()
    listener = listener_for(heard)
    listener(RUNNING)
    listener(Task(id="1", agent="a", state="succeeded"))
    assert heard.states == [("succeeded", None)]
    listener.close()


@on_loop
async def test_a_task_that_goes_on_is_reported_and_each_change_after_it() -> None:
    heard = Heard()
    listener = listener_for(heard)
    listener(Task(id="1", agent="a", state="queued"))
    listener(RUNNING)
    async with asyncio.timeout(BOUND_S):
        await heard.changed.wait()
    assert heard.states == [("running", None)]
    listener(Task(id="1", agent="a", state="running", progress=0.5))
    assert heard.states == [("running", None), ("running", 0.5)]
    listener.close()
