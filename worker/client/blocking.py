"""Defines `corral.Runtime`: all methods of a daemon as functions that wait, for programs without asyncio.

It is `runtime.AgentRuntime` on an event loop in a thread of its own: the same methods, results and errors. Any number
of threads may use one; a call that waits holds up no other.
"""

import inspect
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ..control.results import LogLine
from .calling import Waiter
from .embedded import START_S, Config
from .events import (
    CallStream,
    DaemonEvent,
    EventStream,
    ExecOutput,
    ExecStream,
    LogStream,
    Part,
    PartStream,
    StatusStream,
    TaskStream,
)
from .loop_thread import Followed, LoopThread, Streaming
from .methods import Methods
from .runtime import AgentRuntime
from .subscription import Handler, Subscription

T = TypeVar("T")
P = ParamSpec("P")
F = TypeVar("F", bound=Followed[Any, Any])


def waits(
    method: Callable[Concatenate[AgentRuntime, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Runtime", P], T]:
    """Returns the method of Runtime that runs a coroutine method of AgentRuntime and waits for its result."""

    @wraps(method)
    def call(self: "Runtime", /, *args: P.args, **keywords: P.kwargs) -> T:
        return self._loop.wait(method(self._runtime, *args, **keywords))  # pyright: ignore[reportPrivateUsage]  its own

    return call


def follows(
    method: Callable[Concatenate[AgentRuntime, P], Streaming[Any]], made: type[F]
) -> Callable[Concatenate["Runtime", P], F]:
    """Returns the method of Runtime for one of AgentRuntime that returns a stream; a stream that can be opened is open then."""

    @wraps(method)
    def call(self: "Runtime", /, *args: P.args, **keywords: P.kwargs) -> F:
        stream = method(self._runtime, *args, **keywords)  # pyright: ignore[reportPrivateUsage]  its own
        loop = self._loop  # pyright: ignore[reportPrivateUsage]  likewise
        if isinstance(stream, CallStream):
            loop.wait(stream.open())
        return made(loop, stream, stream.__aiter__())

    signature = inspect.signature(method).replace(return_annotation=made)
    setattr(call, "__signature__", signature)  # noqa: B010 - a function's type does not have it
    return call


class FollowedExec(Followed[ExecOutput, ExecStream]):
    """Iterates over the output of a command; `stream.code` has its exit code at the end."""

    def write(self, data: bytes) -> None:
        """Writes to its stdin, and returns once it is taken."""
        self._loop.wait(self.stream.write(data))

    def end_input(self) -> None:
        """Ends its input."""
        self._loop.wait(self.stream.end_input())

    def send_signal(self, signal: str) -> None:
        """Sends a signal, by name."""
        self._loop.wait(self.stream.send_signal(signal))

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of its terminal."""
        self._loop.wait(self.stream.resize(rows, columns))


class Runtime(Waiter, Methods):
    """Drives one daemon; see `connect` and `start`. A `with` shuts it down.

    KeyboardInterrupt ends a call as cancelling does in `AgentRuntime`. A program may end without `shutdown`: a daemon of
    its own then ends with it at once.
    """

    def __init__(self, loop: LoopThread, runtime: AgentRuntime) -> None:
        super().__init__(loop, runtime)
        self._runtime = runtime

    @classmethod
    def connect(
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
            Conflict: the caller is a coroutine: use AgentRuntime.
        """
        loop = LoopThread()
        try:
            connecting = AgentRuntime.connect(socket, wait_s=wait_s, token=token, tenant=tenant)
            return cls(loop, loop.wait(connecting))
        except BaseException:
            loop.close()
            raise

    @classmethod
    def start(
        cls,
        config: Config | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = START_S,
    ) -> Self:
        """Starts a daemon of this program's own; nothing of it is left after `shutdown`, or the end of a `with`.

        Arguments and errors are those of `AgentRuntime.start`.
        """
        loop = LoopThread()
        try:
            entering = AgentRuntime.start(config, state_dir, timeout_s=timeout_s)
            return cls(loop, loop.wait(entering.__aenter__()))
        except BaseException:
            loop.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Closes the connection, and ends the daemon if it is this program's own; calls that wait raise Unreachable.

        A second time it does nothing.
        """
        if self._loop.is_closed:
            return
        try:
            self._loop.wait(self._runtime.shutdown())
        finally:
            self._loop.close()

    @property
    def socket(self) -> str:
        """Returns the path of the daemon's socket."""
        return self._runtime.socket

    @property
    def daemon_pid(self) -> int | None:
        """Returns the pid of a daemon that is this program's own, else None."""
        return self._runtime.daemon_pid

    # -- agents

    spawn_agent = waits(AgentRuntime.spawn_agent)
    register_agent = waits(AgentRuntime.register_agent)
    add_agent = waits(AgentRuntime.add_agent)
    remove_agent = waits(AgentRuntime.remove_agent)
    start_agent = waits(AgentRuntime.start_agent)
    stop_agent = waits(AgentRuntime.stop_agent)
    restart_agent = waits(AgentRuntime.restart_agent)
    reset_agent = waits(AgentRuntime.reset_agent)
    pause_agent = waits(AgentRuntime.pause_agent)
    resume_agent = waits(AgentRuntime.resume_agent)
    hibernate_agent = waits(AgentRuntime.hibernate_agent)
    wake_agent = waits(AgentRuntime.wake_agent)
    signal_agent = waits(AgentRuntime.signal_agent)
    select_agents = waits(AgentRuntime.select_agents)
    agent_status = waits(AgentRuntime.agent_status)

    # -- teams and workflows

    add_team = waits(AgentRuntime.add_team)
    remove_team = waits(AgentRuntime.remove_team)
    add_workflow = waits(AgentRuntime.add_workflow)
    remove_workflow = waits(AgentRuntime.remove_workflow)

    # -- tasks

    run_agent = waits(AgentRuntime.run_agent)
    run_team = run_agent
    run_workflow = run_agent
    execute_task = waits(AgentRuntime.execute_task)
    execute_tasks_parallel = waits(AgentRuntime.execute_tasks_parallel)
    submit_task = waits(AgentRuntime.submit_task)
    wait_task = waits(AgentRuntime.wait_task)
    cancel_task = waits(AgentRuntime.cancel_task)
    show_task = waits(AgentRuntime.show_task)
    list_tasks = waits(AgentRuntime.list_tasks)

    # -- state

    refresh_routes = waits(AgentRuntime.refresh_routes)
    save_state = waits(AgentRuntime.save_state)
    restore_agent = waits(AgentRuntime.restore_agent)

    # -- observing

    status = waits(AgentRuntime.status)
    get_statistics = waits(AgentRuntime.get_statistics)
    get_resource_usage = waits(AgentRuntime.get_resource_usage)

    # -- the daemon

    call = waits(AgentRuntime.call)

    # -- streams

    events = follows(AgentRuntime.events, Followed[DaemonEvent, EventStream])
    exec_command = follows(AgentRuntime.exec_command, FollowedExec)
    follow_logs = follows(AgentRuntime.follow_logs, Followed[LogLine, LogStream])
    follow_status = follows(AgentRuntime.follow_status, Followed[Mapping[str, object], StatusStream])
    follow_task = follows(AgentRuntime.follow_task, Followed[DaemonEvent, TaskStream])
    run_agent_stream = follows(AgentRuntime.run_agent_stream, Followed[Part, PartStream])
    stream_task = follows(AgentRuntime.stream_task, Followed[Part, PartStream])

    def subscribe(
        self, types: str | Sequence[str], handler: Handler, *, since: int | str | None = None
    ) -> "BlockingSubscription":
        """Calls `handler` with each event of `types` (globs) from now on, or after event number `since`.

        It is called in a thread, once at a time, and may use this runtime; else as `AgentRuntime.subscribe`.

        Raises:
            CorralError: the daemon refuses it, or cannot be reached.
        """
        found = self._loop.wait(self._runtime.subscribe(types, handler, since=since))
        return BlockingSubscription(self._loop, found)


class BlockingSubscription:
    """Holds one subscription; `close`, or a `with`, ends it."""

    def __init__(self, loop: LoopThread, subscription: Subscription) -> None:
        self._loop = loop
        self._subscription = subscription

    @property
    def is_closed(self) -> bool:
        """Returns True once it has ended, by `close` or since the daemon refuses it."""
        return self._subscription.is_closed

    def close(self) -> None:
        """Ends the subscription; a handler that runs is not waited for."""
        if not self._loop.is_closed:
            self._loop.wait(self._subscription.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
