"""`corral.AgentRuntime`: everything that corral does, for a program that runs a loop.

It drives a daemon that is there (`connect`) or one of its own (`start`). All calls go over one connection, as many at
once as one likes; after the daemon was started again the next call makes a new one. Errors are the classes of
`errors`. What it returns are the records of `schema`, checked when they arrive.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

import msgspec

from ..contract.errors import Conflict, CorralError, InvalidParams, NotFound, Unreachable
from ..contract.jsonrpc import Notification
from ..contract.records import (
    AgentStatus,
    CheckpointRecord,
    Statistics,
    Status,
    Task,
    TaskParams,
    TaskState,
)
from .async_ import Connection, shaped
from .embedded import START_S, Config, Embedded
from .events import EventStream
from .sync import default_socket
from .tasks import Progress, TaskOptions, failure, given, order, progress_of
from .usage import ResourceUsage, consumption

PARALLEL = 100
"""Tasks of `execute_tasks_parallel` at a time, unless the caller says how many."""

ANSWER_S = 60.0
"""How long a question is waited for that the daemon answers from memory or from its store."""

CANCEL_S = 5.0
"""How long, at the end, tasks are still cancelled whose callers were."""

T = TypeVar("T")


class AgentRuntime:
    """The way to one daemon; see `connect` and `start`.

    It belongs to the loop in which it was made. To cancel a call tells the daemon that nobody waits; a call that
    changes something may have been done by then.
    """

    def __init__(self, socket: str, embedded: Embedded | None = None) -> None:
        self.socket = socket
        self._embedded = embedded
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._listeners: dict[str, list[Callable[[Progress], None]]] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._is_shut = False

    @classmethod
    async def connect(cls, socket: str | os.PathLike[str] | None = None) -> Self:
        """The way to a daemon that runs; without `socket` it is looked for as the `corral` command does.

        Raises:
            Unreachable: nobody answers.
        """
        path = default_socket(os.environ, os.getuid()) if socket is None else os.fspath(socket)
        this = cls(path)
        await this._open()
        return this

    @classmethod
    def start(
        cls,
        config: Config | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = START_S,
    ) -> AbstractAsyncContextManager["AgentRuntime"]:
        """A daemon of this program's own, for an `async with`; nothing of it is left afterwards.

        It ends with this program, however that ends. Without `state_dir` what it stores is removed in the end.

        Args:
            config: a configuration file, or its tables; without it a daemon without agents.
            state_dir: where tasks, logs and memories are kept for the next time.
            timeout_s: how long it may take until it is ready.

        Entering it raises:
            InvalidParams: the configuration is wrong.
            SpawnFailed, Timeout: the daemon did not start.
        """
        return _Embedding(config, state_dir, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.shutdown()

    async def shutdown(self) -> None:
        """Closes the connection, and ends the daemon if it is this program's own: its workers have their grace."""
        self._is_shut = True
        try:
            if self._late:
                await asyncio.wait(self._late, timeout=CANCEL_S)
            if self._connection is not None:
                await self._connection.close()
        finally:
            if self._embedded is not None:
                await self._embedded.stop()

    @property
    def daemon_pid(self) -> int | None:
        """The process of a daemon that is this program's own."""
        return None if self._embedded is None else self._embedded.pid

    # -- agents

    async def spawn_agent(
        self,
        name: str,
        *,
        command: Sequence[str] | None = None,
        entrypoint: str | None = None,
        **spec: object,
    ) -> AgentStatus:
        """Adds an agent and starts it; returns when all its workers are Ready.

        Args:
            name: of the agent.
            command: what its workers run; or
            entrypoint: `module:attribute` of a Python agent.
            spec: the other keys of its table in the configuration, sections as mappings.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the spec is wrong; `data["key"]`.
            SpawnFailed, Timeout: it did not come up; it is added all the same.
        """
        return await self.add_agent(name, _spec(command, entrypoint, spec))

    async def register_agent(
        self,
        name: str,
        *,
        command: Sequence[str] | None = None,
        entrypoint: str | None = None,
        **spec: object,
    ) -> AgentStatus:
        """As `spawn_agent`, but the agent is not started."""
        return await self.add_agent(name, _spec(command, entrypoint, spec), start=False)

    async def add_agent(
        self,
        name: str,
        spec: Mapping[str, object],
        *,
        kind: Literal["agent", "mcp"] = "agent",
        start: bool = True,
        wait: bool = True,
        directory: str | os.PathLike[str] | None = None,
    ) -> AgentStatus:
        """Adds an agent, or an MCP server, by its table in the configuration; relative paths in it start at `directory`.

        Raises:
            CorralError: as `spawn_agent`.
        """
        asked = {
            "name": name,
            "spec": dict(spec),
            "kind": kind,
            "start": start,
            "wait": wait,
            "directory": os.getcwd() if directory is None else os.fspath(directory),
        }
        return await self._ask(AgentStatus, "agent.add", asked)

    async def remove_agent(self, name: str, *, cascade: bool = False) -> list[str]:
        """Stops an agent and forgets it, with `cascade` also what requires it; who is gone.

        Raises:
            NotFound: there is none.
            Conflict: another requires it.
        """
        asked = {"name": name, "cascade": cascade}
        return (await self._ask(_Removed, "agent.rm", asked)).removed

    async def start_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Starts an agent, or a worker, and waits until it is Ready.

        Raises:
            SpawnFailed, Timeout: it did not come up.
        """
        return await self._act("agent.start", name, timeout_s=timeout_s)

    async def stop_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Stops an agent, or a worker, and waits until no process of it is left."""
        return await self._act("agent.stop", name, timeout_s=timeout_s)

    async def restart_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Stops an agent, or a worker, and starts it again."""
        return await self._act("agent.restart", name, timeout_s=timeout_s)

    async def _act(self, method: str, name: str, **more: object) -> AgentStatus:
        answer = await self._ask(_Named, method, {"names": [name], **more})
        return answer.agents[0]

    async def agent_status(self, name: str) -> AgentStatus:
        """How an agent or an MCP server stands.

        Raises:
            NotFound: there is none.
        """
        status = await self.status([name])
        for each in (*status.agents, *status.mcp_servers):
            return each
        raise NotFound(f'cannot find "{name}"', name=name)

    # -- tasks

    async def run_agent(
        self,
        name: str,
        objective: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Unpack[TaskOptions],
    ) -> object:
        """What an agent, a team or a workflow makes of an objective: the output of the task.

        To cancel this cancels the task.

        Raises:
            CorralError: it was refused, or it did not succeed: of the class that its record names, with `task` in
                `data`.
        """
        task = await self.execute_task(name, objective, on_progress=on_progress, **options)
        error = failure(task)
        if error is not None:
            raise error
        return task.output

    async def run_team(
        self,
        name: str,
        objective: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Unpack[TaskOptions],
    ) -> object:
        """As `run_agent`: teams and agents share their names."""
        return await self.run_agent(name, objective, on_progress=on_progress, **options)

    async def run_workflow(
        self,
        name: str,
        objective: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Unpack[TaskOptions],
    ) -> object:
        """As `run_agent`: workflows and agents share their names."""
        return await self.run_agent(name, objective, on_progress=on_progress, **options)

    async def execute_task(
        self,
        agent: str | None,
        objective: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Unpack[TaskOptions],
    ) -> Task:
        """The record of a task that has ended, however it ended (`state`, `error`).

        To cancel this cancels the task; `submit_task` and `wait_task` leave it to itself.

        Raises:
            CorralError: the task was refused.
            Unreachable: the daemon went away; `data["task"]` names what was accepted: it may be waited for again.
        """
        return await self._execute(order(agent, objective, options), on_progress)

    async def _execute(
        self, params: Mapping[str, object], on_progress: Callable[[Progress], None] | None
    ) -> Task:
        submitting = asyncio.ensure_future(self._ask(Task, "task.submit", params))
        try:
            task = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            self._go_on(self._cancel_when(submitting))
            raise
        try:
            return await self.wait_task(task.id, on_progress=on_progress)
        except asyncio.CancelledError:
            self._go_on(self._cancel_late(task.id))
            raise
        except Unreachable as error:
            raise Unreachable(error.message, **{**error.data, "task": task.id}) from error

    async def _cancel_when(self, submitting: asyncio.Future[Task]) -> None:
        with suppress(CorralError):
            await self._cancel_late((await submitting).id)

    async def _cancel_late(self, task: str) -> None:
        with suppress(CorralError):
            await self._call("task.cancel", {"task": task}, CANCEL_S)

    def _go_on(self, work: Coroutine[None, None, None]) -> None:
        """Finishes something for a caller who is gone; `shutdown` waits for it."""
        task: asyncio.Task[object] = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def execute_tasks_parallel(
        self,
        tasks: Iterable[TaskParams | Mapping[str, object]],
        *,
        max_parallel: int | None = None,
    ) -> list[Task | CorralError]:
        """Runs tasks, `max_parallel` at a time, and returns in their order what `execute_task` returned or raised.

        One that fails stops no other. To cancel this cancels those that run.

        Args:
            tasks: mappings with `agent`, `objective` and the keys of TaskOptions, or TaskParams.
            max_parallel: at most so many at a time; 100 when not given.
        """
        most = PARALLEL if max_parallel is None else max_parallel
        if most < 1:
            reason = "it has to be at least 1"
            raise InvalidParams(
                f"cannot run {most} tasks at a time: {reason}", key="max_parallel", value=most
            )
        waiting = deque(enumerate([given(each) for each in tasks]))
        results: dict[int, Task | CorralError] = {}

        async def work() -> None:
            while waiting:
                number, params = waiting.popleft()
                try:
                    results[number] = await self._execute(params, None)
                except CorralError as error:
                    results[number] = error

        async with asyncio.TaskGroup() as group:
            for _ in range(min(most, len(waiting))):
                group.create_task(work())
        return [results[number] for number in sorted(results)]

    async def submit_task(
        self, agent: str | None, objective: str, **options: Unpack[TaskOptions]
    ) -> Task:
        """The record of a task that is accepted: by then it is in the store, and goes on whatever happens here.

        Raises:
            NotFound: there is no such agent, or none with the capability.
            Conflict: it is stopped.
            Overloaded: its queue is full; `data["retry_after_s"]`.
        """
        return await self._ask(Task, "task.submit", order(agent, objective, options))

    async def wait_task(
        self,
        task: str,
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Task:
        """The record of a task when it has ended; `on_progress` is called as it goes.

        Raises:
            NotFound: there is no such task.
            Timeout: it has not ended within `timeout_s`; it goes on.
        """
        asked: dict[str, object] = {"task": task, "timeout_s": timeout_s}
        if on_progress is None:
            return await self._ask(Task, "task.wait", asked)
        self._listeners.setdefault(task, []).append(on_progress)
        try:
            return await self._ask(Task, "task.wait", asked)
        finally:
            self._listeners[task].remove(on_progress)
            if not self._listeners[task]:
                del self._listeners[task]

    async def cancel_task(self, task: str) -> Task:
        """Cancels a task and what it delegated; its record, as it is then."""
        return await self._ask(Task, "task.cancel", {"task": task})

    async def show_task(self, task: str) -> Task:
        """The record of a task.

        Raises:
            NotFound: there is none, or it has expired.
        """
        return await self._ask(Task, "task.show", {"task": task}, ANSWER_S)

    async def list_tasks(
        self, *, agent: str | None = None, state: TaskState | None = None, limit: int = 100
    ) -> list[Task]:
        """Records of tasks, newest first."""
        asked = {"agent": agent, "state": state, "limit": limit}
        return (await self._ask(_Tasks, "task.list", asked, ANSWER_S)).tasks

    # -- teams and workflows

    async def add_team(self, name: str, spec: Mapping[str, object]) -> None:
        """Adds a team by its table in the configuration.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the table is wrong.
        """
        await self._call("team.add", {"name": name, "spec": dict(spec)})

    async def remove_team(self, name: str, *, cascade: bool = False) -> list[str]:
        """Removes a team, its members stay; with `cascade` also what names it. Who is gone."""
        return (await self._ask(_Removed, "team.rm", {"name": name, "cascade": cascade})).removed

    async def add_workflow(self, name: str, spec: Mapping[str, object]) -> None:
        """Adds a workflow by its table in the configuration.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the table is wrong.
        """
        await self._call("workflow.add", {"name": name, "spec": dict(spec)})

    async def remove_workflow(self, name: str, *, cascade: bool = False) -> list[str]:
        """Removes a workflow, with `cascade` also what names it. Who is gone."""
        asked = {"name": name, "cascade": cascade}
        return (await self._ask(_Removed, "workflow.rm", asked)).removed

    # -- state

    async def save_state(self, name: str, *, timeout_s: float | None = None) -> int:
        """Has a worker, or an agent of one worker, save its state; the number of the checkpoint.

        Raises:
            Conflict: it is not up, or saves nothing; or it has several workers, which have all saved by then:
                `data["checkpoints"]` has the numbers.
        """
        asked = {"name": name, "timeout_s": timeout_s}
        saved = (await self._ask(_Saved, "checkpoint.save", asked)).checkpoints
        if len(saved) != 1:
            words = (
                f'cannot tell which checkpoint of "{name}": it has {len(saved)} workers; name one'
            )
            raise Conflict(words, name=name, checkpoints=[each.id for each in saved])
        return saved[0].id

    async def restore_agent(self, checkpoint: int, name: str | None = None) -> str:
        """Has a worker go on from a checkpoint: the one that saved it, or `name`, another one. Its id.

        One that does not run begins with it when it is started: an agent under a new name is registered, given
        what the old one saved, and started.

        Raises:
            NotFound: there is no such checkpoint, or no such worker.
            Corrupted: what is stored is not what was saved.
        """
        asked = {"checkpoint": checkpoint, "name": name}
        return (await self._ask(_Restored, "checkpoint.restore", asked)).worker

    async def hibernate_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Saves an agent's state and ends its processes; its next task, or `wake_agent`, goes on from there."""
        return await self._act("agent.hibernate", name, timeout_s=timeout_s)

    async def wake_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Starts a hibernated agent from its saved state."""
        return await self._act("agent.wake", name, timeout_s=timeout_s)

    # -- looking

    async def status(self, names: Sequence[str] | None = None) -> Status:
        """The daemon, its agents and MCP servers (those of `names`), and task counts.

        Raises:
            NotFound: a name is nobody's.
        """
        asked = {} if names is None else {"names": list(names)}
        return await self._ask(Status, "daemon.status", asked, ANSWER_S)

    async def get_statistics(self, names: Sequence[str] | None = None) -> Statistics:
        """What was done since the daemon started: in total, and by each agent and server (of `names`).

        Raises:
            NotFound: a name is nobody's.
        """
        asked = {} if names is None else {"names": list(names)}
        return await self._ask(Statistics, "statistics.show", asked, ANSWER_S)

    async def get_resource_usage(self, name: str | None = None) -> ResourceUsage:
        """What all agents and servers use, or one of them.

        Raises:
            NotFound: there is none of that name.
        """
        names = None if name is None else [name]
        status, statistics = await self.status(names), await self.get_statistics(names)
        found = consumption(status, statistics)
        return found if name is None else next(iter(found.parts.values()))

    def events(
        self,
        types: Sequence[str] | None = None,
        *,
        since: int | None = None,
        agent: str | None = None,
        task: str | None = None,
    ) -> "EventStream":
        """What happens from now on, or after event number `since`, of `types` (globs such as "task.*").

        It is an async iterator; as an `async with` it listens from its beginning, else from the first step on.
        """
        asked: dict[str, object] = {"types": None if types is None else list(types)}
        asked |= {"agent": agent, "task": task}
        wanted = {key: value for key, value in asked.items() if value is not None}
        return EventStream(self.socket, wanted, since)

    async def call(
        self, method: str, *, timeout_s: float | None = None, **params: object
    ) -> object:
        """The result of any method of the daemon, as JSON; `rpc.discover` lists them.

        Raises:
            CorralError: what the daemon answered.
        """
        return await self._call(method, params, timeout_s)

    # -- the connection

    async def _ask(
        self,
        type_: type[T],
        method: str,
        params: Mapping[str, object],
        timeout_s: float | None = None,
    ) -> T:
        return shaped(type_, await self._call(method, params, timeout_s), method)

    async def _call(
        self, method: str, params: Mapping[str, object], timeout_s: float | None = None
    ) -> object:
        connection = self._connection
        if connection is None or connection.is_closed:
            connection = await self._open()
        return await connection.call(method, params, timeout_s=timeout_s)

    async def _open(self) -> Connection:
        async with self._opening:  # however many calls find it closed
            if self._is_shut:
                words = f'cannot reach the daemon at "{self.socket}": the runtime is shut down'
                raise Unreachable(words, socket=self.socket, reason="closed")
            if self._connection is None or self._connection.is_closed:
                self._connection = await Connection.open(self.socket, on_notification=self._hear)
            return self._connection

    def _hear(self, notification: Notification) -> None:
        if notification.method != "task.progress":
            return
        said = notification.params
        listeners = self._listeners.get(str(said.get("task")))
        if listeners:
            progress = progress_of(said)
            for listener in tuple(listeners):
                listener(progress)


class _Embedding(AbstractAsyncContextManager[AgentRuntime]):
    def __init__(
        self, config: Config | None, state_dir: str | os.PathLike[str] | None, timeout_s: float
    ) -> None:
        self._config = config
        self._state_dir = state_dir
        self._timeout_s = timeout_s
        self._runtime: AgentRuntime | None = None

    async def __aenter__(self) -> AgentRuntime:
        embedded = await Embedded.start(self._config, self._state_dir, self._timeout_s)
        self._runtime = AgentRuntime(embedded.socket, embedded)
        return self._runtime

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._runtime is not None:
            await self._runtime.shutdown()


class _Removed(msgspec.Struct):
    removed: list[str]


class _Named(msgspec.Struct):
    agents: list[AgentStatus]


class _Saved(msgspec.Struct):
    checkpoints: list[CheckpointRecord]


class _Restored(msgspec.Struct):
    worker: str


class _Tasks(msgspec.Struct):
    tasks: list[Task]


def _spec(
    command: Sequence[str] | None, entrypoint: str | None, spec: Mapping[str, object]
) -> dict[str, object]:
    table = dict(spec)
    if command is not None:
        table["command"] = list(command)
    if entrypoint is not None:
        table["entrypoint"] = entrypoint
    return table
