"""`corral run`, `tasks` and `task …`: give work to agents and see what became of it.

`run` is task.submit and then task.wait, not task.run: once the id is known a broken connection costs
nothing, because the task goes on in the daemon and is asked for again by its id.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from ..worker.client import Client, await_daemon
from ..worker.errors import (
    Cancelled,
    Conflict,
    CorralError,
    ShuttingDown,
    Timeout,
    Unreachable,
    from_wire,
)
from ..worker.wire import Notification
from . import render
from .render import inner, inners, number, word
from .session import (
    ANSWER_S,
    Noun,
    Session,
    Verb,
    complete_agents,
    complete_names,
    duration,
    json_value,
    waiting_s,
)

RECONNECT_S = 30.0
"""How long a waiting `run` bears with a daemon that is away."""

RETRY_S = 0.05
"""The pause before a daemon is asked again that is there but on its way out."""

SERVED_S = 1.0
"""A daemon that let us wait this long was there: its next absence is another one."""

PROGRESS_LINE_S = 1.0
"""On a stderr that is no terminal the same state is said this often at most."""

STATES = ("queued", "running", "succeeded", "failed", "cancelled", "timeout")
ENDED = frozenset(STATES[2:])

complete_tasks = complete_names("task.list", "tasks")


@click.command("run", cls=Verb)
@click.argument("agent", metavar="AGENT", shell_complete=complete_agents)
@click.argument("objective", metavar="OBJECTIVE")
@click.option(
    "--input", "given", metavar="JSON|@FILE|-", help="What the agent gets beside the words."
)
@click.option(
    "--timeout", "timeout_s", type=duration, metavar="D", help="The task may run that long."
)
@click.option(
    "--priority", type=click.IntRange(1, 10), metavar="1..10", help="10 is the most urgent."
)
@click.option("--detach", is_flag=True, help="Print the task's id and do not wait.")
@click.option(
    "--capability", is_flag=True, help="AGENT is a capability: whoever has it may take the task."
)
@click.option(
    "--max-tool-calls", type=click.IntRange(0), metavar="N", help="Refuse more tool calls than N."
)
@click.option(
    "--allow-tool", "tools", multiple=True, metavar="GLOB", help='Only such tools, as "git__*".'
)
@click.pass_obj
def run(session: Session, /, **options: Any) -> int:  # Any: the values of the options above
    """Run a task, show its progress and print its result.

    Ctrl-C cancels the task; a second one leaves at once.
    """
    with session.connect() as connection:
        record = _submit(connection, _order(options))
        if options["detach"]:
            if session.json:
                session.print_json(record)
            else:
                session.print(render.one_line(word(record, "id")))
            return 0
        with _Progress(session) as progress:
            wait = _Wait(session, connection, word(record, "id"), progress.show)
            try:
                record = record if _has_ended(record) else wait.until_ended(None)
            except KeyboardInterrupt:
                progress.say("cancelling the task; Ctrl-C again leaves it to the daemon")
                record = wait.cancel()
    return _print_result(session, record)


def _order(options: Mapping[str, Any]) -> dict[str, object]:
    """The params of task.submit."""
    key = "capability" if options["capability"] else "agent"
    params: dict[str, object] = {key: options["agent"], "objective": options["objective"]}
    if options["given"] is not None:
        params["input"] = json_value(options["given"], "--input")
    for name in ("timeout_s", "priority"):
        if options[name] is not None:
            params[name] = options[name]
    boundaries: dict[str, object] = {}
    if options["max_tool_calls"] is not None:
        boundaries["max_tool_calls"] = options["max_tool_calls"]
    if options["tools"]:
        boundaries["allowed_tools"] = list(options["tools"])
    if boundaries:
        params["boundaries"] = boundaries
    return params


def _submit(connection: Client, params: Mapping[str, object]) -> dict[str, object]:
    """The record of the accepted task.

    Raises:
        Unreachable: the connection broke before the answer: nobody knows, so nothing is sent twice.
    """
    try:
        found = connection.call("task.submit", params, timeout_s=ANSWER_S)
    except (Unreachable, Timeout) as error:
        words = f'{error.message}; whether the task was accepted, "corral tasks" knows'
        raise type(error)(words, **error.data, acknowledged=False) from error
    return render.as_record(found)


class _Wait:
    """Waits for the end of one task, over as many connections as it takes."""

    def __init__(
        self,
        session: Session,
        connection: Client,
        task: str,
        on_notification: Callable[[Notification], None],
    ) -> None:
        self._session = session
        self._connection = connection
        self._task = task
        self._on_notification = on_notification

    def until_ended(self, timeout_s: float | None) -> dict[str, object]:
        """The record of the task when it has ended.

        Raises:
            Timeout: it has not within `timeout_s`.
            Unreachable: the daemon went away and did not come back within RECONNECT_S.
            NotFound: it came back without the task.
        """
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        lost_at: float | None = None
        while True:
            params: dict[str, object] = {"task": self._task}
            left_s = None if give_up_at is None else max(give_up_at - time.monotonic(), 0.001)
            if left_s is not None:
                params["timeout_s"] = left_s
            asked_at: float | None = None
            try:
                if lost_at is not None:
                    patience_s = max(lost_at + RECONNECT_S - time.monotonic(), 0.0)
                    self._connection = await_daemon(self._session.socket, patience_s=patience_s)
                asked_at = time.monotonic()
                return self._call("task.wait", params, waiting_s(left_s))
            except (Unreachable, ShuttingDown) as error:
                self._connection.close()
                now = time.monotonic()
                was_served = asked_at is not None and now - asked_at > SERVED_S
                if lost_at is None or was_served:
                    lost_at = now  # away for the first time, or again
                    self._session.note(f"{error.message}; waiting for it to come back")
                if now - lost_at >= RECONNECT_S:
                    words = f'cannot wait for task "{self._task}": {error.message}'
                    raise Unreachable(words, **{**error.data, "task": self._task}) from error
            time.sleep(RETRY_S)

    def cancel(self) -> dict[str, object]:
        """The record after asking the daemon to cancel the task.

        Over another connection: Ctrl-C may have cut a line in two on this one.
        """
        self._connection.close()
        self._connection = self._session.connect()
        try:
            record = self._call("task.cancel", {"task": self._task}, ANSWER_S)
        except Conflict:  # it has just ended by itself
            record = {}
        return record if _has_ended(record) else self.until_ended(None)

    def _call(
        self, method: str, params: Mapping[str, object], timeout_s: float | None
    ) -> dict[str, object]:
        found = self._connection.call(
            method, params, timeout_s=timeout_s, on_notification=self._on_notification
        )
        return render.as_record(found)


class _Progress:
    """What a task is doing, on stderr: one line that is rewritten on a terminal, else lines."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._is_terminal = sys.stderr.isatty()
        self._has_line = False
        self._last = ("", 0.0)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def show(self, notification: Notification) -> None:
        """Takes a `task.progress`."""
        if notification.method != "task.progress" or self._session.json:
            return
        facts = notification.params
        state = word(facts, "state")
        if state in ENDED:
            return  # the result says it
        parts = [word(facts, "task"), state, word(facts, "worker"), _share(facts)]
        message = render.one_line(word(facts, "message"))
        text = render.one_line(" ".join(part for part in parts if part)) + (
            f" {message}" if message else ""
        )
        if self._is_terminal:
            width = (self._session.width or 80) - 1
            sys.stderr.write(f"\r\x1b[K{render.cut(text, width)}")
            sys.stderr.flush()
            self._has_line = True
            return
        key, now = f"{state} {message}", time.monotonic()
        if key != self._last[0] or now - self._last[1] >= PROGRESS_LINE_S:
            self._last = (key, now)
            print(text, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        self._clear()
        self._session.note(text)

    def _clear(self) -> None:
        if self._has_line:
            self._has_line = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _share(facts: Mapping[str, object]) -> str:
    """`50%`, or `3/10` where the total is no 1."""
    done, total = number(facts, "progress"), number(facts, "total")
    if done is None:
        return ""
    if total is not None and total != 1:
        return f"{done:g}/{total:g}"
    return f"{done:.0%}" if 0 <= done <= 1 else f"{done:g}"


# --- results --------------------------------------------------------------------------------------


def _has_ended(record: Mapping[str, object]) -> bool:
    return word(record, "state") in ENDED


def _print_result(session: Session, record: Mapping[str, object]) -> int:
    """Prints the output, or why there is none; returns the exit code of the task."""
    error = _error(record)
    if session.json:
        session.print_json(record)
    elif error is None:
        output = record.get("output")
        if output is not None:
            session.print_foreign(render.output_text(output))
    else:
        session.stdout.flush()
        message = error.message
        if not message.startswith("cannot "):
            message = f'cannot finish task "{word(record, "id")}": {message}'
        session.note(f"corral: {message}")
    return 0 if error is None else error.exit_status


def _error(record: Mapping[str, object]) -> CorralError | None:
    """Why a task did not succeed; a record that does not say is judged by its state."""
    state = word(record, "state")
    if state == "succeeded":
        return None
    if record.get("error") is not None:
        return from_wire(record["error"])
    task = word(record, "id")
    if state == "cancelled":
        return Cancelled(f'cannot finish task "{task}": it was cancelled', task=task)
    if state == "timeout":
        return Timeout(f'cannot finish task "{task}": it took too long', task=task)
    if state in ENDED:
        return from_wire({"code": -33013, "message": f'cannot finish task "{task}": it {state}'})
    return None


@click.command("tasks", cls=Verb)
@click.option("--agent", metavar="NAME", help="Only of this agent.", shell_complete=complete_agents)
@click.option("--state", type=click.Choice(STATES), help="Only in this state.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, metavar="N", help="At most N; default 100."
)
@click.pass_obj
def tasks(session: Session, agent: str | None, state: str | None, limit: int) -> None:
    """List tasks, the newest first."""
    params: dict[str, object] = {"limit": limit}
    params |= {k: v for k, v in (("agent", agent), ("state", state)) if v is not None}
    found = session.call("task.list", params)
    if session.json:
        session.print_json(found.get("tasks", []))
        return
    records = inners(found, "tasks")
    if not records:
        session.note("there are no tasks")
        return
    session.print_table(
        ("ID", "AGENT", "WORKER", "STATE", "PRIORITY", "TRY", "TOOK", "CREATED", "OBJECTIVE"),
        [_task_row(record) for record in records],
        droppable=("PRIORITY", "TRY", "CREATED", "WORKER", "TOOK"),
        right=("PRIORITY", "TRY", "TOOK"),
    )


def _task_row(record: Mapping[str, object]) -> list[str]:
    cells = [word(record, key) for key in ("id", "agent", "worker", "state", "priority", "attempt")]
    created = render.at(word(record, "created_at"))
    error = word(inner(record, "error"), "name")
    objective = word(record, "objective")
    took = render.duration(number(record, "duration_s"))
    return [*cells, took, created, f"{error}: {objective}" if error else objective]


task = Noun("task", help="One task: show it, cancel it, wait for it.")


@task.command("show")
@click.argument("task_id", metavar="ID", shell_complete=complete_tasks)
@click.pass_obj
def show(session: Session, task_id: str) -> None:
    """Show a task in full."""
    record = session.call("task.show", {"task": task_id})
    if session.json:
        session.print_json(record)
        return
    long = ("input", "output")
    width = max(map(len, record), default=0)
    for key, value in record.items():
        if key in long or value is None or value == []:
            continue
        text = value if isinstance(value, str) else render.json_text(value, indent=False)
        session.print(render.one_line(f"{key:<{width}}  {text}"))
    for key in long:
        if record.get(key) is not None:
            session.print(session.styled(key, "bold"))
            session.print_foreign(render.output_text(record[key]))


@task.command("cancel")
@click.argument("task_id", metavar="ID", shell_complete=complete_tasks)
@click.pass_obj
def cancel(session: Session, task_id: str) -> None:
    """Cancel a task."""
    record = session.call("task.cancel", {"task": task_id})
    if session.json:
        session.print_json(record)
        return
    session.print(render.one_line(f"{word(record, 'id')} {word(record, 'state', '-')}"))


@task.command("wait")
@click.argument("task_id", metavar="ID", shell_complete=complete_tasks)
@click.option("--timeout", "timeout_s", type=duration, metavar="D", help="Wait at most that long.")
@click.pass_obj
def wait(session: Session, task_id: str, timeout_s: float | None) -> int:
    """Wait for the end of a task and print its result, as `run` does; Ctrl-C leaves it running."""
    with session.connect() as connection, _Progress(session) as progress:
        waiting = _Wait(session, connection, task_id, progress.show)
        record = waiting.until_ended(timeout_s)
    return _print_result(session, record)
