"""Answers the calls about tasks of placed agents, whichever node accepted, runs or ended them.

The end of a task is read from the engine. Progress and parts come from the node that runs it, and are missing while none
does.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.api.table.handlers import Caller
from corral.supervisor.api.table.scoping import tasks_in_scope
from corral.supervisor.records.events.history import EventFilter
from corral.supervisor.tasks.run.cluster import is_on_engine
from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, NotFound, Timeout
from corral.worker.contract.records import ENDED, Task, TaskParams
from corral.worker.control.params import (
    EventParams,
    TaskFollowParams,
    TaskIdParams,
    TaskRunParams,
    TaskShowParams,
    TaskWaitParams,
)

from ..calls.forwarding import Forwarding, Question
from ..calls.passing_caller import PassingCaller
from ..calls.remote_caller import RemoteCaller
from ..engine.interface import Engine
from ..state.stored_task import StoredEnd, events_of, id_of
from .placed_tasks import PlacedTasks

LOOK_FIRST_S = 0.1
LOOK_MAX_S = 2.0
"""Seconds between two looks for the node that runs a task whose progress is wanted, at first and at most."""

LISTED_BY = frozenset(("agent", "agents", "state", "states", "limit"))
"""Conditions of a list that are known of a task on the engine."""

LAST_S = 2.0
"""Seconds that the last parts of a task may take after its end."""


class TaskCalls:
    """Answers calls about tasks that the engine keeps."""

    def __init__(self, node: str, tasks: PlacedTasks, forwarding: Forwarding, reached: Callable[[str], Engine]) -> None:
        self._node = node
        self._reached = reached
        self._tasks = tasks
        self._forwarding = forwarding

    def answer(self, method: str, asked: Struct, caller: Caller) -> Awaitable[object] | None:
        """Returns the answer to a call about a task of a placed agent; None for other calls."""
        reached = self._reached
        if isinstance(asked, TaskParams):
            if not self._tasks.is_placed(asked.agent):
                return None
            engine = reached("take a task of a placed agent")
            if asked.after or asked.at is not None:
                return self._check_known(engine, asked.after)
            if isinstance(asked, TaskRunParams):
                return self._run(engine, asked, caller)
            return self._tasks.submit(engine, asked)
        task_id = getattr(asked, "task", None)
        if not isinstance(task_id, str) or not is_on_engine(task_id):
            return None
        if isinstance(caller, RemoteCaller) and caller.is_direct:
            return None
        match asked:
            case TaskWaitParams() | TaskFollowParams():
                return self._wait(reached("wait for a task"), method, asked, caller)
            case TaskShowParams() if method == "task.show":
                return self._show(reached("read a task"), asked, caller)
            case TaskIdParams() if method == "task.cancel":
                return self._cancel(reached("cancel a task"), asked, caller)
        return None

    async def kept(self, method: str, wanted: Mapping[str, object], caller: Caller) -> Mapping[str, object] | None:
        """Returns what the engine adds to an answer of all nodes, in the shape of that; None where it adds nothing."""
        if method == "task.list":
            return tasks_in_scope(await self._waiting(self._reached("list tasks"), wanted), caller)
        if method == "event.list" and is_on_engine(str(wanted.get("task"))):
            return await self._events(self._reached("list events"), wanted, caller)
        return None

    async def _events(self, engine: Engine, wanted: Mapping[str, object], caller: Caller) -> dict[str, object]:
        """Returns the events of a task that the engine knows, whichever nodes are gone."""
        params = msgspec.convert(wanted, EventParams)
        assert params.task is not None, "it is that of a task"
        if (end := await self._tasks.ends.find(engine, params.task)) is not None:
            found = events_of(end.task, end.node, end.events)
        elif (task := await self._tasks.queued(engine, params.task)) is not None:
            found = events_of(task, None)
        else:
            found = []
        chosen = EventFilter(
            params.types, params.agent, params.worker, params.task, params.since_time, knows(caller.agents)
        )
        return {
            "events": [each for each in found if chosen.wants(each["type"], each["agent"], each["worker"], each["at"])]
        }

    async def _waiting(self, engine: Engine, wanted: Mapping[str, object]) -> dict[str, object]:
        """Returns the tasks that wait on the engine, in the shape of `task.list`; none for filters that a record alone decides."""
        states = [each for each in (wanted.get("state"), *_list(wanted, "states")) if each]
        if wanted.keys() - LISTED_BY or (states and "queued" not in states):
            return {"tasks": []}
        agents = [each for each in (wanted.get("agent"), *_list(wanted, "agents")) if each]
        found = await self._tasks.waiting(engine, list(map(str, agents)) or None)
        return {"tasks": [msgspec.to_builtins(self._tasks.queued_record(each)) for each in found]}

    async def _check_known(self, engine: Engine, after: Sequence[str]) -> None:
        """Leaves a task that waits to this daemon, which submits it when its time has come."""
        for each in after:
            if is_on_engine(each) and not await self._is_known(engine, each):
                raise NotFound(f'cannot find task "{each}"', task=each)

    async def _is_known(self, engine: Engine, task_id: str) -> bool:
        if await self._tasks.find(engine, task_id) or await self._tasks.queued(engine, task_id):
            return True
        return await self._tasks.find(engine, task_id) is not None

    async def _run(self, engine: Engine, asked: TaskRunParams, caller: Caller) -> Task:
        params = TaskParams(**{key: getattr(asked, key) for key in TaskParams.__struct_fields__})
        task_id = id_of(params)
        is_new = params.idempotency_key is None
        ended = asyncio.ensure_future(self._tasks.ends.wait(engine, task_id, is_new=is_new))
        try:
            task = await self._tasks.submit(engine, params, task_id)
            if task.state in ENDED:
                return task
            if not asked.stream:
                return (await ended).task
            wait = TaskWaitParams(task=task.id, stream=True)
            return await self._followed(engine, "task.wait", wait, caller, ended)
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def _show(self, engine: Engine, asked: TaskShowParams, caller: Caller) -> object | None:
        if self._tasks.runs(asked.task):
            return None  # this node has it all
        found = await self._tasks.find(engine, asked.task)
        if found is None or found.state not in ENDED:
            if node := await self._runner(engine, asked.task):
                params: dict[str, object] = {"task": asked.task, "calls": asked.calls, "steps": asked.steps}
                with contextlib.suppress(CorralError):
                    return await self._forwarding.forward(
                        engine, node, "task.show", params, caller, streams=False, is_direct=True
                    )
            found = await self._tasks.find(engine, asked.task) or await self._tasks.queued(engine, asked.task)
        if found is not None and asked.steps:
            kept = await self._tasks.carried.steps.read(asked.task)
            found = replace(found, steps=[*kept.whole, *kept.rest])
        if found is not None and asked.calls:
            found = replace(found, calls=await self._tasks.carried.calls(engine, asked.task))
        return found

    async def _cancel(self, engine: Engine, asked: TaskIdParams, caller: Caller) -> object | None:
        if node := await self._runner(engine, asked.task):
            params: dict[str, object] = {"task": asked.task}
            with contextlib.suppress(CorralError):
                return await self._forwarding.forward(
                    engine, node, "task.cancel", params, caller, streams=False, is_direct=True
                )
        return await self._tasks.cancel(engine, asked.task)

    async def _wait(
        self, engine: Engine, method: str, asked: TaskWaitParams | TaskFollowParams, caller: Caller
    ) -> Task | None:
        found = await self._tasks.find(engine, asked.task)
        if found is None and not await self._runner(engine, asked.task):
            found = await self._tasks.queued(engine, asked.task)
            if found is None and (found := await self._tasks.find(engine, asked.task)) is None:
                return None
        if found is not None and found.state in ENDED:
            _send_end(asked, found, caller)
            return found
        try:
            async with asyncio.timeout(asked.timeout_s):
                ended = asyncio.ensure_future(self._tasks.ends.wait(engine, asked.task))
                return await self._followed(engine, method, asked, caller, ended)
        except TimeoutError:
            text = f'cannot wait longer than {asked.timeout_s:g} s for task "{asked.task}": it goes on'
            raise Timeout(text, task=asked.task) from None

    async def _followed(
        self,
        engine: Engine,
        method: str,
        asked: TaskWaitParams | TaskFollowParams,
        caller: Caller,
        ended: "asyncio.Future[StoredEnd]",
    ) -> Task:
        """Returns a task when it has ended; meanwhile passes on what the node that runs it sends, where that is wanted."""
        tasks: list[asyncio.Future[StoredEnd] | asyncio.Future[None]] = [ended]
        streams = isinstance(asked, TaskWaitParams) and asked.stream
        try:
            if streams or not isinstance(asked, TaskWaitParams):
                tasks.append(asyncio.ensure_future(self._pass_on(engine, method, asked, caller)))
            task = (await ended).task
            if len(tasks) > 1:
                await asyncio.wait(tasks[1:], timeout=LAST_S)
            _send_end(asked, task, caller)
            return task
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(
        self, engine: Engine, method: str, asked: TaskWaitParams | TaskFollowParams, caller: Caller
    ) -> None:
        """Passes on what the node that runs a task sends, once there is one; of an ended one what it streamed."""
        params: dict[str, object] = {"task": asked.task}
        if isinstance(asked, TaskWaitParams):
            params["stream"] = asked.stream
        else:
            caller = _BeforeEnd(caller, asked.task)
        pause_s = LOOK_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_MAX_S)
            with contextlib.suppress(CorralError):
                node = await self._runner(engine, asked.task)
                node = node or await self._tasks.node_of_end(engine, asked.task)
                if node:
                    await self._forwarding.forward(engine, node, method, params, caller, streams=True, is_direct=True)
                    return

    async def _runner(self, engine: Engine, task_id: str) -> str:
        """Returns the node on which a task runs, or waits for a worker; "" where none says so."""
        if self._tasks.runs(task_id):
            return self._node
        return await self._forwarding.find(engine, Question(task=task_id, running=True))


class _BeforeEnd(PassingCaller):
    """Passes on what is sent of a task that is followed, but for its end on the node that runs it: the engine has not taken that yet."""

    def __init__(self, caller: Caller, task: str) -> None:
        super().__init__(caller)
        self._task = task
        self._caller = caller

    async def drain(self) -> None:
        """Waits while the caller reads too slowly."""
        await self._caller.drain()

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Passes a notification on."""
        event = codec.as_object(params.get("event")) or {}
        if (event.get("type"), event.get("task")) != ("task.ended", self._task):
            self._caller.notify(method, params)


def _send_end(asked: TaskWaitParams | TaskFollowParams, task: Task, caller: Caller) -> None:
    """Sends the end of a task that is followed."""
    if isinstance(asked, TaskFollowParams):
        caller.notify("task.event", {"event": events_of(task, None)[-1]})


def _list(params: Mapping[str, object], key: str) -> list[object]:
    found = params.get(key)
    return found if isinstance(found, list) else []
