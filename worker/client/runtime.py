"""Defines `corral.AgentRuntime`: all methods of a daemon as coroutines, for asyncio programs.

It drives a running daemon (`connect`) or one that it starts itself (`start`). All calls share one connection and may
run concurrently; after a restart of the daemon the next call opens a new connection. Errors are the classes of
`contract.errors`; results are the records of `contract.records`, checked when they arrive.
"""

import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Any, Literal, Self, Unpack

from msgspec import UNSET
from msgspec.structs import replace

from ..contract.errors import Conflict, CorralError, InvalidParams, NotFound
from ..contract.records import (
    AgentStatus,
    InstancesStatus,
    Statistics,
    Status,
    Task,
    TaskParams,
    TaskState,
    TeamStatus,
    WorkflowStatus,
)
from ..control.params import (
    CheckpointRestoreParams,
    EventParams,
    ExecParams,
    LogParams,
    StatisticsParams,
    StatusParams,
    TaskFollowParams,
    TaskListParams,
    TaskShowParams,
    TaskWaitParams,
)
from ..control.results import AgentsChanged, Names, Reloaded, Removed, TaskPage, Teams, Workflows
from ..control.state_results import CheckpointRestored, Checkpoints
from .agent_source import AgentSource, located
from .async_ import Endpoint, Reconnecting
from .calling import Caller, given
from .embedded import START_S, Config, Embedded
from .events import EventStream, ExecStream, LogStream, PartStream, StatusStream, TaskStream
from .methods import Methods
from .subscription import Handler, Subscription
from .sync import default_socket
from .tasks import OnProgress, ProgressListeners, TaskOptions, TaskRunner, failure, submit_params, task_params
from .usage import ResourceUsage, resource_usage

PARALLEL = 100
"""Number of tasks that `execute_tasks_parallel` runs at a time by default."""

ANSWER_S = 60.0
"""Seconds to wait for answers that the daemon gives from memory or from its store."""


class AgentRuntime(Caller, Methods):
    """Drives one daemon; see `connect` and `start`.

    It belongs to the event loop in which it was made. Cancelling a call withdraws it at the daemon; a call that
    changes something may have taken effect by then.
    """

    def __init__(self, socket: str | Endpoint, embedded: Embedded | None = None) -> None:
        self._daemon = Endpoint(socket) if isinstance(socket, str) else socket
        self.socket = self._daemon.path
        self._embedded = embedded
        listeners = ProgressListeners()
        super().__init__(Reconnecting(self._daemon, listeners.notify))
        self._tasks = TaskRunner(self._connection, listeners)
        self._subscriptions: list[Subscription] = []

    @classmethod
    async def connect(
        cls,
        socket: str | os.PathLike[str] | None = None,
        *,
        wait_s: float = 0.0,
        token: str | None = None,
        tenant: str | None = None,
    ) -> Self:
        """Connects to a running daemon; without `socket` it is found as the `corral` command finds it.

        Waits up to `wait_s` seconds for a daemon that is just starting. A token restricts the connection to its rights, and
        a tenant to the agents of that tenant, whose names need no prefix then.

        Raises:
            Unreachable: no daemon listens there.
            PermissionDenied: the token is wrong.
            NotFound: there is no such tenant.
        """
        path = default_socket(os.environ, os.getuid()) if socket is None else os.fspath(socket)
        this = cls(Endpoint(path, token, tenant))
        await this._connection.open_within(wait_s)
        return this

    @classmethod
    def start(
        cls,
        config: Config | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = START_S,
    ) -> AbstractAsyncContextManager["AgentRuntime"]:
        """Starts a daemon of this program's own, for an `async with`; nothing of it is left afterwards.

        It ends with this program, however that ends. Without `state_dir` its state is removed in the end.

        Args:
            config: a configuration file, or its tables; without it the daemon has no agents.
            state_dir: folder that keeps tasks, logs and memories for the next time.
            timeout_s: limit for the start.

        Entering it raises:
            InvalidParams: the configuration is wrong.
            SpawnFailed, Timeout: the daemon did not start.
        """
        return _Embedding(partial(Embedded.start, config, state_dir, timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    async def shutdown(self) -> None:
        """Closes the connection, and ends the daemon if it is this program's own: workers get their grace period."""
        self._connection.check()
        self._connection.shut()
        try:
            for subscription in self._subscriptions:
                await subscription.close()
            await self._tasks.settle()
            await self._connection.close()
        finally:
            if self._embedded is not None:
                await self._embedded.stop()

    @property
    def daemon_pid(self) -> int | None:
        """Returns the pid of a daemon that is this program's own, else None."""
        return None if self._embedded is None else self._embedded.pid

    # -- agents

    async def spawn_agent(
        self,
        /,
        name: AgentSource,
        *,
        command: Sequence[str] | None = None,
        entrypoint: str | None = None,
        agent: AgentSource | None = None,
        **spec: object,
    ) -> AgentStatus:
        """Adds an agent and starts it; returns when all its workers are Ready.

        Args:
            name: the agent's name; or the agent itself: a `corral.worker.Agent`, which is an attribute of a module,
                "FILE.py:NAME", "MODULE:NAME", or its table with `name`. Its name is then that of the object, or
                of the file.
            command: the command line of its workers; or
            entrypoint: `module:attribute` of a Python agent; or
            agent: the agent itself, as for `name`.
            spec: the other keys of its table in the configuration, sections as mappings.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the spec is wrong, `data["key"]`; or no process could import the agent.
            SpawnFailed, Timeout: it did not become Ready; it is added nevertheless.
        """
        found, table = _named_spec(name, command, entrypoint, agent, spec)
        return await self.add_agent(found, table)

    async def register_agent(
        self,
        /,
        name: AgentSource,
        *,
        command: Sequence[str] | None = None,
        entrypoint: str | None = None,
        agent: AgentSource | None = None,
        **spec: object,
    ) -> AgentStatus:
        """Adds an agent without starting it; else as `spawn_agent`."""
        found, table = _named_spec(name, command, entrypoint, agent, spec)
        return await self.add_agent(found, table, start=False)

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
        """Adds an agent or MCP server by its table in the configuration; relative paths are relative to `directory`.

        Raises:
            CorralError: as for `spawn_agent`.
        """
        params = {
            "name": name,
            "spec": dict(spec),
            "kind": kind,
            "start": start,
            "wait": wait,
            "directory": os.getcwd() if directory is None else os.fspath(directory),
        }
        return await self._connection.ask(AgentStatus, "agent.add", params)

    async def remove_agent(self, name: str, *, cascade: bool = False) -> list[str]:
        """Stops and removes an agent, with `cascade` also all that require it; returns the removed names.

        Raises:
            NotFound: there is no such agent.
            Conflict: another one requires it.
        """
        params = {"name": name, "cascade": cascade}
        return (await self._connection.ask(Removed, "agent.rm", params)).removed

    async def start_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Starts an agent, or a worker, and waits until it is Ready.

        Raises:
            SpawnFailed, Timeout: it did not become Ready.
        """
        return await self._act("agent.start", name, timeout_s=timeout_s)

    async def stop_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Stops an agent, or a worker, and waits until no process of it is left."""
        return await self._act("agent.stop", name, timeout_s=timeout_s)

    async def restart_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Stops an agent, or a worker, and starts it again."""
        return await self._act("agent.restart", name, timeout_s=timeout_s)

    async def reset_agent(self, name: str) -> AgentStatus:
        """Forgets the failures of an agent: one that should run and has given up starts again."""
        return await self._act("agent.reset", name)

    async def pause_agent(self, name: str) -> AgentStatus:
        """Freezes an agent, or a worker, with all its processes, until it is resumed, stopped or dies."""
        return await self._act("agent.pause", name)

    async def resume_agent(self, name: str) -> AgentStatus:
        """Lets a paused agent, or worker, run again."""
        return await self._act("agent.resume", name)

    async def signal_agent(self, name: str, signal: str) -> None:
        """Sends a signal, by name, to the leader of each worker of an agent, or to that of a worker."""
        await self._connection.call("agent.signal", {"name": name, "signal": signal})

    async def _act(self, method: str, name: str, **more: object) -> AgentStatus:
        answer = await self._connection.ask(AgentsChanged, method, {"names": [name], **more})
        return answer.agents[0]

    async def agent_status(self, name: str) -> AgentStatus:
        """Returns the status of an agent or MCP server; `instances` says how many workers it has, from `min` to `max`.

        Raises:
            NotFound: there is no such agent or server.
        """
        status = await self.status([name])
        for each in (*status.agents, *status.mcp_servers):
            if each.instances is UNSET:  # it has no range
                return replace(each, instances=InstancesStatus(len(each.workers), len(each.workers)))
            return each
        raise NotFound(f'cannot find "{name}"', name=name)

    # -- tasks

    async def run_agent(
        self, name: str, objective: str = "", *, on_progress: OnProgress | None = None, **options: Unpack[TaskOptions]
    ) -> object:
        """Runs a task on an agent, team or workflow, and returns its output.

        Cancelling this cancels the task. `run_team` and `run_workflow` are the same method: agents, teams and
        workflows share one namespace.

        Raises:
            CorralError: the task was refused, or it failed: of the class that its record names, with `task` in
                `data`.
        """
        task = await self.execute_task(name, objective, on_progress=on_progress, **options)
        error = failure(task)
        if error is not None:
            raise error
        return task.output

    run_team = run_agent
    run_workflow = run_agent

    def run_agent_stream(self, name: str, objective: str = "", **options: Unpack[TaskOptions]) -> PartStream:
        """Runs a task as `run_agent`, and iterates over what it streams: `async for part in runtime.run_agent_stream(…)`.

        `output` of the stream is then its result. Leaving the iteration early cancels the task.
        """
        return PartStream(self._daemon, submit_params(name, objective, options), self._tasks)

    def stream_task(self, task: str, *, timeout_s: float | None = None) -> PartStream:
        """Iterates over what a task streams, until it has ended; it is not cancelled by leaving."""
        return PartStream(self._daemon, given(TaskWaitParams, task=task, timeout_s=timeout_s))

    async def execute_task(
        self,
        agent: str | None,
        objective: str = "",
        *,
        on_progress: OnProgress | None = None,
        **options: Unpack[TaskOptions],
    ) -> Task:
        """Runs a task and returns its record when it has ended, successfully or not (`state`, `error`).

        Cancelling this cancels the task; `submit_task` and `wait_task` leave it running.

        Raises:
            CorralError: the task was refused.
            Unreachable: the daemon went away; `data["task"]` names the accepted task: wait for it again.
        """
        return await self._tasks.execute(submit_params(agent, objective, options), on_progress)

    async def execute_tasks_parallel(
        self, tasks: Iterable[TaskParams | Mapping[str, object]], *, max_parallel: int | None = None
    ) -> list[Task | CorralError]:
        """Runs tasks, `max_parallel` at a time; returns in their order the result or error of `execute_task`.

        A failure stops no other task. Cancelling this cancels the running tasks.

        Args:
            tasks: mappings with `agent`, `objective` and the keys of TaskOptions, or TaskParams.
            max_parallel: at least 1; by default 100.

        Raises:
            InvalidParams: `max_parallel` is less than 1.
        """
        limit = PARALLEL if max_parallel is None else max_parallel
        if limit < 1:
            reason = "it has to be at least 1"
            raise InvalidParams(f"cannot run {limit} tasks at a time: {reason}", key="max_parallel", value=limit)
        return await self._tasks.execute_all([task_params(each) for each in tasks], limit)

    async def submit_task(self, agent: str | None, objective: str = "", **options: Unpack[TaskOptions]) -> Task:
        """Submits a task and returns its record; it is stored by then, and runs whatever happens to this program.

        Raises:
            NotFound: there is no such agent, or none with the capability.
            Conflict: the agent is stopped.
            Overloaded: its queue is full; `data["retry_after_s"]`.
        """
        return await self._connection.ask(Task, "task.submit", submit_params(agent, objective, options))

    async def wait_task(
        self, task: str, *, timeout_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Task:
        """Returns the record of a task when it has ended; calls `on_progress` with each progress until then.

        Raises:
            NotFound: there is no such task.
            Timeout: it has not ended within `timeout_s`; it continues.
        """
        return await self._tasks.wait(task, timeout_s=timeout_s, on_progress=on_progress)

    async def cancel_task(self, task: str) -> Task:
        """Cancels a task and the tasks that it delegated; returns its record."""
        return await self._connection.ask(Task, "task.cancel", {"task": task})

    async def show_task(self, task: str, *, calls: bool = False, steps: bool = False) -> Task:
        """Returns the record of a task; `calls` puts its tool calls into `Task.calls`, `steps` its steps into `Task.steps`.

        Raises:
            NotFound: there is none, or it has expired.
        """
        params = given(TaskShowParams, task=task, calls=calls, steps=steps)
        return await self._connection.ask(Task, "task.show", params, timeout_s=ANSWER_S)

    async def list_tasks(
        self, *, agent: str | None = None, state: TaskState | None = None, limit: int = 100
    ) -> list[Task]:
        """Returns records of tasks, newest first; `list_task_page` has more conditions, and the next page."""
        params = given(TaskListParams, agent=agent, state=state, limit=limit)
        return (await self._connection.ask(TaskPage, "task.list", params, timeout_s=ANSWER_S)).tasks

    # -- teams and workflows

    async def add_team(self, name: str, spec: Mapping[str, object]) -> TeamStatus:
        """Adds a team by its table in the configuration, and returns its status.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the table is wrong.
        """
        params = {"name": name, "spec": dict(spec)}
        return (await self._connection.ask(Teams, "team.add", params)).teams[0]

    async def remove_team(self, name: str, *, cascade: bool = False) -> list[str]:
        """Removes a team but not its members, with `cascade` also all that refer to it; returns the removed names."""
        return (await self._connection.ask(Removed, "team.rm", {"name": name, "cascade": cascade})).removed

    async def add_workflow(self, name: str, spec: Mapping[str, object]) -> WorkflowStatus:
        """Adds a workflow by its table in the configuration, and returns its status.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the table is wrong.
        """
        params = {"name": name, "spec": dict(spec)}
        return (await self._connection.ask(Workflows, "workflow.add", params)).workflows[0]

    async def remove_workflow(self, name: str, *, cascade: bool = False) -> list[str]:
        """Removes a workflow, with `cascade` also all that refer to it; returns the removed names."""
        params = {"name": name, "cascade": cascade}
        return (await self._connection.ask(Removed, "workflow.rm", params)).removed

    async def refresh_routes(self) -> Reloaded:
        """Reads the configuration file again, as `reload` does: routes follow each change by themselves, and need no more."""
        return await self.reload()

    # -- state

    async def save_state(self, name: str, *, timeout_s: float | None = None) -> int:
        """Saves the state of a worker, or of an agent of one worker; returns the number of the checkpoint.

        Raises:
            Conflict: it is not up, or saves nothing; or the agent has several workers, which have all saved by
                then: `data["checkpoints"]` has the numbers.
        """
        params = {"name": name, "timeout_s": timeout_s}
        saved = (await self._connection.ask(Checkpoints, "checkpoint.save", params)).checkpoints
        if len(saved) != 1:
            words = f'cannot tell which checkpoint of "{name}": it has {len(saved)} workers; name one'
            raise Conflict(words, name=name, checkpoints=[each.id for each in saved])
        return saved[0].id

    async def restore_agent(
        self,
        checkpoint: int | None = None,
        name: str | None = None,
        *,
        start: bool = True,
        data: object = UNSET,
        timeout_s: float | None = None,
    ) -> str:
        """Restores a worker from a checkpoint, or from `data`: the one that saved it, or `name`; returns the agent's name.

        Where there is no agent of that name, that of the checkpoint is added under it, with the table that it had when the
        checkpoint was saved. One that does not run is started with it; with `start=False` it restores it at its next start.
        A running task may continue for `timeout_s`.

        Raises:
            NotFound: there is no such checkpoint, or no such worker.
            Corrupted: the stored checkpoint is damaged.
        """
        params = given(
            CheckpointRestoreParams, checkpoint=checkpoint, name=name, data=data, timeout_s=timeout_s, start=start
        )
        return (await self._connection.ask(CheckpointRestored, "checkpoint.restore", params)).agent

    async def hibernate_agent(self, name: str, *, timeout_s: float | None = None, force: bool = False) -> AgentStatus:
        """Saves an agent's state and ends its processes; its next task, or `wake_agent`, restores it.

        With `force` also one that saves no state is ended.
        """
        return await self._act("agent.hibernate", name, timeout_s=timeout_s, **({"force": True} if force else {}))

    async def wake_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Starts a hibernated agent from its saved state."""
        return await self._act("agent.wake", name, timeout_s=timeout_s)

    # -- observing

    async def select_agents(self, names: Sequence[str] = (), *, selector: str | None = None) -> list[str]:
        """Returns the names that globs and labels choose: `select_agents(["work*"], selector="team=red")`.

        Raises:
            NotFound: a glob or the selector matches nothing.
            InvalidParams: the selector is not valid.
        """
        params = {"names": list(names), "all": not names, "selector": selector}
        return (await self._connection.ask(Names, "agent.select", params)).names

    async def status(
        self, names: Sequence[str] | None = None, *, selector: str | None = None, failed: bool = False
    ) -> Status:
        """Returns the status of the daemon, of its agents and MCP servers, and task counts.

        Args:
            names: names, worker ids or globs; None: all.
            selector: labels, such as `team=red,tier!=db`.
            failed: whether to return only what has a problem.

        Raises:
            NotFound: a name is unknown, or a glob or the selector matches nothing.
        """
        params = given(StatusParams, names=names, selector=selector, failed=failed)
        return await self._connection.ask(Status, "daemon.status", params, timeout_s=ANSWER_S)

    async def get_statistics(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> Statistics:
        """Returns counts and durations since the daemon started, in total and by agent and server (chosen as in `status`).

        Raises:
            NotFound: a name is unknown.
        """
        params = given(StatisticsParams, names=names, selector=selector)
        return await self._connection.ask(Statistics, "statistics.show", params, timeout_s=ANSWER_S)

    async def get_resource_usage(self, name: str | None = None) -> ResourceUsage:
        """Returns the resource usage of all agents and servers, or of one of them.

        Raises:
            NotFound: the name is unknown.
        """
        names = None if name is None else [name]
        status, statistics = await self.status(names), await self.get_statistics(names)
        found = resource_usage(status, statistics, await self.list_quotas(names))
        return found if name is None else next(iter(found.parts.values()))

    def events(
        self,
        types: Sequence[str] | None = None,
        *,
        since: int | str | None = None,
        since_time: float | datetime | None = None,
        n: int | None = None,
        agent: str | None = None,
        worker: str | None = None,
        task: str | None = None,
    ) -> EventStream:
        """Follows events of `types` (globs such as "task.*") from now on, or after event number `since`.

        In a cluster they are those of all nodes, and a text `since` is a place of all of them.

        Returns an async iterator; in an `async with` it follows from entering, else from the first step on. Of `Runtime` it is an
        iterator that follows from the call on; a `with` ends it.
        """
        filters = given(EventParams, types=types, since_time=since_time, n=n, agent=agent, worker=worker, task=task)
        return EventStream(self._daemon, filters, since)

    def follow_logs(
        self,
        names: Sequence[str] | None = None,
        *,
        selector: str | None = None,
        task: str | None = None,
        n: int | None = None,
        since: float | datetime | None = None,
        stream: Literal["stdout", "stderr", "log"] | None = None,
        until: float | datetime | None = None,
        level: Literal["debug", "info", "warning", "error", "critical"] | None = None,
        grep: str | None = None,
        previous: bool = False,
        follow: bool = True,
        after: str | None = None,
    ) -> LogStream:
        """Follows the logs of agents and servers: the last lines, then new ones; conditions as in `read_logs`.

        With `after`, a `position` of the stream or of `read_logs`, all lines behind it, also those of a daemon before this one.
        Of `Runtime` it is an iterator; a `with` ends it.
        """
        params = given(
            LogParams,
            names=names,
            selector=selector,
            task=task,
            n=n,
            since=since,
            stream=stream,
            until=until,
            level=level,
            grep=grep,
            previous=previous,
            follow=follow,
            after=after,
        )
        return LogStream(self._daemon, params)

    def exec_command(
        self,
        name: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        rows: int = 24,
        columns: int = 80,
        environment: Mapping[str, str] | None = None,
        working_directory: str | None = None,
    ) -> ExecStream:
        """Runs a command in the isolation of a worker: of `name`, a worker's id or an agent's name.

        Returns an async iterator of its output; in an `async with` it starts on entering, else with the first step. It
        ends when that is left. Of `Runtime` it is an iterator, and the command starts with the call.
        """
        params = given(
            ExecParams,
            name=name,
            argv=list(argv),
            tty=tty,
            stdin=stdin,
            rows=rows,
            columns=columns,
            environment=environment,
            working_directory=working_directory,
        )
        return ExecStream(self._daemon, params)

    def follow_status(self) -> StatusStream:
        """Follows the status: first the whole of it, then what changes in it, with all events."""
        return StatusStream(self._daemon)

    def follow_task(self, task: str, *, timeout_s: float | None = None) -> TaskStream:
        """Follows the events of a task and of those that it delegates, until it has ended."""
        return TaskStream(self._daemon, given(TaskFollowParams, task=task, timeout_s=timeout_s))

    async def subscribe(
        self, types: str | Sequence[str], handler: Handler, *, since: int | str | None = None
    ) -> Subscription:
        """Calls `handler` with each event of `types` (globs) from now on, or after event number `since`.

        It is called once at a time: a `def` in a thread, an `async def` in the loop. An error of it is logged. While the
        daemon is away, the subscription waits for it, and goes on after the last event. `close` ends it, `shutdown` too.

        Raises:
            CorralError: the daemon refuses it, or cannot be reached.
        """
        self._connection.check()
        globs = [types] if isinstance(types, str) else types
        subscription = Subscription(self.events(globs, since=since), handler)
        await subscription.open()
        self._subscriptions = [each for each in self._subscriptions if not each.is_closed]
        self._subscriptions.append(subscription)
        return subscription

    async def call(self, /, method: str, *, timeout_s: float | None = None, **params: object) -> object:
        """Returns the result of any method of the daemon, as JSON; `rpc.discover` lists them.

        Raises:
            CorralError: the error that the daemon answered.
        """
        return await self._connection.call(method, params, timeout_s=timeout_s)


class _Embedding(AbstractAsyncContextManager[AgentRuntime]):
    """Starts a daemon on entering and shuts it down on leaving."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, Embedded]]) -> None:
        self._start = start
        self._runtime: AgentRuntime | None = None

    async def __aenter__(self) -> AgentRuntime:
        embedded = await self._start()
        self._runtime = AgentRuntime(embedded.socket, embedded)
        return self._runtime

    async def __aexit__(self, *_: object) -> None:
        if self._runtime is not None:
            await self._runtime.shutdown()


def _named_spec(
    name: AgentSource,
    command: Sequence[str] | None,
    entrypoint: str | None,
    agent: AgentSource | None,
    spec: Mapping[str, object],
) -> tuple[str, dict[str, object]]:
    given_keys = {"command": None if command is None else list(command), "entrypoint": entrypoint}
    table = {**spec, **{key: value for key, value in given_keys.items() if value is not None}}
    if agent is None:
        return located(name, table)
    if not isinstance(name, str):
        raise InvalidParams("cannot add an agent: give its name, or the agent alone", key="name")
    return name, located(agent, table)[1]
