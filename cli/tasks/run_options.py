"""Defines the options of `corral run`, and turns them into the params of `task.submit` and `schedule.add`."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.trace_context import of_environment

from ..context import complete_names, duration, duration_s, given, json_value, moment, option

DAY_S = 86_400.0

AGAIN = ("every", "cron")
"""Options that create a schedule."""

OF_SCHEDULES = ("timezone", "name", "overlap")
"""Options that require one of AGAIN."""

F = TypeVar("F", bound=Callable[..., Any])  # Any: whatever a command takes

complete_addressees = complete_names("daemon.status", "agents,teams,workflows")
complete_tasks = complete_names("task.list", "tasks")

_TIMES = (
    option("--at T", "Start time: 5m (from now), 18:00 (UTC), or an RFC 3339 time."),
    option("--every D", "Create a schedule with runs at this interval.", type=duration),
    option("--cron EXPR", 'Create a schedule from a cron expression, such as "0 6 * * mon".'),
    option("--timezone ZONE", "Time zone of --cron, such as Europe/Berlin; default UTC."),
    option(
        "--overlap",
        "Skip or queue a run that is due during the previous one, or let it replace that; default skip.",
        type=click.Choice(("skip", "queue", "replace")),
    ),
    option("--no-catch-up", "Do not make up for runs that were due while the daemon was down."),
)
"""Options about the times of a schedule."""

_OPTIONS = (
    option(
        "--input JSON|TEXT|@FILE|-",
        "Structured input of the task, beside OBJECTIVE; a text where it is no JSON.",
        "given",
    ),
    option("--context JSON|TEXT|@FILE|-", "Background information for the agent."),
    option(
        "--timeout D", "Stop the task after it has run this long; waiting does not count.", "timeout_s", type=duration
    ),
    option("--priority 1..10", "Priority in the queue; 10 is the most urgent.", type=click.IntRange(1, 10)),
    option("--detach", "Print the id of the task and return without waiting."),
    option("--capability", "Read AGENT as a capability: any agent that offers it may run the task."),
    option("--require CAP", "Capability that the agent must offer; repeatable.", "required", multiple=True),
    # boundaries
    option("--max-tool-calls N", "Refuse tool calls after the first N.", type=click.IntRange(0)),
    option(
        "--allow-tool GLOB", 'Allow only tools whose names match, such as "git__*"; repeatable.', "tools", multiple=True
    ),
    option("--max-tokens N", "Stop the task after it has used N tokens.", type=click.IntRange(1)),
    option("--max-cost-cents N", "Stop the task after it has cost N cents.", type=click.FloatRange(0, min_open=True)),
    option("--scope TEXT", "Description of the subject that the task is limited to."),
    option("--constraint TEXT", "Rule that the agent has to follow; repeatable.", "constraints", multiple=True),
    option("--output-format TEXT", "Description of the expected output.", "wanted"),
    option("--output-schema JSON|@FILE", "JSON Schema that the output must satisfy.", "schema"),
    # the queue
    option("--key K", "Idempotency key: queue a task with this key only once."),
    option("--session S", "Session whose memory the task shares."),
    option("--sticky-key K", "Route tasks with the same key to the same worker."),
    option(
        "--after ID", "Start after this task has succeeded; repeatable.", multiple=True, shell_complete=complete_tasks
    ),
    option("--no-durable", "Keep the task in memory only: faster, but lost when the daemon ends."),
    option("--max-attempts N", "Number of attempts; at most N.", type=click.IntRange(1, 1000)),
    option(
        "--retry-on WORD",
        "Retry after this: worker-death, any, never, or the name of an error; repeatable.",
        multiple=True,
    ),
    option("--retry-backoff D", "Delay before the first retry; later ones are longer.", type=duration),
    option("--queue", "Let the task wait for an agent that is stopped or has given up, instead of refusing it."),
    option(
        "--queue-timeout D",
        "Give up a task that no worker has begun after this long.",
        "queue_timeout_s",
        type=duration,
    ),
    option(
        "--deadline D",
        "End the task this long after it was submitted, waiting, running and retries included.",
        "deadline_s",
        type=duration,
    ),
    option("--name NAME", "Name of the schedule."),
)


def add_run_options(command: F) -> F:
    """Adds the options of a run to a command."""
    for add in reversed((*_OPTIONS, *_TIMES)):
        command = add(command)
    return command


def add_times(command: F) -> F:
    """Adds the options about the times of a schedule to a command."""
    for add in reversed(_TIMES):
        command = add(command)
    return command


def is_schedule(options: Mapping[str, Any]) -> bool:
    """Returns True if the options create a schedule."""
    is_once = options["at"] is not None and options["name"] is not None
    if is_once or any(options[name] is not None for name in AGAIN):
        return True
    stray = [name for name in OF_SCHEDULES if options[name] is not None]
    stray += ["no-catch-up"] if options["no_catch_up"] else []
    if stray:
        words = f"cannot use --{stray[0]} without --every or --cron, or --at and --name: it is for schedules"
        raise InvalidParams(words, key=f"--{stray[0]}")
    return False


def schedule(options: Mapping[str, Any]) -> dict[str, object]:
    """Returns the params of schedule.add."""
    if options["detach"]:
        words = "cannot use --detach with a schedule: the command does not wait for its tasks"
        raise InvalidParams(words, key="--detach")
    work = task({**options, "at": None})
    work.pop("traceparent", None)  # its runs are no part of what this shell does
    params = times(options) | {"task": work}
    return params if options["name"] is None else {**params, "name": options["name"]}


def times(options: Mapping[str, Any]) -> dict[str, object]:
    """Returns the params of schedule.add that are about times."""
    if all(options[name] is not None for name in AGAIN):
        raise InvalidParams("cannot use --every and --cron together: give one", key="--cron")
    chosen = {"every_s": options["every"]}
    chosen |= {key: options[key] for key in ("cron", "timezone", "overlap")}
    params = given(**chosen)
    if options["no_catch_up"]:
        params["catch_up"] = False
    if options["at"] is not None:
        again = any(options[name] is not None for name in AGAIN)
        params["start_at" if again else "at"] = instant(options["at"], "--at", time.time())
    return params


def task(options: Mapping[str, Any]) -> dict[str, object]:
    """Returns the params of task.submit."""
    key = "capability" if options["capability"] else "agent"
    params: dict[str, object] = {key: options["agent"], "objective": options["objective"]}
    if options["given"] is not None:
        params["input"] = json_value(options["given"], "--input", or_text=True)
    if options["context"] is not None:
        params["context"] = json_value(options["context"], "--context", or_text=True)
    if options["at"] is not None:
        params["at"] = instant(options["at"], "--at", time.time())
    if options["no_durable"]:
        params["durable"] = False
    same = ("timeout_s", "queue_timeout_s", "deadline_s", "priority", "session", "sticky_key")
    return params | given(
        **{key: options[key] for key in same},
        when_down="queue" if options["queue"] else None,
        required_capabilities=list(options["required"]) or None,
        idempotency_key=options["key"],
        after=list(options["after"]) or None,
        boundaries=_boundaries(options),
        output_format=_output_format(options),
        retry=_retry(options),
        traceparent=of_environment(),
    )


def _boundaries(options: Mapping[str, Any]) -> dict[str, object] | None:
    same = ("max_tool_calls", "max_tokens", "max_cost_cents", "scope")
    tools, constraints = list(options["tools"]) or None, list(options["constraints"]) or None
    return given(**{key: options[key] for key in same}, allowed_tools=tools, constraints=constraints) or None


def _output_format(options: Mapping[str, Any]) -> dict[str, object] | None:
    schema = options["schema"]
    return (
        given(description=options["wanted"], schema=None if schema is None else json_value(schema, "--output-schema"))
        or None
    )


def _retry(options: Mapping[str, Any]) -> dict[str, object] | None:
    words = list(options["retry_on"])
    retry_on = words[0] if len(words) == 1 else words or None
    backoff_s = options["retry_backoff"]
    return given(max_attempts=options["max_attempts"], retry_on=retry_on, retry_backoff_base_s=backoff_s) or None


def instant(text: str, option: str, now: float) -> float:
    """Returns Unix seconds of a future time: `5m` from now, `18:00` (UTC, the next), or an RFC 3339 time."""
    ahead_s = duration_s(text)
    if ahead_s is not None:
        return now + ahead_s
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", text.strip())
    if found is None:
        return moment(text, option, now, "5m, 18:00")
    at = now - now % DAY_S + int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3] or 0)
    return at if at > now else at + DAY_S
