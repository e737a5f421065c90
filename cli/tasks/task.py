"""Implements `corral run`, `tasks` and `task …`: submits tasks, waits for them, lists and shows their records.

`run` is task.submit and then task.wait, not task.run: once the id is known, a broken connection does no
harm, because the task continues in the daemon and its record is requested again by the id.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click

from corral.worker.client.sync import Client
from corral.worker.contract.errors import (
    Cancelled,
    CorralError,
    InvalidParams,
    Timeout,
    Unreachable,
    WorkerFailed,
    from_wire,
)
from corral.worker.contract.jsonrpc import Notification

from .. import render
from ..context import (
    ANSWER_S,
    CommandGroup,
    Session,
    between,
    command,
    complete_agents,
    complete_names,
    duration,
    given,
    option,
)
from ..render import Record, Table, inner, inners, number, word
from . import run_options
from .run_options import add_run_options, complete_addressees, complete_tasks
from .wait import ENDED, RECONNECT_S, STATES, Mode, TaskProgress, TaskWait, has_ended, share

TREE_TASKS = 200
"""Number of delegated tasks that `task show` prints."""

PAGE = 1_000
"""Number of tasks in one request."""

complete_schedules = complete_names("schedule.list", "schedules")


@command(
    "run",
    epilog="""\b
Examples:
  corral run greeter "greet the visitors"
  corral run crawler "crawl" --input '{"url": "https://example.org"}' --timeout 10m
  corral run reporter "write the weekly report" --cron "0 6 * * mon"
""",
)
@click.argument("agent", metavar="AGENT", shell_complete=complete_addressees)
@click.argument("objective", metavar="[OBJECTIVE]", default="")
@add_run_options
@option("--logs", "Print what the task prints and logs, on stderr, while it runs.")
@option(
    "--stream",
    "Print streamed text as it comes, all parts as JSON lines, or none; default text, with --json off.",
    "mode",
    type=click.Choice(("text", "json", "off")),
)
def run(
    session: Session, /, logs: bool, mode: Mode | None, **options: Any
) -> int:  # Any: the values of the options above
    """Run a task, show its progress and print its result.

    AGENT is an agent, a team, a workflow or a job, which needs no OBJECTIVE. Ctrl-C cancels the task; a second Ctrl-C
    exits at once. With --every or --cron, or --at and --name, create a schedule and print its name. With --at alone, print
    the id of the task, and do not wait for it.
    """
    if logs and (options["detach"] or options["at"] is not None or run_options.is_schedule(options)):
        raise click.UsageError("--logs needs a run that the command waits for: no --detach, --every, --cron, --at")
    if run_options.is_schedule(options):
        _add_schedule(session, run_options.schedule(options))
        return 0
    with session.connect() as connection:
        record = _submit(session, connection, run_options.task(options))
        if options["detach"] or options["at"] is not None:
            _print_submitted(session, record)
            return 0
        from .wait import PartPrinter  # noqa: PLC0415 - start-up time: only where a task is waited for

        mode = mode or ("off" if session.json else "text")
        with TaskProgress(session) as progress, _lines(session, progress, record, logs):
            printer = PartPrinter(session, progress, mode)
            task, is_streamed = word(record, "id"), mode != "off"
            wait = TaskWait(session, connection, task, printer.show, is_streamed=is_streamed)
            try:
                record = record if has_ended(record) else wait.until_ended(None)
            except KeyboardInterrupt:
                progress.print("cancelling the task; press Ctrl-C again to exit at once")
                record = wait.cancel()
            finally:
                printer.end_line()
    if mode == "json":
        session.print_json(record)
        return 0 if (error := _error(record)) is None else error.exit_status
    if printer.has_printed(record.get("output")):
        record = {**record, "output": None}
    return _print_result(session, record)


def _print_submitted(session: Session, record: Mapping[str, object]) -> None:
    session.answer(record, word(record, "id"))
    if record.get("scheduled_at") is not None:
        session.note(
            f"begins at {session.at(word(record, 'scheduled_at'), in_note=True)}; corral task wait {word(record, 'id')}"
        )


def _lines(
    session: Session, progress: TaskProgress, record: Mapping[str, object], logs: bool
) -> AbstractContextManager[object]:
    """Returns the context in which lines of the task are printed, if they are wanted."""
    if not logs:
        return nullcontext()
    from .task_log import TaskLines  # noqa: PLC0415 - start-up time: only where lines are shown

    return TaskLines(session, progress, word(record, "id"))


def _add_schedule(session: Session, params: Mapping[str, object]) -> None:
    record = session.call("schedule.add", params)
    session.answer(record, word(record, "name"))
    due = word(record, "next_at")
    session.note(f"runs next at {session.at(due, in_note=True) if due else 'no time at all'}")


def _submit(session: Session, connection: Client, params: Mapping[str, object]) -> dict[str, object]:
    """Returns the record of the accepted task; a task with a key is sent again when the connection breaks."""
    try:
        found = connection.call("task.submit", params, timeout_s=ANSWER_S)
    except (Unreachable, Timeout) as error:
        if "idempotency_key" in params:
            session.note(f"{error.message}; sending it again")
            with session.connect_again(RECONNECT_S) as again:
                found = again.call("task.submit", params, timeout_s=ANSWER_S)
        else:
            words = f'{error.message}; "corral tasks" shows whether the task was accepted'
            raise type(error)(words, **error.data, acknowledged=False) from error
    return render.as_record(found)


# --- results --------------------------------------------------------------------------------------


def _print_result(session: Session, record: Mapping[str, object]) -> int:
    """Prints the output, or the error of the task; returns its exit code."""
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
        session.note(f"corral: {message}{_where_to_look(record, error)}")
    return 0 if error is None else error.exit_status


def _where_to_look(record: Mapping[str, object], error: CorralError) -> str:
    """Returns the command that tells more about the end of a task: about an exception, or the death of its worker."""
    agent = word(record, "agent")
    if not agent:
        return ""
    if "exception" in error.data:
        return f'; "corral logs {agent}" shows the traceback'
    if isinstance(error, WorkerFailed) and "attempts" not in error.data:  # else it says so itself
        return f'; "corral show {agent}" lists the last exits'
    return ""


def _error(record: Mapping[str, object]) -> CorralError | None:
    """Returns the error of a task that did not succeed; one made from its state if the record has none."""
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


@command("tasks")
@option(
    "--agent NAME",
    "List only tasks of this agent; repeatable.",
    "agents",
    multiple=True,
    shell_complete=complete_agents,
)
@option("--state", "List only tasks in this state; repeatable.", "states", multiple=True, type=click.Choice(STATES))
@option("--since T", "List only tasks created after this: 5m (ago), or a time.")
@option("--until T", "List only tasks created before this: 5m (ago), or a time.")
@option("--parent ID", "List only tasks that this task delegated.", shell_complete=complete_tasks)
@option("--roots", "List only tasks that no other task delegated.")
@option("--dead", "List only dead letters: failed tasks without a retry.")
@option("--schedule NAME", "List only tasks that this schedule created.", shell_complete=complete_schedules)
@option("--session S", "List only tasks of this session.", "of_session")
@option("-g, --grep TEXT", "List only tasks whose objective contains this.", "text")
@option("--limit N", "List at most N; default 100.", type=click.IntRange(1), default=100)
def tasks(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """List tasks, the newest first."""
    params = _filters(options)
    records, skipped = _pages(session, params, options["limit"])
    if session.printed_json(records):
        return
    if skipped:
        session.note(f"{skipped} tasks are left out: their records cannot be read")
    if not records:
        session.note("there are no such tasks" if params else "there are no tasks")
        return
    session.print_records(records, TASKS)


def _filters(options: Mapping[str, Any]) -> dict[str, object]:
    """Returns the params of task.list for the options."""
    params: dict[str, object] = {}
    # A single value goes under the older key, which an older daemon knows, too.
    for one, several in (("agent", "agents"), ("state", "states")):
        values = list(options[several])
        if values:
            params |= {one: values[0]} if len(values) == 1 else {several: values}
    params |= between(options["since"], options["until"])
    params |= {key: True for key in ("roots", "dead") if options[key]}
    texts = {key: options[key] for key in ("parent", "schedule", "text")}
    return params | given(**texts, session=options["of_session"])


def _pages(session: Session, params: Mapping[str, object], limit: int) -> tuple[list[dict[str, object]], int]:
    """Reads records up to a limit, in several requests, and counts those that could not be read."""
    records: list[dict[str, object]] = []
    skipped = 0
    before: object = None
    with session.connect() as connection:
        while len(records) < limit:
            asked = {**params, "limit": min(limit - len(records), PAGE)}
            if before is not None:
                asked["before"] = before
            found = render.as_record(connection.call("task.list", asked, timeout_s=ANSWER_S))
            records += inners(found, "tasks")
            skipped += int(number(found, "skipped") or 0)
            before = found.get("more")
            if before is None:
                break
    return records, skipped


def _reason(record: Record) -> str:
    """Returns why a task has failed or waits: the class of an error and its cause, without the beginning that names the task."""
    error = inner(record, "error")
    message = word(error, "message")
    cause = message.partition('": ')[2] if message.startswith("cannot ") else ""
    return ": ".join(filter(None, (word(error, "name"), cause or message))) or word(record, "reason")


TASKS = Table(
    "ID AGENT NODE WORKER STATE PRIORITY TRY=attempt TOOK=duration_s CREATED=created_at OBJECTIVE REASON",
    drop="PRIORITY TRY WORKER TOOK CREATED",
    sparse="NODE REASON",
    right="PRIORITY TRY TOOK",
    reason=_reason,
)


task = CommandGroup("task", help="Show, follow, cancel or retry single tasks.")


@task.define("show")
@click.argument("task_id", metavar="ID", shell_complete=complete_tasks)
@option("--tree", "Print only the tree of delegated tasks.")
@option("--calls", "Print only its tool calls.")
@option("--steps", "Print only its steps, with a bar for the time of each.")
def show(session: Session, task_id: str, tree: bool, calls: bool, steps: bool) -> None:
    """Show a task and the tree of its delegated tasks."""
    if tree + calls + steps > 1:
        raise click.UsageError("give one of --tree, --calls and --steps")
    if tree:
        _show_tree(session, task_id)
        return
    if calls:
        from .task_log import print_calls  # noqa: PLC0415 - start-up time: only for --calls

        print_calls(session, task_id)
        return
    if steps:
        from .task_log import print_steps  # noqa: PLC0415 - as above

        print_steps(session, task_id)
        return
    record = session.call("task.show", {"task": task_id})
    if session.printed_json(record):
        return
    long = ("input", "context", "output")
    error = {key: each for key, each in inner(record, "error").items() if key != "data"}
    fields = {key: value for key, value in record.items() if key not in long}
    session.print_fields({**fields, "error": error})  # its data are for programs
    for key in long:
        if record.get(key) is not None:
            session.print(session.styled(key, "bold"))
            session.print_foreign(render.output_text(record[key]))
    if render.items(record, "children"):
        session.print(session.styled("tree", "bold"))
        _show_tree(session, task_id)


def _show_tree(session: Session, task_id: str) -> None:
    found = session.call("task.tree", {"task": task_id, "limit": TREE_TASKS})
    if session.printed_json(found):
        return
    # Without recursion: a tree of tasks may be deeper than Python's stack.
    left = [(found, 0)]
    while left:
        node, depth = left.pop()
        record = inner(node, "task")
        took = render.duration(number(record, "duration_s"))
        known = [word(record, key) for key in ("id", "step", "agent", "state")]
        parts = [*known, took, word(record, "objective"), _reason(record)]
        line = "  " * depth + "  ".join(part for part in parts if part)
        session.print(render.cut(render.one_line(line), session.width or sys.maxsize))
        more = int(number(node, "more") or 0)
        if more:
            session.print(f"{'  ' * (depth + 1)}… and {more} more")
        left += [(child, depth + 1) for child in reversed(inners(node, "children"))]


@task.define("log")
@click.argument("task_id", metavar="ID", shell_complete=complete_tasks)
@option("-f, --follow", "Follow until the task has ended.")
@option(
    "-n N",
    "Number of log lines, counted from the last; default 1000.",
    "count",
    type=click.IntRange(0, 5_000),
    default=1_000,
)
@option("--utc", "Print times in UTC, in full, also on a terminal.")
def log(session: Session, task_id: str, follow: bool, count: int, utc: bool) -> int:
    """Print what a task has done, in order of time.

    These are its attempts, progress, log lines, tool calls and delegated tasks, with their
    times, and what the task has used at its end. With -f the exit code is 1 if it fails.
    """
    from .task_log import print_log  # noqa: PLC0415 - start-up time: only for this command

    return print_log(session, task_id, count, follow=follow, utc=utc)


@task.define("cancel")
@click.argument("task_ids", metavar="ID…", nargs=-1, required=True, shell_complete=complete_tasks)
def cancel(session: Session, task_ids: tuple[str, ...]) -> None:
    """Cancel tasks and the tasks that they delegated."""
    records = [session.call("task.cancel", {"task": task_id}) for task_id in task_ids]
    session.answer(
        records[0] if len(records) == 1 else records,
        *(f"{word(record, 'id')} {word(record, 'state', '-')}" for record in records),
    )


@task.define("wait")
@click.argument("task_ids", metavar="ID…", nargs=-1, required=True, shell_complete=complete_tasks)
@option("--timeout D", "Wait at most this long.", "timeout_s", type=duration)
def wait(session: Session, task_ids: tuple[str, ...], timeout_s: float | None) -> int:
    """Wait until tasks end, and print their results. Ctrl-C leaves the tasks running."""
    give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
    records: list[dict[str, object]] = []
    for task_id in task_ids:
        left_s = None if give_up_at is None else max(give_up_at - time.monotonic(), 0.001)
        with session.connect() as connection, TaskProgress(session) as progress:
            records.append(TaskWait(session, connection, task_id, progress.show).until_ended(left_s))
        if not session.json and len(task_ids) > 1:
            session.print_line(f"{task_id} {word(records[-1], 'state')}")
            _print_result(session, records[-1])
    if len(records) == 1:
        return _print_result(session, records[0])
    if session.json:
        session.print_json(records)
    errors = [error for error in map(_error, records) if error is not None]
    return errors[0].exit_status if errors else 0


@task.define("follow")
@click.argument("task_id", metavar="ID", shell_complete=complete_tasks)
@option("--timeout D", "Follow the task at most this long.", "timeout_s", type=duration)
def follow(session: Session, task_id: str, timeout_s: float | None) -> int:
    """Print the progress of a task until it ends, and its result. Its delegated tasks are shown, too."""

    def show_event(notification: Notification) -> None:
        if notification.method != "task.event":
            return
        event = inner(notification.params, "event")
        if session.json:
            session.print_ndjson([event])
        else:
            print(render.one_line(_event_line(session, event)), file=sys.stderr, flush=True)

    with session.connect() as connection:
        record = TaskWait(session, connection, task_id, show_event, "task.follow").until_ended(timeout_s)
    if not session.json:
        return _print_result(session, record)
    session.print_ndjson([record])
    error = _error(record)
    return 0 if error is None else error.exit_status


def _event_line(session: Session, event: Mapping[str, object]) -> str:
    kind = word(event, "type").removeprefix("task.")
    if kind == "ended":
        kind = word(event, "state")
    elif kind == "progress":
        kind = share(event)
    place = word(event, "worker") or word(event, "agent")
    words = word(event, "message") or word(event, "reason")
    parts = (session.at(word(event, "at"), in_note=True), word(event, "task"), place, kind, words)
    return "  ".join(part for part in parts if part)


def select_tasks(command: Callable[..., Any]) -> Callable[..., Any]:  # Any: any command's values
    """Adds the argument and the options that select failed tasks."""
    command = option("--agent NAME", "With --dead, select only tasks of this agent.", shell_complete=complete_agents)(
        command
    )
    command = option("--dead", "Select all dead letters.")(command)
    return click.argument("task_ids", metavar="ID…", nargs=-1, shell_complete=complete_tasks)(command)


@task.define("retry")
@select_tasks
@option("--from STEP", "Run anew from this step on; without it, all steps that have ended are kept.", "step")
def retry(session: Session, task_ids: tuple[str, ...], dead: bool, agent: str | None, step: str | None) -> int:
    """Queue failed tasks again as new tasks. Prints the new ids."""
    retried: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    selected = {**_selection(task_ids, dead, agent), **({} if step is None else {"step": step})}
    for found in _in_batches(session, "task.retry", selected):
        retried += inners(found, "retried")
        failed += inners(found, "failed")
    errors = [from_wire(each.get("error")) for each in failed]
    if session.json:
        session.print_json({"retried": retried, "failed": failed})
        return errors[0].exit_status if errors else 0
    for each in retried:
        session.print_line(word(each, "by"))
    for error in errors:
        session.note(f"corral: {error.message}")
    if not retried and not failed:
        session.note("there are no dead letters")
    return errors[0].exit_status if errors else 0


@task.define("replay")
@click.argument("task_id", metavar="ID", shell_complete=complete_tasks)
@option("--agent MODULE:AGENT", "Replay it on this agent, found from this folder; default that of the task.", "target")
@option("--python PATH", "Interpreter of the agent; default that of the agent.")
@option("--save FILE", "Only write the record, for `agent.replay` in a test.")
def replay(session: Session, task_id: str, target: str | None, python: str | None, save: str | None) -> int:
    """Run the code of an agent against the record of a task, offline.

    Every step is answered from the record, and nothing is done. Prints the output; where the code departs from the record it
    says at which step, with exit status 4.
    """
    from .replay import replayed, saved  # noqa: PLC0415 - start-up time: seldom used

    return replayed(session, task_id, target, python) if save is None else saved(session, task_id, save)


@task.define("discard")
@select_tasks
def discard(session: Session, task_ids: tuple[str, ...], dead: bool, agent: str | None) -> None:
    """Remove tasks from the dead letters. Their records stay in the list of tasks."""
    answers = _in_batches(session, "task.discard", _selection(task_ids, dead, agent))
    count = sum(int(number(found, "discarded") or 0) for found in answers)
    session.answer({"discarded": count}, f"{count} discarded")


def _selection(task_ids: Sequence[str], dead: bool, agent: str | None) -> dict[str, object]:
    if bool(task_ids) == dead or (agent is not None and not dead):
        raise InvalidParams("cannot select tasks: give ids, or --dead with or without --agent", key="--dead")
    if not dead:
        return {"tasks": list(task_ids)}
    # A task that fails again meanwhile is left to the next call.
    params: dict[str, object] = {"dead": True, "until": time.time()}
    return params if agent is None else {**params, "agent": agent}


def _in_batches(session: Session, method: str, params: dict[str, object]) -> list[dict[str, object]]:
    """Calls a method that handles a bounded number of tasks until none is left; returns the answers."""
    answers: list[dict[str, object]] = []
    with session.connect() as connection:
        while True:
            answers.append(render.as_record(connection.call(method, params, timeout_s=ANSWER_S)))
            if answers[-1].get("more") is None:
                return answers
            params["after"] = answers[-1]["more"]
