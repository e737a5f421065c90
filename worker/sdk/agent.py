"""Defines `Agent`, the API of agent authors: its handler, its hooks, and `run`.

    from corral.worker import Agent

    agent = Agent("historian", capabilities=["history"])

    @agent.task
    async def run(task):
        log = await task.tool("git__git_log", repo_path=task.input["repo"])
        return {"commits": log.text.count("Commit:")}

    agent.run()

Importing it takes a few milliseconds: `run` imports asyncio. It must not know the protocol.
"""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from ..contract.errors import Conflict, InvalidParams, NotInitialized
from .results import Json, ToolResult
from .source_location import place_of_caller
from .task import MARK, Event, EventHook, HealthHook, Hooks, Running, Start, SyncTask, Task, call_tool, publish_event

NAME_CHARS = 48
"""Number of characters of the name of a health check."""

MIN_INTERVAL_S = 0.01
"""Seconds between two runs of a health check, at least."""

MAX_TYPES = 64
"""Number of globs that one worker can subscribe to."""

Handler = Callable[[Task], Awaitable[object]] | Callable[[Task], AsyncIterator[object]] | Callable[[SyncTask], object]
H = TypeVar("H", bound=Handler)
OnStart = TypeVar("OnStart", bound=Callable[[Start], object])
OnEvent = TypeVar("OnEvent", bound=Callable[[Event], object])
Restore = TypeVar("Restore", bound=Callable[[Json], object])
Hook = TypeVar("Hook", bound=Callable[[], object])
T = TypeVar("T")


class Agent:
    """Holds one handler for tasks, and hooks for the rest of a worker's life cycle.

    A handler or hook that is an `async def` runs on the worker's loop, a `def` runs in a thread of its
    own. An exception in a hook or handler never ends the worker, except in `on_start`: the worker then
    does not become Ready.

    Args:
        name: name in messages; by default the name in the configuration.
        capabilities: capabilities that tasks may require; used where the configuration names none.
        version: version of the agent, for people.
    """

    def __init__(self, name: str | None = None, *, capabilities: Iterable[str] = (), version: str = "") -> None:
        if isinstance(capabilities, str):
            raise InvalidParams(f'cannot read capabilities "{capabilities}": give a list', key="capabilities")
        frame = sys._getframe(1)
        made_at = place_of_caller(frame)
        self._file = frame.f_code.co_filename
        self._hooks = Hooks(name, tuple(capabilities), version, made_at)

    def __repr__(self) -> str:
        return f"Agent({self._hooks.name!r})"

    @property
    def name(self) -> str | None:
        """Returns the name that it was given."""
        return self._hooks.name

    @property
    def file(self) -> str:
        """Returns the path of the file that made it."""
        return self._file

    def task(self, handler: H) -> H:
        """Registers the handler, which receives a Task (`async def`) or a SyncTask (`def`).

        Its return value is the task's output and must be JSON; an exception is the task's error, with the
        traceback in the log. A generator (`yield`) streams each value; its output is what a `def` returns, else the
        values together.
        """
        _once(self._hooks.task, "task")
        self._hooks.task = handler
        return handler

    def on_start(self, hook: OnStart) -> OnStart:
        """Registers a hook that is called with Start before the worker is Ready: to open connections and read config."""
        _once(self._hooks.on_start, "on_start")
        self._hooks.on_start = hook
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Registers a hook that is called without arguments when the worker stops, after its tasks have ended."""
        _once(self._hooks.on_shutdown, "on_shutdown")
        self._hooks.on_shutdown = hook
        return hook

    def checkpoint(self, hook: Hook) -> Hook:
        """Registers a hook without arguments that returns the state of the agent (not of one task), as JSON."""
        _once(self._hooks.checkpoint, "checkpoint")
        self._hooks.checkpoint = hook
        return hook

    def restore(self, hook: Restore) -> Restore:
        """Registers a hook that is called with a saved state, after on_start or while running."""
        _once(self._hooks.restore, "restore")
        self._hooks.restore = hook
        return hook

    @overload
    def on_event(self, hook: OnEvent, /) -> OnEvent: ...

    @overload
    def on_event(self, *types: str) -> Callable[[OnEvent], OnEvent]: ...

    def on_event(self, *args: object) -> object:
        """Registers a hook that is called with each Event, one at a time; each hook has its own types.

        `@agent.on_event` gets all events, and so does `@agent.on_event()`; `@agent.on_event("build.*", "deploy.*")`
        gets those types. A `*` is any text, dots included, `?` one character, `[ab]` one of these.

        Raises:
            InvalidParams: the hooks have more than 64 types together, or one is no string.
        """
        if len(args) == 1 and callable(args[0]):
            return self._subscribe(args[0], ("*",))
        types = tuple(each for each in args or ("*",) if isinstance(each, str))
        if len(types) < len(args):
            raise InvalidParams(f"cannot subscribe to {args}: a type is a string", key="types")
        return lambda hook: self._subscribe(hook, types)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType, reportUnknownVariableType]  overloads type it

    def _subscribe(self, hook: Callable[[Event], object], types: tuple[str, ...]) -> object:
        known = {glob for each in self._hooks.on_event for glob in each.types}
        if len(known.union(types)) > MAX_TYPES:
            raise InvalidParams(f"cannot subscribe to more than {MAX_TYPES} types", key="types", limit=MAX_TYPES)
        self._hooks.on_event.append(EventHook(hook, types))
        return hook

    def health(
        self, name: str, interval_s: float = 60.0, *, timeout_s: float = 5.0, threshold: int = 1
    ) -> Callable[[Hook], Hook]:
        """Registers a health check: `@agent.health("database", interval_s=30)` above a function without arguments.

        The check passes if it returns None or True, and fails if it returns False or a text that describes the fault, or
        raises. It is called every `interval_s` seconds while the worker is up. `threshold` bad results in a row are one failure.

        Raises:
            Conflict: there is a check of this name.
            InvalidParams: a value is out of range.
        """
        if not name or len(name) > NAME_CHARS or interval_s < MIN_INTERVAL_S or timeout_s <= 0:
            text = f'cannot check "{name}" every {interval_s} s within {timeout_s} s'
            raise InvalidParams(text, key="health", value=name)
        if name in {each.name for each in self._hooks.health}:
            raise Conflict(f'cannot register a second health check "{name}"', key=name)

        def register(hook: Hook) -> Hook:
            self._hooks.health.append(HealthHook(name, hook, interval_s, timeout_s, threshold))
            return hook

        return register

    def recovery(self, name: str) -> Callable[[Hook], Hook]:
        """Registers a function without arguments that repairs the failure of the health check of this name.

        It runs once for each failure; the check is repeated soon after.

        Raises:
            Conflict: there is a recovery of this name.
        """
        _once(self._hooks.recovery.get(name), f"recovery {name}")

        def register(hook: Hook) -> Hook:
            self._hooks.recovery[name] = hook
            return hook

        return register

    # -- for hooks; Task has the same methods, and counts their use

    def publish(self, type: str, data: Json = None) -> Awaitable[None]:  # noqa: A002  its wire name
        """Publishes an event to the subscribers of its type, such as "build.done".

        In an `async def` it is sent when this returns; await the result to know that the daemon has accepted
        it. In a thread, as in a `def` hook, the daemon has accepted it when this returns.

        Raises:
            NotInitialized: the worker does not run.
        """
        running = self._running(f'publish "{type}"')
        coroutine = publish_event(running.calls, type, data)
        if running.bridge.is_on_loop:
            return running.calls.start(coroutine, f'cannot publish event "{type}"')
        running.bridge.wait(coroutine)
        return _Done()

    async def tool(
        self, name: str, arguments: Mapping[str, object] | None = None, /, *, check: bool = True, **keywords: object
    ) -> ToolResult:
        """Calls a tool, as Task.tool does, outside any task; `agent.wait(agent.tool(…))` in a `def` hook.

        Raises:
            NotInitialized: the worker does not run.
            CorralError: as Task.tool.
        """
        calls = self._running(f'call "{name}"').calls
        return await call_tool(calls, name, {**(arguments or {}), **keywords}, task=None, check=check)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the worker's loop and returns its result: for `def` hooks and other threads.

        Raises:
            NotInitialized: the worker does not run.
            RuntimeError: the caller is on the loop itself.
        """
        try:
            running = self._running("wait")
        except NotInitialized:
            coroutine.close()
            raise
        return running.bridge.wait(coroutine)

    def _running(self, action: str) -> Running:
        if self._hooks.running is None:
            raise NotInitialized(f"cannot {action}: the worker does not run")
        return self._hooks.running

    def test(
        self,
        objective: str,
        input: Json = None,  # noqa: A002  the name that a task has for it
        *,
        context: Json = None,
        config: Mapping[str, object] | None = None,
        session: str | None = None,
        memory: Mapping[str, object] | None = None,
        tools: Mapping[str, object] | None = None,
        agents: Mapping[str, object] | None = None,
        answers: Mapping[str, object] | None = None,
    ) -> Json:
        """Runs the handler once without a daemon, on_start before it and on_shutdown after it, and returns its output.

        Args:
            objective: the caller's objective, in words.
            input: the caller's data, any JSON value.
            context: additional information of the caller.
            session: id of the session that the task is a turn of.
            memory: the state of that session: history, variables and data.
            config: the agent's `[agents.NAME.config]` table.
            tools: by name the result of a tool, or a function of its arguments.
            agents: by name the output of another agent, or a function of the delegated task.
            answers: by question the answer of a person, or a function of what is asked.

        Raises:
            InvalidParams: the agent has no handler, or a hook takes other arguments.
            ValueError: JSON cannot express the output.
            BaseException: any exception of the handler, as it is.
        """
        from . import offline  # noqa: PLC0415  asyncio costs 80 ms that `import Agent` need not

        request: dict[str, Json] = {"task": "test", "objective": objective, "input": input}
        request |= {"context": context, "session": session, "memory": memory}
        return offline.run(self._hooks, request, config, offline.Given(tools or {}, agents or {}, answers or {}))

    def replay(
        self,
        record: Mapping[str, Json],
        *,
        tasks: Sequence[Mapping[str, Json]] = (),
        config: Mapping[str, object] | None = None,
    ) -> Json:
        """Runs the handler again without a daemon, every step answered from the record of a task; returns its output.

        A test that replays the record of a good run fails when the code no longer asks for the same steps.

        Args:
            record: the record, as `corral task show ID --steps --json` prints it.
            tasks: the records of the tasks that it delegated, which `corral task replay ID --save FILE` writes with it.
            config: the agent's `[agents.NAME.config]` table.

        Raises:
            Conflict: the code departs from the record: `data["step"]` is the number of the step, `data["name"]` what it asks
                for now, `data["kept"]` what the record has there; or the output is another one.
            InvalidParams: the record lacks a result: `corral task show` leaves out those beyond one message.
            BaseException: any exception of the handler, as it is.
        """
        from .replay import replay  # noqa: PLC0415  as above

        return replay(self._hooks, record, tasks, config)

    def run(self) -> None:
        """Serves the daemon until `shutdown`; prints how to run the agent if corral did not start it.

        Call it last in the file. It returns after an orderly shutdown, and ends the process when a handler
        cannot be ended. While its module is imported, by `corral.worker` as an entrypoint, a test or any other
        program, it does nothing: one file serves as a command, as an entrypoint and as a module.

        Raises:
            SystemExit: with status 1 when the worker could not start, 2 when corral did not start it.
        """
        if _Loading.active:
            return
        caller = sys._getframe(1)
        module = str(caller.f_globals.get("__name__"))
        if caller.f_code.co_name == "<module>" and module != "__main__":
            _note_import(self._hooks.name, module)
            return
        from . import runtime  # noqa: PLC0415  asyncio costs 80 ms that `import Agent` need not

        status = runtime.run(self._hooks)
        if status:
            raise SystemExit(status)


class _Done:
    """Represents a result that is available: awaiting it returns at once."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


class _Loading:
    """Records whether an entrypoint is being loaded."""

    active = False


@contextmanager
def loading_entrypoint() -> Generator[None, None, None]:
    """Makes Agent.run do nothing inside the block: the agent is run after its module is loaded."""
    _Loading.active = True
    try:
        yield
    finally:
        _Loading.active = False


def _note_import(name: str | None, module: str) -> None:
    """Logs, in a program that corral has started and that does not serve yet, that an imported module does not serve."""
    if MARK not in os.environ:
        return
    from . import stdio  # noqa: PLC0415  faulthandler and traceback take milliseconds

    if not stdio.is_taken():
        stdio.log_line(
            f'corral: agent "{name or module}" is not run: {module} is imported;'
            f" to run it, write the command python -m {module}"
        )


def _once(registered: object, name: str) -> None:
    if registered is not None:
        raise Conflict(f"cannot register a second {name}: an agent has one", key=name)
