"""Runs the tasks room over a real store that refuses writes on demand, with workers that a test controls."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from corral.supervisor.agents.group import AgentsGroup
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Audit as AuditSection
from corral.supervisor.config.spec.spec import Config, Daemon, Defaults, Events, Process, Resources, Spec
from corral.supervisor.config.spec.spec import Tasks as Section
from corral.supervisor.records.events.bus import Bus, rfc3339
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.store.store import Statement, Store
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.tasks.group import make_tasks
from corral.supervisor.tasks.run import dispatcher, endings, executor, record_writer, tasks
from corral.supervisor.tasks.run.executor import Sessions
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.tenants.quotas.room import DiskUse, Refusals
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.lifecycle.state_machine import State, Worker
from corral.supervisor.workers.supervision import worker_supervisor
from corral.supervisor.workers.supervision.requests import Requests
from corral.supervisor.workers.supervision.shared import StallClock
from corral.supervisor.workers.supervision.task_moments import TaskMoments
from corral.worker.contract.channel import Call
from corral.worker.contract.errors import Cancelled, CorralError, NotFound, Overloaded, WorkerFailed
from corral.worker.contract.records import Task, TaskParams

BOUND_S = 60.0

RETRY_S = 0.02
"""When what a store has refused is tried again."""


class FickleStore(Store):
    """Refuses the writes that `refuses` picks, at once or, with `is_late`, as a full disk does: when they are written."""

    refuses: Callable[[tuple[Statement, ...]], CorralError | None] | None = None
    is_late = True
    refused = 0

    def begin(self, *statements: Statement, wait_s: float = 0.0) -> asyncio.Future[list[int]]:
        error = None if self.refuses is None else self.refuses(statements)
        if error is None:
            return super().begin(*statements, wait_s=wait_s)
        self.refused += 1
        if not self.is_late:
            raise error
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[int]] = loop.create_future()

        def refuse() -> None:
            for each in statements:
                if not isinstance(each, tuple):
                    each.seal()  # as the writer does it
            if not answer.done():
                answer.set_exception(error)

        loop.call_soon(refuse)
        return answer


def full(_: object = None) -> CorralError:
    """Returns the error of a store whose disk is full."""
    return Overloaded("cannot use the store now: disk-full", reason="disk-full", retry_after_s=1.0)


class FakeWorker:
    """Stands in for a worker and its channel; a task that it was sent is in `calls` until it answers."""

    def __init__(self, harness: "TaskHarness", worker_id: str, spec: Spec) -> None:
        self.harness = harness
        self.id = worker_id
        self.spec = spec
        self.worker = Worker(worker_id, spec, state=State.IDLE, wanted=True, incarnation=1, pid=1)
        self.running: dict[str, float] = {}
        self.rested_at = 0.0
        self.announced: tuple[str, ...] = ()
        self.exits: list[Any] = []
        self.shared = SimpleNamespace(stall_clock=StallClock(), task_moments=TaskMoments())
        self.life: None = None  # it has no pipes
        self.calls: dict[str, asyncio.Future[object]] = {}
        self.is_closed = False
        self.number = 0

    # as a WorkerSupervisor

    @property
    def takes_tasks(self) -> bool:
        worker = self.worker
        return worker.state is State.IDLE and worker.paused_at is None and not self.is_closed

    is_schedulable = takes_tasks

    def is_cordoned(self, _: object) -> bool:
        """Returns False: it is never hibernated."""
        return False

    @property
    def channel(self) -> "FakeWorker":
        return self

    def begin(self, task_id: str) -> None:
        assert task_id not in self.running
        self.running[task_id] = 0.0
        self.harness.note_change(self)

    def end(self, task_id: str) -> None:
        self.running.pop(task_id, None)

    def send(self, event: object) -> None:
        self.die()
        self.harness.loop.call_soon(self.rise)

    async def until(self, done: Callable[[Worker], bool]) -> Worker:
        while not done(self.worker):
            await asyncio.sleep(0)
        return self.worker

    # as a Channel

    can_send = True

    async def drain(self) -> None:
        """Returns at once: it reads without delay."""

    def start(
        self, _: str, params: Mapping[str, Any], *, timeout_s: float | None, answer: asyncio.Future[object]
    ) -> Call:
        if not self.takes_tasks:
            raise WorkerFailed("cannot call: it is gone", result="signaled")
        task_id = str(params["task"])
        self.harness.note_begun(task_id, self)
        self.calls[task_id] = answer
        answer.add_done_callback(lambda _: self.harness.note_left(task_id, self))
        self.number += 1
        return Call(self.number, answer)

    def withdraw(self, call: Call, reason: str) -> None:
        if not call.answer.done():
            self.harness.loop.call_soon(self.finish, self._task_of(call), Cancelled(reason))

    # steps of a test

    def answer(self, task_id: str, outcome: object = None) -> None:
        """Answers a task, with an error if `outcome` is one."""
        answer = self.calls[task_id]
        if isinstance(outcome, BaseException):
            answer.set_exception(outcome)
        else:
            answer.set_result({"output": outcome})

    def _task_of(self, call: Call) -> str:
        return next(task_id for task_id, answer in self.calls.items() if answer is call.answer)

    def finish(self, task_id: str, outcome: object) -> None:
        """Answers a task, unless it has answered it already."""
        if task_id in self.calls and not self.calls[task_id].done():
            self.answer(task_id, outcome)

    def pause(self) -> None:
        """Pauses it."""
        if self.worker.state is State.IDLE:
            self.worker = replace(self.worker, paused_at=self.harness.loop.time())

    def resume(self) -> None:
        """Resumes it."""
        self.worker = replace(self.worker, paused_at=None)
        self.harness.note_change(self)

    def die(self) -> None:
        """Ends its process, and fails its tasks."""
        self.is_closed = True
        self.worker = replace(self.worker, state=State.TERMINATED, pid=None, resume_at=1.0)
        for answer in list(self.calls.values()):
            if not answer.done():
                answer.set_exception(WorkerFailed("cannot go on: it died", result="signaled"))

    def rise(self) -> None:
        """Starts its next incarnation."""
        if self.worker.state is State.TERMINATED and self.worker.wanted:
            number = self.worker.incarnation + 1
            self.worker = replace(self.worker, state=State.IDLE, pid=1, incarnation=number, resume_at=None)
            self.is_closed = False
            self.harness.note_change(self)


class ForgetfulSessions:
    """Keeps nothing from one task of a session to the next."""

    def started(self, task: Task) -> None:
        """Takes no note of it."""

    ended = kept = dropped = started
    key_values = None

    async def recall(self, agent: str, session: str) -> dict[str, object]:
        return {}

    def keep(self, task: Task, change: object) -> tuple[Statement, ...]:
        return ()


class TaskHarness:
    """Holds the tasks room with its agents."""

    def __init__(self, store: FickleStore, sessions: Sessions | None = None) -> None:
        self.store = store
        self.loop = asyncio.get_running_loop()
        self.agents: dict[str, Agent] = {}
        self.events: list[tuple[str, str]] = []
        self.ends = Counter[str]()
        self.doing: dict[str, str] = {}
        self.ever = Counter[str]()
        self._specs: dict[str, Spec] = {}
        config = empty_config()
        set_of_agents = SimpleNamespace(
            agents=self.agents,
            config=config,
            draining=False,
            emergency_stop=None,
            leaving=set(),
            of=self._of,
            spec_of=self._spec_of,
            emergency=SimpleNamespace(in_force=None),
            groups=SimpleNamespace(by_name={}),
            tenants=SimpleNamespace(check_active=_nothing),
        )
        set_of_agents.registry = set_of_agents
        shared = SimpleNamespace(
            store=store,
            bus=SimpleNamespace(publish=self._publish, has_subscribers=_always, subscribe=_nothing),
            checkpoints=SimpleNamespace(of_task=_no_checkpoint),
        )
        self.running_set = set_of_agents
        bus = cast(Bus, shared.bus)
        # Stand-ins with the attributes that the room uses, and no others.
        hears = SimpleNamespace(subscribe=_nothing)
        set_of_agents.membership = set_of_agents.replicas = hears
        following = InForce(config)
        records = SimpleNamespace(
            store=store, bus=bus, audit=None, gathered=Gathered(store), tracing=Tracing(), in_force=following
        )
        workers = SimpleNamespace(
            limits=hears,
            changes=hears,
            checkpoints=shared.checkpoints,
            requests=Requests(),
            task_failures=ForgetfulSessions(),
        )
        tenants = SimpleNamespace(turns=CallTurns(self.loop), task_limits=no_tenants(store, bus), tenants=hears)
        agents = SimpleNamespace(
            agents=set_of_agents,
            memory=sessions or ForgetfulSessions(),
            pool=None,
            hibernation=SimpleNamespace(is_hibernated=_never, wake_by=_nothing),
            autoscaler=SimpleNamespace(scale_by=_nothing, check_soon=_nothing),
            rollouts=SimpleNamespace(try_by=_nothing),
        )
        made = make_tasks(
            cast(RecordsGroup, records),
            cast(WorkersGroup, workers),
            cast(TenantsGroup, tenants),
            cast(AgentsGroup, agents),
        )
        self.backlog = made.backlog
        made.writer.subscribe(self)
        self.group = made
        self.tasks = made.tasks

    def _of(self, name: str) -> Agent:
        if name not in self.agents:
            raise NotFound(f'cannot find agent "{name}"', name=name)
        return self.agents[name]

    def _spec_of(self, name: str) -> Spec | None:
        return self.agents[name].spec if name in self.agents else None

    def _publish(self, what: str, **facts: Any) -> None:
        if what.startswith("task."):
            self.events.append((what, str(facts["task"])))

    def started(self, task: Task) -> None:
        """Observes nothing of a start."""

    def ended(self, task: Task) -> None:
        """Counts the ends of each task."""
        self.ends[task.id] += 1

    def note_begun(self, task_id: str, worker: FakeWorker) -> None:
        """Checks that a task which a worker was sent is on no other one."""
        assert task_id not in self.doing, f"{task_id} is on two workers at once"
        self.doing[task_id] = worker.id
        self.ever[task_id] += 1

    def note_left(self, task_id: str, worker: FakeWorker) -> None:
        """Notes that a worker has put a task down."""
        self.doing.pop(task_id, None)
        worker.calls.pop(task_id, None)

    def add(self, name: str, instances: int = 1, capacity: int = 1, **section: Any) -> Agent:
        """Adds an agent, whose workers are up."""
        resources = Resources(max_concurrent_requests=capacity)
        quick: dict[str, Any] = {"retry_backoff_base": 0.001, "retry_backoff_max": 0.002}
        own = Section(**(quick | section))
        spec = Spec(name=name, kind="agent", source="test", resources=resources, tasks=own)
        agent = Agent(spec)
        workers: Any = [FakeWorker(self, f"{name}-{n}", spec) for n in range(instances)]
        agent.supervisors.extend(workers)
        self.agents[name] = agent
        for worker in self.workers(name):
            self.note_change(worker)
        return agent

    def note_change(self, worker: FakeWorker) -> None:
        """Reports a change of a worker, as `WorkerChanges` does."""
        self.tasks.dispatcher.worker_changed(cast(worker_supervisor.WorkerSupervisor, worker))

    def remove(self, name: str) -> None:
        """Removes an agent as `Agents` does: its workers are stopped first."""
        for worker in self.workers(name):
            worker.worker = replace(worker.worker, wanted=False)
            worker.die()
        del self.agents[name]
        self.tasks.dispatcher.abandon(name)

    def workers(self, name: str) -> list[FakeWorker]:
        """Returns the workers of an agent."""
        return cast("list[FakeWorker]", self.agents[name].supervisors)  # they are nothing else here

    async def submit(self, agent: str = "a", objective: str = "o", **more: Any) -> Task:
        """Submits a task, as a caller does."""
        return await self.tasks.submit(TaskParams(objective=objective, agent=agent, **more))

    async def run(self, agent: str = "a", **more: Any) -> Task:
        """Runs a task whose worker answers at once."""
        task = await self.submit(agent, **more)
        (await self.begun(task.id)).answer(task.id)
        return await self.tasks.wait(task.id)

    async def begun(self, task_id: str) -> FakeWorker:
        """Returns the worker that has a task, as soon as one has."""
        while task_id not in self.doing:
            await asyncio.sleep(0)
        name = self.doing[task_id]
        return next(h for h in self.workers(name.rpartition("-")[0]) if h.id == name)

    async def settle(self, turns: int = 50) -> None:
        """Waits some turns of the loop, and for the store."""
        for _ in range(turns):
            await asyncio.sleep(0)
        await self.store.read("SELECT 1")

    @staticmethod
    def is_of(state: str, statements: Sequence[Statement]) -> bool:
        """Returns True if one of the statements writes a record of a task in a state, or may."""
        return any(
            state in row
            for each in statements
            for row in ([each[1]] if isinstance(each, tuple) else getattr(each, "rows", []))
        )

    @staticmethod
    def stamp(seconds: float) -> str:
        """Returns a time as records have it."""
        return rfc3339(seconds)

    async def rows(self) -> dict[str, str]:
        """Returns the state of each task in the store."""
        rows = await self.store.read("SELECT id, state FROM task")
        return {str(task_id): str(state) for task_id, state in rows}

    def check_is_empty(self) -> None:
        """Checks that nothing is left in the queue."""
        backlog = self.backlog
        assert list(backlog) == []
        assert (backlog.totals["queued"], backlog.totals["running"], backlog.queued_bytes) == (0, 0, 0)
        for agent in self.agents.values():
            assert all(not worker_supervisor.running for worker_supervisor in agent.supervisors)


def empty_config() -> Config:
    """Returns a configuration without agents and tenants."""
    return Config(
        daemon=Daemon(), events=Events(), audit=AuditSection(), process=Process(), agents={}, defaults=Defaults()
    )


def no_tenants(store: Store, bus: Bus) -> TaskLimits:
    """Returns the limits of the tenants of a daemon that has none."""
    tenants, refusals = Tenants(store, InForce(empty_config())), Refusals(bus)
    return TaskLimits(tenants, refusals, DiskUse(tenants, refusals))


@asynccontextmanager
async def task_harness(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sessions: Sessions | None = None
) -> AsyncGenerator[TaskHarness, None]:
    """Yields a harness without agents, which retries refused writes soon."""
    for room in (record_writer, executor, endings, dispatcher, tasks):
        monkeypatch.setattr(room, "RETRY_AFTER_S", RETRY_S)
    store = cast(FickleStore, FickleStore.open(folder / "corral.db"))  # `open` makes what it is called on
    try:
        async with asyncio.timeout(BOUND_S):
            made = TaskHarness(store, sessions)
            await made.group.recovery.load()
            made.tasks.boot()
            yield made
            store.refuses = None
            await made.tasks.close()
    finally:
        await store.close()


def _nothing(*_: object, **_named: object) -> None:
    pass


def _always(_: str) -> bool:
    return True


def _never(_: Agent) -> bool:
    return False


async def _no_checkpoint(_: str) -> dict[str, object]:
    return {}
