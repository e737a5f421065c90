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


class Runtime:
    """Drives one daemon; see `connect` and `start`. A `with` shuts it down.

    KeyboardInterrupt ends a call as cancelling does in `AgentRuntime`. A program may end without `shutdown`: a daemon of
    its own then ends with it at once.
    """

    def __init__(self, loop: LoopThread, runtime: AgentRuntime) -> None:
        self._loop = loop
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
    add_agents = waits(AgentRuntime.add_agents)
    remove_agent = waits(AgentRuntime.remove_agent)
    remove_agents = waits(AgentRuntime.remove_agents)
    start_agent = waits(AgentRuntime.start_agent)
    start_agents = waits(AgentRuntime.start_agents)
    stop_agent = waits(AgentRuntime.stop_agent)
    stop_agents = waits(AgentRuntime.stop_agents)
    restart_agent = waits(AgentRuntime.restart_agent)
    restart_agents = waits(AgentRuntime.restart_agents)
    reset_agent = waits(AgentRuntime.reset_agent)
    reset_agents = waits(AgentRuntime.reset_agents)
    pause_agent = waits(AgentRuntime.pause_agent)
    pause_agents = waits(AgentRuntime.pause_agents)
    resume_agent = waits(AgentRuntime.resume_agent)
    resume_agents = waits(AgentRuntime.resume_agents)
    hibernate_agent = waits(AgentRuntime.hibernate_agent)
    hibernate_agents = waits(AgentRuntime.hibernate_agents)
    wake_agent = waits(AgentRuntime.wake_agent)
    wake_agents = waits(AgentRuntime.wake_agents)
    signal_agent = waits(AgentRuntime.signal_agent)
    signal_agents = waits(AgentRuntime.signal_agents)
    scale_agent = waits(AgentRuntime.scale_agent)
    set_agent = waits(AgentRuntime.set_agent)
    expose_agent = waits(AgentRuntime.expose_agent)
    select_agents = waits(AgentRuntime.select_agents)
    list_agents = waits(AgentRuntime.list_agents)
    show_agent = waits(AgentRuntime.show_agent)
    agent_status = waits(AgentRuntime.agent_status)
    list_templates = waits(AgentRuntime.list_templates)
    run_command = waits(AgentRuntime.run_command)
    list_revisions = waits(AgentRuntime.list_revisions)
    show_revision = waits(AgentRuntime.show_revision)
    diff_revisions = waits(AgentRuntime.diff_revisions)
    rollback_agent = waits(AgentRuntime.rollback_agent)

    # -- packages

    add_package = waits(AgentRuntime.add_package)
    upload_package = waits(AgentRuntime.upload_package)
    list_packages = waits(AgentRuntime.list_packages)
    show_package = waits(AgentRuntime.show_package)
    verify_package = waits(AgentRuntime.verify_package)
    remove_package = waits(AgentRuntime.remove_package)
    deploy = waits(AgentRuntime.deploy)
    list_deployments = waits(AgentRuntime.list_deployments)
    show_deployment = waits(AgentRuntime.show_deployment)
    promote_deployment = waits(AgentRuntime.promote_deployment)
    abort_deployment = waits(AgentRuntime.abort_deployment)

    # -- teams and workflows

    add_team = waits(AgentRuntime.add_team)
    add_teams = waits(AgentRuntime.add_teams)
    remove_team = waits(AgentRuntime.remove_team)
    list_teams = waits(AgentRuntime.list_teams)
    show_team = waits(AgentRuntime.show_team)
    add_workflow = waits(AgentRuntime.add_workflow)
    add_workflows = waits(AgentRuntime.add_workflows)
    remove_workflow = waits(AgentRuntime.remove_workflow)
    list_workflows = waits(AgentRuntime.list_workflows)
    show_workflow = waits(AgentRuntime.show_workflow)

    # -- tasks

    run_agent = waits(AgentRuntime.run_agent)
    run_team = run_agent
    run_workflow = run_agent
    execute_task = waits(AgentRuntime.execute_task)
    execute_tasks_parallel = waits(AgentRuntime.execute_tasks_parallel)
    submit_task = waits(AgentRuntime.submit_task)
    wait_task = waits(AgentRuntime.wait_task)
    cancel_task = waits(AgentRuntime.cancel_task)
    retry_tasks = waits(AgentRuntime.retry_tasks)
    discard_tasks = waits(AgentRuntime.discard_tasks)
    show_task = waits(AgentRuntime.show_task)
    list_tasks = waits(AgentRuntime.list_tasks)
    list_task_page = waits(AgentRuntime.list_task_page)
    task_tree = waits(AgentRuntime.task_tree)
    task_log = waits(AgentRuntime.task_log)
    list_approvals = waits(AgentRuntime.list_approvals)
    show_approval = waits(AgentRuntime.show_approval)
    answer_approval = waits(AgentRuntime.answer_approval)
    add_schedule = waits(AgentRuntime.add_schedule)
    add_command_schedule = waits(AgentRuntime.add_command_schedule)
    list_schedules = waits(AgentRuntime.list_schedules)
    show_schedule = waits(AgentRuntime.show_schedule)
    run_schedule = waits(AgentRuntime.run_schedule)
    pause_schedule = waits(AgentRuntime.pause_schedule)
    resume_schedule = waits(AgentRuntime.resume_schedule)
    remove_schedule = waits(AgentRuntime.remove_schedule)

    # -- state

    save_state = waits(AgentRuntime.save_state)
    save_states = waits(AgentRuntime.save_states)
    restore_agent = waits(AgentRuntime.restore_agent)
    list_checkpoints = waits(AgentRuntime.list_checkpoints)
    show_checkpoint = waits(AgentRuntime.show_checkpoint)
    remove_checkpoints = waits(AgentRuntime.remove_checkpoints)
    put_memory = waits(AgentRuntime.put_memory)
    get_memory = waits(AgentRuntime.get_memory)
    search_memory = waits(AgentRuntime.search_memory)
    delete_memory = waits(AgentRuntime.delete_memory)
    clear_memory = waits(AgentRuntime.clear_memory)
    clean_up_memory = waits(AgentRuntime.clean_up_memory)
    memory_pools = waits(AgentRuntime.memory_pools)
    memory_stats = waits(AgentRuntime.memory_stats)
    list_sessions = waits(AgentRuntime.list_sessions)
    show_session = waits(AgentRuntime.show_session)
    expire_session = waits(AgentRuntime.expire_session)

    # -- tools and models

    list_servers = waits(AgentRuntime.list_servers)
    list_tools = waits(AgentRuntime.list_tools)
    call_tool = waits(AgentRuntime.call_tool)
    list_prompts = waits(AgentRuntime.list_prompts)
    list_resources = waits(AgentRuntime.list_resources)
    read_resource = waits(AgentRuntime.read_resource)
    start_login = waits(AgentRuntime.start_login)
    finish_login = waits(AgentRuntime.finish_login)
    list_logins = waits(AgentRuntime.list_logins)
    logout = waits(AgentRuntime.logout)
    list_models = waits(AgentRuntime.list_models)
    list_stores = waits(AgentRuntime.list_stores)

    # -- observing

    status = waits(AgentRuntime.status)
    get_statistics = waits(AgentRuntime.get_statistics)
    get_resource_usage = waits(AgentRuntime.get_resource_usage)
    get_runtime_stats = waits(AgentRuntime.get_runtime_stats)
    list_events = waits(AgentRuntime.list_events)
    publish = waits(AgentRuntime.publish)
    read_logs = waits(AgentRuntime.read_logs)
    get_metrics_history = waits(AgentRuntime.get_metrics_history)
    get_latest_metrics = waits(AgentRuntime.get_latest_metrics)
    get_metrics_top = waits(AgentRuntime.get_metrics_top)
    list_costs = waits(AgentRuntime.list_costs)
    list_quotas = waits(AgentRuntime.list_quotas)
    list_audit = waits(AgentRuntime.list_audit)
    verify_audit = waits(AgentRuntime.verify_audit)

    # -- access

    whoami = waits(AgentRuntime.whoami)
    add_token = waits(AgentRuntime.add_token)
    list_tokens = waits(AgentRuntime.list_tokens)
    rotate_token = waits(AgentRuntime.rotate_token)
    remove_token = waits(AgentRuntime.remove_token)
    add_tenant = waits(AgentRuntime.add_tenant)
    list_tenants = waits(AgentRuntime.list_tenants)
    show_tenant = waits(AgentRuntime.show_tenant)
    set_tenant = waits(AgentRuntime.set_tenant)
    suspend_tenant = waits(AgentRuntime.suspend_tenant)
    resume_tenant = waits(AgentRuntime.resume_tenant)
    remove_tenant = waits(AgentRuntime.remove_tenant)
    list_secrets = waits(AgentRuntime.list_secrets)
    set_secret = waits(AgentRuntime.set_secret)
    rotate_secret = waits(AgentRuntime.rotate_secret)
    remove_secret = waits(AgentRuntime.remove_secret)

    # -- the daemon

    call = waits(AgentRuntime.call)
    discover = waits(AgentRuntime.discover)
    ping = waits(AgentRuntime.ping)
    doctor = waits(AgentRuntime.doctor)
    get_schema = waits(AgentRuntime.get_schema)
    reload = waits(AgentRuntime.reload)
    set_log_level = waits(AgentRuntime.set_log_level)
    emergency_stop = waits(AgentRuntime.emergency_stop)
    stop_daemon = waits(AgentRuntime.stop_daemon)
    export = waits(AgentRuntime.export)
    import_tables = waits(AgentRuntime.import_tables)
    make_backup = waits(AgentRuntime.make_backup)
    read_backup = waits(AgentRuntime.read_backup)
    discard_backup = waits(AgentRuntime.discard_backup)
    list_nodes = waits(AgentRuntime.list_nodes)
    drain_node = waits(AgentRuntime.drain_node)
    resume_node = waits(AgentRuntime.resume_node)

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
