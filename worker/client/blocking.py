"""Defines `corral.Runtime`: all methods of a daemon as functions that wait, for programs without asyncio.

It is `runtime.AgentRuntime` on an event loop in a thread of its own: the same methods, results and errors. Any number
of threads may use one; a call that waits holds up no other.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, Self, Unpack

from ..control.results import LogLine
from .blocking_methods import BlockingMethods
from .embedded import START_S, Config
from .events import (
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
from .loop_thread import Followed, LoopThread
from .runtime import AgentRuntime
from .subscription import Handler, Subscription
from .tasks import TaskOptions


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


class Runtime(BlockingMethods):
    """Drives one daemon; see `connect` and `start`. A `with` shuts it down.

    KeyboardInterrupt ends a call as cancelling does in `AgentRuntime`. A program may end without `shutdown`: a daemon of
    its own then ends with it at once.
    """

    run_team = BlockingMethods.run_agent
    run_workflow = BlockingMethods.run_agent

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
        a tenant to the agents of that tenant, whose names may be short then.

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
    ) -> Followed[DaemonEvent, EventStream]:
        """Follows events of `types` (globs such as "task.*") from now on, or after event number `since`.

        Returns an iterator; a `with` ends it.
        """
        stream = self._runtime.events(
            types, since=since, since_time=since_time, n=n, agent=agent, worker=worker, task=task
        )
        self._loop.wait(stream.open())
        return Followed(self._loop, stream, stream.__aiter__())

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
    ) -> FollowedExec:
        """Runs a command in the isolation of a worker: of `name`, a worker's id or an agent's name.

        Returns an iterator of its output; a `with` ends it.
        """
        stream = self._runtime.exec_command(
            name,
            argv,
            tty=tty,
            stdin=stdin,
            rows=rows,
            columns=columns,
            environment=environment,
            working_directory=working_directory,
        )
        self._loop.wait(stream.open())
        return FollowedExec(self._loop, stream, stream.__aiter__())

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
    ) -> Followed[LogLine, LogStream]:
        """Follows the logs of agents and servers: the last lines, then new ones; conditions as in `read_logs`.

        Returns an iterator; a `with` ends it.
        """
        lines = self._runtime.follow_logs(
            names,
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
        self._loop.wait(lines.open())
        return Followed(self._loop, lines, lines.__aiter__())

    def follow_status(self) -> Followed[Mapping[str, object], StatusStream]:
        """Follows the status: first the whole of it, then what changes in it, with all events."""
        stream = self._runtime.follow_status()
        self._loop.wait(stream.open())
        return Followed(self._loop, stream, stream.__aiter__())

    def follow_task(self, task: str, *, timeout_s: float | None = None) -> Followed[DaemonEvent, TaskStream]:
        """Follows the events of a task and of those that it delegates, until it has ended: then `stream.task` is its record."""
        stream = self._runtime.follow_task(task, timeout_s=timeout_s)
        return Followed(self._loop, stream, stream.__aiter__())

    def run_agent_stream(
        self, name: str, objective: str = "", **options: Unpack[TaskOptions]
    ) -> Followed[Part, PartStream]:
        """Runs a task as `run_agent`, and returns an iterator over what it streams; `stream.output` is then its result.

        A `with` cancels the task where it is left early.
        """
        stream = self._runtime.run_agent_stream(name, objective, **options)
        return Followed(self._loop, stream, stream.__aiter__())

    def stream_task(self, task: str, *, timeout_s: float | None = None) -> Followed[Part, PartStream]:
        """Returns an iterator over what a task streams, until it has ended: then `stream.task` is its record."""
        stream = self._runtime.stream_task(task, timeout_s=timeout_s)
        return Followed(self._loop, stream, stream.__aiter__())

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
