"""Gives a handler its task, and turns the task's methods into requests to the daemon.

`Task` is for `async def` handlers, `SyncTask` has the same methods, blocking, for `def` handlers. Both know neither
loop nor pipe, only the protocols `Calls` and `Bridge` that the runtime implements. This module is imported together
with the agent, so it must stay cheap: no asyncio, no json.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from ..contract.errors import CorralError, InvalidParams, NotFound, ToolFailed
from ..contract.mcp_info import CALL_TOOL
from .results import (
    Json,
    ModelAccess,
    Result,
    ToolResult,
    access_of,
    answer_of,
    delegated,
    object_of,
    objects_of,
    result_or_error,
    tool_result,
)
from .session import Memory

if TYPE_CHECKING:
    from datetime import datetime

    from .steps import Place, Policy, Steps

MARK = "CORRAL_WORKER"
"""Environment variable of every worker: its id and incarnation, as `ID#NUMBER`."""

INSTANCE = "CORRAL_INSTANCE"
"""Environment variable of every worker: its number in its agent, from 0."""

T = TypeVar("T")
P = ParamSpec("P")


class Start(NamedTuple):
    """Represents the params of `initialize`: the identity of this worker, and its limits."""

    agent: str
    """The agent's name in the configuration."""
    worker: str
    """This worker's id, as `corral status` shows it: "historian-0"."""
    incarnation: int
    """Number of this incarnation of the worker, from 1."""
    heartbeat_interval_s: float
    limits: dict[str, Json]
    """The agent's `[resources]`."""
    config: dict[str, Json]
    """The agent's `[agents.NAME.config]` table, with keys of its own."""
    checkpoint: Json
    """The state that the checkpoint hook returned before the worker was hibernated, or None."""
    fencing_token: int | None = None
    """Of a placed agent: an integer that grows with every node that runs it. Storage that keeps the newest one that it has
    seen refuses what an agent that was replaced still writes."""


class Event(NamedTuple):
    """Represents an event that this agent has subscribed to."""

    type: str
    data: Json
    sender: str
    """Publisher: a worker ("historian-0"), a user ("uid 1000"), or "corrald"."""
    at: str
    """Time of publication, UTC, RFC 3339."""


class Calls(Protocol):
    """Defines the calls to the daemon, on the loop of the worker."""

    async def request(self, method: str, params: Mapping[str, object], /) -> object:
        """Returns the daemon's response to a request."""
        ...

    def notify(self, method: str, params: Mapping[str, object], /) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while the daemon reads too slowly."""
        ...

    async def stream(self, task: str, part: object, /) -> None:
        """Sends a part of the output of a task; see Task.stream."""
        ...

    def start(self, coroutine: Coroutine[Any, Any, T], what: str, /) -> Awaitable[T]:
        """Runs a coroutine whether or not the result is awaited; logs its failure."""
        ...


class Bridge(Protocol):
    """Defines the calls from a handler's thread to the loop."""

    @property
    def cancelled(self) -> "Flag":
        """Returns a flag that is set when the task is cancelled."""
        ...

    @property
    def is_on_loop(self) -> bool:
        """Returns True on the worker's loop, where waiting would never end."""
        ...

    def wait(self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """Runs a coroutine on the loop and returns its result, or raises Cancelled."""
        ...


class Flag(Protocol):
    """Defines the reading side of a threading.Event."""

    def is_set(self) -> bool:
        """Returns True if the flag is set."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds for the flag; returns True if it is set."""
        ...


class TaskRequest:
    """Holds the params of `task/run`, for both kinds of handler.

    Attributes:
        id: the task's id.
        attempt: number of the attempt, from 1; a task whose worker died gets another one.
        delivery: number of this beginning of the task, from 1, whatever ended the one before: a death, a restart, a
            reload, the end of the daemon. Above 1, an earlier one may have done a part of the work.
        objective: the caller's objective, in words.
        input: the caller's data, any JSON value.
        context: additional information of the caller, any JSON value.
        boundaries: the effective timeout_s, max_tool_calls, allowed_tools, max_tokens and max_cost_cents
            (None: no limit), and the caller's constraints and scope.
        output_format: required form of the output, {"description", "schema"}, or None; see `delegate`.
        checkpoint: the last checkpoint that an earlier attempt of this task saved, or None.
        session: id of the session that this task is a turn of, or None.
        memory: state of that session: history, variables and data; see Memory.
        traceparent: the W3C trace context of this attempt, for clients and frameworks that trace, or None.
        agent: name of this agent.
        worker: id of this worker.
        config: the agent's `[agents.NAME.config]` table.
    """

    def __init__(self, start: Start, params: Mapping[str, Json], memory: Memory) -> None:
        task_id = params.get("task")
        if not isinstance(task_id, str):
            raise InvalidParams("cannot run a task without its id", key="task", value=task_id)
        attempt = params.get("attempt", 1)
        self.id = task_id
        self.attempt: int = attempt if isinstance(attempt, int) else 1
        delivery = params.get("delivery", self.attempt)  # an older daemon sends none
        self.delivery: int = delivery if isinstance(delivery, int) else self.attempt
        self.objective = str(params.get("objective") or "")
        self.input: Json = params.get("input")
        self.context: Json = params.get("context")
        self.boundaries: dict[str, Json] = params.get("boundaries") or {}
        self.output_format: Json = params.get("output_format")
        self.checkpoint: Json = params.get("checkpoint")
        self.session = session_of(params)
        self.memory = memory
        traceparent = params.get("traceparent")
        self.traceparent = traceparent if isinstance(traceparent, str) else None
        self.agent = start.agent
        self.worker = start.worker
        self.config = start.config
        self.fencing_token = start.fencing_token

    def model(self, name: str) -> ModelAccess:
        """Returns address and key of a model of this agent; calls with this key count for this task.

        Raises:
            NotFound: the agent has no model of this name.
        """
        return access_of(name, self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} attempt {self.attempt}: {self.objective!r}>"


class Task(TaskRequest):
    """Represents the task of an `async def` handler.

    Its methods must be called on the worker's loop; for threads there are `def` handlers. When the task is
    cancelled, asyncio.CancelledError is raised where the handler awaits.
    """

    def __init__(self, start: Start, params: Mapping[str, Json], calls: Calls, memory: Memory) -> None:
        super().__init__(start, params, memory)
        self._calls = calls
        self._given = params
        self._steps: Steps | None = None

    @property
    def steps(self) -> "Steps":
        """Returns the steps of this beginning of the task."""
        if self._steps is None:
            from .steps import Steps  # noqa: PLC0415  asyncio: `import Agent` need not wait for it

            self._steps = Steps(self.id, self._given, self._calls)
        return self._steps

    @property
    def _used_steps(self) -> "Steps | None":
        """Returns the steps once this beginning has asked for one: then calls of tools, tasks and persons are steps."""
        return self._steps if self._steps is not None and self._steps.asked else None

    @overload
    def step(
        self, name: str, /, *, retries: int = ..., retry_backoff: float = ..., timeout: float | None = ...
    ) -> Callable[[Callable[P, object]], Callable[P, Awaitable[Any]]]: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., object],
        /,
        *args: object,
        retries: int = ...,
        retry_backoff: float = ...,
        timeout: float | None = ...,
        **keywords: object,
    ) -> Awaitable[Any]: ...

    def step(
        self,
        name: str,
        function: Callable[..., object] | None = None,
        /,
        *args: object,
        retries: int = 0,
        retry_backoff: float = 1.0,
        timeout: float | None = None,
        **keywords: object,
    ) -> Any:
        """Runs a function once for this task, however often the task begins, and returns its result.

        The result, any JSON value, is stored before it is returned; when the task begins again (its worker died, the
        daemon was killed, it was retried) the stored result is returned and nothing is run. A function that raises is run
        again then. Steps have to be asked for in the same order each time: what decides about it has to be a step itself.

        Args:
            name: unique in the task; a name that is used again becomes `name#2`.
            function: async, or a plain one, which runs in a thread. Without it `step` is a decorator: `@task.step("fetch")`.
            retries: number of times that it is tried again when it raises.
            retry_backoff: seconds until the first of them, doubled each time.
            timeout: seconds that one try may take; a plain function cannot be cut off.
            args: arguments of the function.
            keywords: the same.

        Raises:
            Conflict: an earlier beginning asked for another step at this place.
            InvalidParams: JSON cannot express the result.
            ResourceLimitExceeded: the result is longer than `max_step_bytes`, or there are more than `max_steps`.
            Timeout: the function took too long.
            Exception: that of the function, after all retries.
        """
        from .steps import Policy, off_the_loop  # noqa: PLC0415  as above

        policy = Policy(retries, retry_backoff, timeout)
        if function is not None:
            run = off_the_loop(function)
            return self.steps.run(name, lambda _: run(*args, **keywords), policy)

        def decorated(plain: Callable[..., object]) -> Callable[..., Awaitable[Any]]:
            @wraps(plain)
            def call(*args: object, **keywords: object) -> Awaitable[Any]:
                run = off_the_loop(plain)
                return self.steps.run(name, lambda _: run(*args, **keywords), policy)

            return call

        return decorated

    async def sleep(self, duration_s: float) -> None:
        """Sleeps, as a step: a task that begins again meanwhile sleeps for the rest alone."""
        import asyncio  # noqa: PLC0415  as above
        import time  # noqa: PLC0415

        until = await self.steps.run("sleep", lambda _: time.time() + duration_s, kind="sleep")
        await asyncio.sleep(until - time.time())

    async def now(self) -> "datetime":
        """Returns the time in UTC, as a step: the same at each beginning of the task."""
        from datetime import UTC, datetime  # noqa: PLC0415  as above

        found = await self.steps.run("now", lambda _: datetime.now(UTC).isoformat())
        return datetime.fromisoformat(found)

    async def random(self) -> float:
        """Returns a random number from 0 up to 1, as a step: the same at each beginning of the task."""
        import random  # noqa: PLC0415  as above

        return float(await self.steps.run("random", lambda _: random.random()))

    async def uuid(self) -> str:
        """Returns a random UUID, as a step: the same at each beginning of the task."""
        import uuid  # noqa: PLC0415  as above

        return str(await self.steps.run("uuid", lambda _: str(uuid.uuid4())))

    async def tool(
        self, name: str, arguments: Mapping[str, object] | None = None, /, *, check: bool = True, **keywords: object
    ) -> ToolResult:
        """Calls a tool of the pool, such as "git__git_log"; a short name is accepted if it is unique.

        Args:
            name: the tool, as `corral mcp tools` lists it.
            arguments: arguments as a mapping, for names that cannot be keywords (or are "check").
            check: raise when the tool reports a failure; False returns the result instead.
            keywords: the arguments.

        Raises:
            ToolFailed: the tool or its server failed; `data["content"]` has its message.
            NotFound: there is no such tool.
            PermissionDenied: this agent or this task may not use it.
            ResourceLimitExceeded: the task has used up its tool calls.
        """
        given = {**(arguments or {}), **keywords}
        steps = self._used_steps
        if steps is None:
            return await call_tool(self._calls, name, given, task=self.id, check=check)
        place = await steps.place(f"tool:{given.get('name', name) if name == CALL_TOOL else name}")
        if place.is_done:
            return checked(name, place.result, check=check)
        step = {"number": place.number, "name": place.name, "again": place.is_unknown}
        return await call_tool(self._calls, name, given, task=self.id, check=check, step=step)

    async def tools(self, *, all: bool = False) -> list[dict[str, Json]]:  # noqa: A002  the word of the protocol
        """Returns the tools that this agent may call: name, server, tool, description, input_schema, annotations.

        Instead of more than `[mcp] list_limit` tools two are returned, which find and call the others for a model, and
        the `pinned` ones; with `all` the whole list.
        """
        params = {"task": self.id, "all": True} if all else {"task": self.id}
        return objects_of(await self._calls.request("tools/list", params), "tools")

    async def delegate(
        self,
        agent: str | None = None,
        objective: str = "",
        *,
        capability: str | None = None,
        input: Json = None,  # noqa: A002  the word of the task record
        context: Json = None,
        boundaries: Mapping[str, Json] | None = None,
        timeout_s: float | None = None,
        priority: int | None = None,
        required_capabilities: Sequence[str] | None = None,
        allowed_tools: Sequence[str] | None = None,
        output_format: Mapping[str, Json] | None = None,
        session: str | None = None,
        sticky_key: str | None = None,
        idempotency_key: str | None = None,
        after: Sequence[str] | None = None,
        retry: Mapping[str, Json] | None = None,
        when_down: str | None = None,
        queue_timeout_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Result:
        """Delegates work to another agent, team or workflow, by name or by capability, and waits for its end.

        The limits of this task bound those of the other one: allowed_tools, max_tool_calls, timeout, tokens
        and cost.

        Args:
            agent: the name; or omit it and give `capability`.
            objective: the objective, in words.
            capability: any agent with this capability.
            input: data for the other handler, any JSON value.
            context: additional information, any JSON value.
            boundaries: timeout, max_tool_calls, allowed_tools, max_tokens, max_cost_cents, constraints, scope.
            timeout_s: limit for the other handler, in seconds.
            priority: 1 to 10, the most urgent; by default that of the configuration.
            required_capabilities: capabilities that the other agent must have, all of them.
            allowed_tools: patterns of the tools that may be called, such as "git__*".
            output_format: {"description": …, "schema": a JSON Schema}; the daemon holds the output to the schema.
            session: session of the other agent that this is a turn of.
            sticky_key: routes tasks with the same key to the same worker.
            idempotency_key: queues a task with the same key once; its record is returned.
            after: ids of tasks that have to succeed first.
            retry: max_attempts, retry_on, retry_backoff_base_s.
            when_down: "queue" waits for an agent that is stopped or has given up; "refuse" does not.
            queue_timeout_s: limit for the wait until a worker begins, in seconds.
            deadline_s: limit for the whole, waiting and retries included, in seconds.

        Raises:
            CorralError: the error of the other task: TaskFailed, Timeout, WorkerFailed, Cancelled…;
                `data["task"]` is its id. NotFound: no such agent. Conflict: the delegation would
                close a cycle of agents that wait for each other. ResourceLimitExceeded: this task
                is too deep or has too many children. InvalidParams: `data["key"]` names the field.
        """
        named = (agent is not None) + (capability is not None)
        if named > 1 or not (named or required_capabilities):
            raise InvalidParams("cannot delegate: give either an agent or a capability", key="agent")
        params = _with(
            {"task": self.id, "objective": objective},
            agent=agent,
            capability=capability,
            input=input,
            context=context,
            boundaries=boundaries,
            timeout_s=timeout_s,
            priority=priority,
            required_capabilities=required_capabilities,
            allowed_tools=allowed_tools,
            output_format=output_format,
            session=session,
            sticky_key=sticky_key,
            idempotency_key=idempotency_key,
            after=after,
            retry=retry,
            when_down=when_down,
            queue_timeout_s=queue_timeout_s,
            deadline_s=deadline_s,
        )
        return await self._delegated("task/delegate", params, delegated, lambda found: {"task": found.id})

    async def _delegated(
        self, method: str, params: dict[str, object], read: Callable[[object], T], noted: Callable[[T], Json]
    ) -> T:
        """Returns what a request to delegate answers; as a step it finds the same tasks again when this one begins again."""
        steps = self._used_steps
        if steps is None:
            return read(await self._calls.request(method, params))

        async def ask(place: "Place") -> T:
            key, tasks = steps.key_of(place), params.get("tasks")
            if isinstance(tasks, list):
                listed = cast("list[dict[str, Json]]", tasks)
                keyed = [{"idempotency_key": f"{key}:{index}", **each} for index, each in enumerate(listed)]
                return read(await self._calls.request(method, {**params, "tasks": keyed}))
            return read(await self._calls.request(method, {"idempotency_key": key, **params}))

        receiver = params.get("agent") or params.get("capability") or "all"
        return cast("T", await steps.run(f"delegate:{receiver}", ask, kind="delegate", noted=noted))

    def delegate_stream(self, agent: str | None = None, objective: str = "", **options: Json) -> "DelegateStream":
        """Delegates work as `delegate`, and reads what the other handler streams: `async for part in …`.

        `result` of the stream is then its Result; the errors of `delegate` are raised by the iteration. Close it
        (`async with`) to leave early: that cancels the other task.

        Args:
            agent: the name; or omit it and give `capability`.
            objective: the objective, in words.
            options: those of `delegate`.
        """
        params = _with({"task": self.id, "objective": objective}, agent=agent, **options)
        return DelegateStream(self._calls, params)

    async def delegate_all(
        self, tasks: Iterable[Mapping[str, Json]], *, max_parallel: int | None = None
    ) -> list[Result | CorralError]:
        """Delegates several tasks at once, and waits until all have ended.

        Args:
            tasks: the arguments of `delegate` for each, as {"agent": "reader", "objective": "read it"}.
            max_parallel: number of tasks that run at once; by default all.

        Returns:
            In the same order the Result of each, or the error with which it failed or was refused:
            `data["task"]` is its id if it was accepted.

        Raises:
            ResourceLimitExceeded: there are too many, or this task is too deep; none was started.
            InvalidParams: one of them is malformed; none was started.
        """
        asked = [dict(each) for each in tasks]
        if not asked:
            return []
        params = _with({"task": self.id, "tasks": asked}, max_parallel=max_parallel)
        return await self._delegated(
            "task/delegate_all",
            params,
            lambda answer: [result_or_error(each) for each in objects_of(answer, "results")],
            lambda found: {"tasks": [each.id if isinstance(each, Result) else None for each in found]},
        )

    async def ask(
        self,
        question: str,
        options: Sequence[str] = (),
        *,
        timeout_s: float | None = None,
        default: str | None = None,
        detail: Json = None,
        key: str | None = None,
    ) -> str:
        """Asks a person, and waits for the answer; `corral approvals` lists open questions and answers them.

        The question is stored: it outlives this worker and the daemon, and the task gets the answer when it asks again.
        The limits of time of the task do not count the wait, but `deadline_s` does.

        Args:
            question: in words, at most 4,000 characters.
            options: the answers that are permitted, at most 20; none: any text.
            timeout_s: seconds until the question expires; 24 hours by default.
            default: the answer once it has expired.
            detail: its subject, any JSON value up to 64 KiB.
            key: by which this task knows its question again; by default its words.

        Returns:
            One of the options, or any text.

        Raises:
            Timeout: the question has expired, and has no default.
            InvalidParams: the default is none of the options.
            ResourceLimitExceeded: too many questions are open.
        """
        params = _with(
            {"task": self.id, "question": question, "options": list(options)},
            timeout_s=timeout_s,
            default=default,
            detail=detail,
            key=key,
        )

        async def ask(_: object = None) -> str:
            return answer_of(await self._calls.request("task/ask", params))

        steps = self._used_steps
        return await ask() if steps is None else str(await steps.run("ask", ask, kind="ask"))

    async def progress(self, done: float, message: str = "", *, total: float | None = None) -> None:
        """Reports progress: a fraction of 1, or of `total` if given.

        It counts as a heartbeat of the handler for `stall_timeout`, as `beat` does.
        """
        params: dict[str, object] = {"task": self.id, "progress": done}
        if total is not None:
            params["total"] = total
        if message:
            params["message"] = message
        self._calls.notify("progress", params)
        await self._calls.drain()

    async def stream(self, part: Json) -> None:
        """Streams a part of the output to those who wait for the task: a text, or any JSON value.

        Readers get the parts in order; text may reach them in larger pieces. Parts are not stored, and the output remains
        what the handler returns. A slow reader does not delay the handler: it loses parts, and learns how many. It counts as a
        heartbeat of the handler, as `progress` does.

        Raises:
            ResourceLimitExceeded: the part is larger than 64 KiB of JSON.
            InvalidParams: JSON cannot express it.
        """
        await self._calls.stream(self.id, part)

    async def remember(self, key: str, value: Json, *, ttl_s: float | None = None, session: str | None = None) -> None:
        """Stores a value under a key of this agent, for `ttl_s` seconds or without limit."""
        params = _with({"key": key, "value": value}, ttl_s=ttl_s, session=session)
        await self._calls.request("memory/put", params)

    async def recall(self, key: str, default: Json = None, *, session: str | None = None) -> Json:
        """Returns the value stored under a key, or the default."""
        answer = await self._calls.request("memory/get", _with({"key": key}, session=session))
        value = object_of(answer).get("value")
        return default if value is None else value

    async def forget(self, key: str, *, session: str | None = None) -> None:
        """Deletes the value of a key; a missing key is no error."""
        try:
            await self._calls.request("memory/delete", _with({"key": key}, session=session))
        except NotFound:
            return

    async def search(
        self, query: str, *, limit: int | None = None, session: str | None = None
    ) -> list[dict[str, Json]]:
        """Returns stored keys and values that contain the words of the query, the best first."""
        params = _with({"query": query}, limit=limit, session=session)
        return objects_of(await self._calls.request("memory/search", params), "items")

    async def save_checkpoint(self, data: Json) -> str:
        """Saves a checkpoint, which the next attempt of this task finds in `task.checkpoint`.

        Returns:
            The checkpoint's id.
        """
        answer = await self._calls.request("checkpoint/put", {"task": self.id, "data": data})
        return str(object_of(answer).get("id", ""))

    def publish(self, type: str, data: Json = None) -> Awaitable[None]:  # noqa: A002  its wire name
        """Publishes an event to the subscribers of its type, such as "build.done".

        It is sent when this returns; await the result to know that the daemon has accepted it.
        """
        return self._calls.start(publish_event(self._calls, type, data), f'cannot publish event "{type}"')

    def usage(self, tokens: int = 0, cost_cents: float = 0.0) -> None:
        """Adds to the cost of this task; its record shows the sum."""
        self._calls.notify("usage", {"tokens": tokens, "cost_cents": cost_cents, "task": self.id})

    def beat(self) -> None:
        """Sends a heartbeat of the handler itself, for agents with `stall_timeout`."""
        self._calls.notify("heartbeat", {"busy": True, "task": self.id})

    def log(self, message: str, /, level: str = "info", **fields: Json) -> None:
        """Writes a log record with fields; plain text may be printed instead."""
        self._calls.notify("log", {"level": level, "message": message, "fields": fields, "task": self.id})


def _blocking(
    method: Callable[Concatenate[Task, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncTask", P], T]:
    """Returns the method of SyncTask that runs a coroutine method of Task on the loop and waits for its result."""

    @wraps(method)
    def call(self: "SyncTask", /, *args: P.args, **keywords: P.kwargs) -> T:
        return self._bridge.wait(method(self._task, *args, **keywords))  # pyright: ignore[reportPrivateUsage]  its own

    return call


def _on_loop(method: Callable[Concatenate[Task, P], None]) -> Callable[Concatenate["SyncTask", P], None]:
    """Returns the method of SyncTask that runs a plain method of Task on the loop and waits until it returns."""

    @wraps(method)
    def call(self: "SyncTask", /, *args: P.args, **keywords: P.kwargs) -> None:
        self._bridge.wait(_done(lambda: method(self._task, *args, **keywords)))  # pyright: ignore[reportPrivateUsage]  its own

    return call


class SyncTask(TaskRequest):
    """Represents the task of a `def` handler, which runs in a thread of its own: the methods of Task, blocking.

    When the task is cancelled, `cancelled` is set and every method raises Cancelled, including one in which
    the handler waits. A handler that computes for long should check it regularly.
    """

    def __init__(self, start: Start, params: Mapping[str, Json], calls: Calls, memory: Memory, bridge: Bridge) -> None:
        super().__init__(start, params, memory)
        self._task = Task(start, params, calls, memory)
        self._bridge = bridge

    @property
    def cancelled(self) -> Flag:
        """Returns a flag that is set when the task is cancelled, with is_set() and wait(timeout)."""
        return self._bridge.cancelled

    @property
    def steps(self) -> "Steps":
        """Returns the steps of this beginning of the task."""
        return self._task.steps

    def step(
        self,
        name: str,
        function: Callable[..., object] | None = None,
        /,
        *args: object,
        retries: int = 0,
        retry_backoff: float = 1.0,
        timeout: float | None = None,
        **keywords: object,
    ) -> Any:
        """Runs a plain function once for this task, in the thread of the handler, and returns its result; see Task.step."""
        from .steps import Policy  # noqa: PLC0415  as in Task.step

        policy = Policy(retries, retry_backoff, timeout)
        if function is not None:
            return self._step(name, partial(function, *args, **keywords), policy)

        def decorated(plain: Callable[..., object]) -> Callable[..., Any]:
            @wraps(plain)
            def call(*args: object, **keywords: object) -> Any:
                return self._step(name, partial(plain, *args, **keywords), policy)

            return call

        return decorated

    def _step(self, name: str, function: Callable[[], object], policy: "Policy") -> Any:
        from .steps import Began, late  # noqa: PLC0415  as in Task.step

        steps, wait = self._task.steps, self._bridge.wait
        place = wait(steps.place(name))
        if place.is_done:
            return place.result
        tries = 0
        while True:
            began = Began()
            try:
                result = function()
                if policy.timeout_s is not None and began.seconds > policy.timeout_s:
                    raise late(place.name, policy.timeout_s)
                break
            except Exception as error:
                wait(steps.fail(place, "step", began, error))
                delay_s = policy.delay_s(tries)
                if delay_s is None:
                    raise
            tries += 1
            self.cancelled.wait(delay_s)
        return wait(steps.keep(place, "step", began, result))

    sleep = _blocking(Task.sleep)
    now = _blocking(Task.now)
    random = _blocking(Task.random)
    uuid = _blocking(Task.uuid)
    tool = _blocking(Task.tool)
    tools = _blocking(Task.tools)
    delegate = _blocking(Task.delegate)
    delegate_all = _blocking(Task.delegate_all)
    ask = _blocking(Task.ask)
    progress = _blocking(Task.progress)
    stream = _blocking(Task.stream)
    remember = _blocking(Task.remember)
    recall = _blocking(Task.recall)
    forget = _blocking(Task.forget)
    search = _blocking(Task.search)
    save_checkpoint = _blocking(Task.save_checkpoint)
    usage = _on_loop(Task.usage)
    beat = _on_loop(Task.beat)
    log = _on_loop(Task.log)

    def delegate_stream(self, agent: str | None = None, objective: str = "", **options: Json) -> "SyncDelegateStream":
        """Delegates work and reads what the other handler streams: `for part in …`; see Task.delegate_stream."""
        return SyncDelegateStream(self._task.delegate_stream(agent, objective, **options), self._bridge)

    def publish(self, type: str, data: Json = None) -> None:  # noqa: A002  its wire name
        """Publishes an event, and returns when the daemon has accepted it; see Task.publish."""
        self._bridge.wait(_awaited(lambda: self._task.publish(type, data)))


class StreamedPart(NamedTuple):
    """Represents a part that the handler of a delegated task has streamed."""

    value: Json
    """A text, in pieces of any length, or another JSON value."""
    attempt: int
    is_new_beginning: bool
    """True if that attempt begins anew, so that earlier parts are void; `value` is "" then."""
    lost: int
    """Number of parts before it that came too fast to be read."""


class DelegateStream:
    """Iterates over what a delegated task streams, until it has ended; then `result` is its Result."""

    def __init__(self, calls: Calls, params: Mapping[str, object]) -> None:
        self.result: Result | None = None
        self._calls = calls
        self._params = params
        self._id: str | None = None  # while it is to be cancelled with the iteration
        self._parts: list[dict[str, Json]] = []
        self._place: dict[str, Json] = {}

    def __aiter__(self) -> "DelegateStream":
        return self

    async def __anext__(self) -> StreamedPart:
        if self.result is not None:
            raise StopAsyncIteration
        if not self._place:
            record = object_of(await self._calls.request("task/delegate", {**self._params, "wait": False}))
            self._id = str(record.get("id"))
            self._place = {"task": self._id}
        if not self._parts:
            answer = object_of(await self._calls.request("task/parts", self._place))
            self._parts = objects_of(answer, "parts")[::-1]
            if not self._parts:
                self._id = None
                self.result = delegated(answer.get("record"))
                raise StopAsyncIteration
        found = self._parts.pop()
        number = found.get("number", 0)
        self._place |= {"delivery": found.get("delivery", 0), "number": number}
        return StreamedPart(found.get("part"), found.get("attempt", 0), number == 0, found.get("lost", 0))

    async def __aenter__(self) -> "DelegateStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels the other task, unless it has ended."""
        task, self._id = self._id, None
        if task is not None:
            await self._calls.request("task/cancel", {"task": task})


class SyncDelegateStream:
    """Iterates over what a delegated task streams, in a `def` handler; see DelegateStream."""

    def __init__(self, stream: DelegateStream, bridge: Bridge) -> None:
        self._stream = stream
        self._bridge = bridge

    @property
    def result(self) -> Result | None:
        """Returns the Result of the other task; None until the iteration has ended."""
        return self._stream.result

    def __iter__(self) -> "SyncDelegateStream":
        return self

    def __next__(self) -> StreamedPart:
        found = self._bridge.wait(_next_of(self._stream))
        if found is None:
            raise StopIteration
        return found

    def __enter__(self) -> "SyncDelegateStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the other task, unless it has ended."""
        self._bridge.wait(self._stream.close())


async def _next_of(stream: DelegateStream) -> StreamedPart | None:
    """Returns the next part, None at the end: a coroutine must not raise StopIteration."""
    try:
        return await stream.__anext__()
    except StopAsyncIteration:
        return None


def session_of(params: Mapping[str, Json]) -> str | None:
    """Returns the session that a task is a turn of, from the params of `task/run`."""
    given = params.get("memory")
    session = cast("dict[str, Json]", given).get("session") if isinstance(given, dict) else None
    return session if isinstance(session, str) else None


class EventHook(NamedTuple):
    """Holds a function that receives the events whose type one of the globs matches."""

    call: Callable[[Event], object]
    types: tuple[str, ...]


class HealthHook(NamedTuple):
    """Holds a function that checks the health of the worker, and how often."""

    name: str
    call: Callable[[], object]
    interval_s: float
    timeout_s: float
    threshold: int


class Running(NamedTuple):
    """Holds the calls to the daemon, for hooks: from the loop, and from a thread."""

    calls: Calls
    bridge: Bridge


class Hooks:
    """Holds the functions that an agent has registered; each may be sync or async."""

    def __init__(self, name: str | None, capabilities: tuple[str, ...], version: str, made_at: str = "") -> None:
        self.name = name
        self.capabilities = capabilities
        self.version = version
        self.made_at = made_at
        self.task: Callable[[Any], object] | None = None  # Task or SyncTask, as it is async or not
        self.on_start: Callable[[Start], object] | None = None
        self.on_shutdown: Callable[[], object] | None = None
        self.checkpoint: Callable[[], object] | None = None
        self.restore: Callable[[Json], object] | None = None
        self.on_event: list[EventHook] = []
        self.health: list[HealthHook] = []
        self.recovery: dict[str, Callable[[], object]] = {}
        self.running: Running | None = None

    def bind(self, running: Running) -> None:
        """Gives hooks the calls to the daemon, when the worker begins to run."""
        self.running = running


async def stateless() -> Json:
    """Returns the checkpoint of a worker that keeps nothing beside its sessions: an empty object, with which it may hibernate."""
    return {}


async def call_tool(
    calls: Calls,
    name: str,
    arguments: Mapping[str, object],
    *,
    task: str | None,
    check: bool,
    step: Mapping[str, object] | None = None,
) -> ToolResult:
    """Calls a tool and returns its result; see Task.tool."""
    params = _with({"name": name, "arguments": arguments}, task=task, step=step)
    return checked(name, await calls.request("tools/call", params), check=check)


def checked(name: str, answer: object, *, check: bool) -> ToolResult:
    """Decodes the response to a tool call; with `check` raises where the tool reports a failure."""
    result = tool_result(answer)
    if check and result.is_error:
        first = result.text.strip().partition("\n")[0]
        raise ToolFailed(f'cannot complete the call of "{name}": {first}', tool=name, content=result.content)
    return result


async def publish_event(calls: Calls, event_type: str, data: Json) -> None:
    """Publishes an event, and returns when the daemon has accepted it; see Task.publish."""
    await calls.request("event/publish", {"type": event_type, "data": data})


async def _done(act: Callable[[], None]) -> None:
    act()


async def _awaited(act: Callable[[], Awaitable[T]]) -> T:
    return await act()


def _with(params: dict[str, object], **optional: object) -> dict[str, object]:
    return params | {key: value for key, value in optional.items() if value is not None}
