"""Decodes jobs, agents of `type = "oneshot"`, and schedules: the times of a task or of a job, in `[schedules.NAME]`.

A job speaks no protocol, so `protocol = "none"` is its default; keys that only a service has are refused. A schedule with
a `command` is two things: a job of its name, and the times at which that runs.
"""

import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any, Literal

from msgspec import Struct

from corral.worker.contract.records import Boundaries, Overlap, Retry, TaskParams

from ..decoding.decoder import Document, KeyPath
from ..decoding.keys import fields_of
from ..decoding.shapes import TEXT, accepts, narrows, unchanged
from ..decoding.values import PositiveSeconds, Refused, is_table, json_value, matching, retry_reasons, whole
from .team import a_name

OF_SERVICES = ("ready", "health", "hibernate_after", "listen", "rolling", "smoke")
"""Keys for a process that stays: a job is done when it has ended."""


def decode_job(
    document: Document, path: KeyPath, table: Mapping[str, object], own: dict[str, Any]
) -> None:  # Any: the values of a Spec's fields, each decoded by its own rule
    """Completes the decoded keys of a job, and refuses those that contradict its type, or need it."""
    if own.get("type") != "oneshot":
        document.refuse(path, own, ["remain"], 'it goes with type = "oneshot" only')
        reason = 'it goes with type = "oneshot" only; resources.max_task_duration limits a task'
        document.refuse(path, own, ["timeout"], reason)
        return
    reason = 'it contradicts type = "oneshot", which runs a command: an entrypoint takes tasks, also those of [schedules.NAME]'
    document.refuse(path, own, ["entrypoint"], reason)
    if own.setdefault("protocol", "none") != "none":
        reason = 'it contradicts type = "oneshot": a command that runs to its end has protocol = "none"'
        raise document.error((*path, "protocol"), own["protocol"], reason)
    reason = 'it contradicts type = "oneshot": a job is done when it has exited with status 0'
    document.refuse(path, own, OF_SERVICES, reason, shown=False)
    recovery = table.get("recovery")
    if is_table(recovery) and recovery.get("restart") == "always":
        reason = 'it contradicts type = "oneshot": write "on-failure" or "never", or a schedule'
        raise document.error((*path, "recovery", "restart"), "always", reason)


# --- schedules ------------------------------------------------------------------------------------

NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""The nicknames of crontab(5)."""

OBJECTIVE_CHARS = 1_000
"""Characters of a command line that are kept as the objective of its tasks."""


def zone(name: str) -> tzinfo:
    """Returns a time zone of this machine."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - only a named time zone pays: 0.25 MB

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # such as a folder of the database
        raise Refused("there is no such time zone", "timezone") from error


def following(expression: str, after: datetime) -> datetime | None:
    """Returns the first time after `after` that a cron expression has, in the zone of `after`; None if there is none."""
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - only a cron schedule pays

    try:
        return next(CronSim(NAMED.get(expression.strip(), expression), after), None)
    except CronSimError as error:
        raise Refused(f"it is no cron expression: {error}", "cron") from error
    except (OverflowError, ValueError):  # beyond the year 9999, which is no date
        return None


@narrows(unchanged)
def interval(seconds: float) -> float:
    """Accepts the seconds between two runs."""
    if seconds < 1:
        raise Refused('write at least "1s"')
    return seconds


@accepts("cron expression", TEXT)
def cron_expression(raw: object) -> str:
    """Accepts a cron expression that has a time."""
    if not isinstance(raw, str):
        raise Refused('write five fields, such as "0 6 * * mon", or a word such as "@daily"')
    try:
        found = following(raw, datetime(2000, 1, 1, tzinfo=UTC))
    except Refused as error:
        raise Refused(error.reason) from error
    if found is None:
        raise Refused("no day is like that")
    return raw


@accepts("date and time", TEXT)
def date_and_time(raw: object) -> datetime:
    """Decodes a date and time, of TOML or as a string of RFC 3339."""
    if isinstance(raw, str):
        try:
            raw = datetime.fromisoformat(raw)
        except ValueError:
            raw = None
    if not isinstance(raw, datetime):
        raise Refused("write a date and time, such as 2030-01-31T18:00:00Z")
    return raw


@accepts("time zone", TEXT)
def zone_name(raw: object) -> str:
    """Accepts the name of a time zone of this machine."""
    if not isinstance(raw, str):
        raise Refused('write a time zone, such as "Europe/Berlin"')
    try:
        zone(raw)
    except Refused as error:
        raise Refused(error.reason) from error
    return raw


Text = Annotated[str, matching(r"[\s\S]*\S[\s\S]*", "a text")]


class Times(Struct):
    """Declares the keys that each schedule has."""

    every: Annotated[PositiveSeconds, interval] | None = None
    cron: Annotated[str, cron_expression] | None = None
    at: Annotated[datetime, date_and_time] | None = None
    timezone: Annotated[str, zone_name] | None = None
    catch_up: bool = True
    overlap: Literal["skip", "queue", "replace"] = "skip"


class Work(Struct):
    """Declares the keys of a schedule that makes tasks."""

    agent: Annotated[str, a_name] | None = None
    team: Annotated[str, a_name] | None = None
    workflow: Annotated[str, a_name] | None = None
    capability: Text | None = None
    objective: Text | None = None
    input: Annotated[object, json_value] = None
    context: Annotated[object, json_value] = None
    priority: Annotated[int, whole(1, 10)] | None = None
    session: Text | None = None
    sticky_key: Text | None = None
    timeout: PositiveSeconds | None = None
    max_attempts: Annotated[int, whole(1, 1000)] | None = None
    retry_on: Annotated[str | tuple[str, ...], retry_reasons] | None = None


TIMES, WORK = fields_of(Times), fields_of(Work)
RECEIVERS = ("agent", "team", "workflow", "capability")


class Schedule(Struct, frozen=True, kw_only=True):
    """`[schedules.NAME]`: the times of a task, or of the job of its name where it has a `command`.

    `at` is in seconds of the Unix epoch. `source` is where the table came from.
    """

    name: str
    source: str
    task: TaskParams
    every: float | None = None
    cron: str | None = None
    at: float | None = None
    timezone: str | None = None
    catch_up: bool = True
    overlap: Overlap = "skip"
    command: tuple[str, ...] = ()


def commands_of(tables: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Returns the tables of the jobs that schedules with a command are, by name: without the keys of times."""
    return {
        name: {
            "type": "oneshot",
            "autostart": False,
            **{key: value for key, value in table.items() if key not in TIMES},
            "recovery": _recovery(table.get("recovery")),
        }
        for name, table in tables.items()
        if is_table(table) and "command" in table
    }


def _recovery(written: object) -> object:
    """Returns the `recovery` of a scheduled command: one that fails waits for its next time, unless it says otherwise."""
    if written is None or is_table(written):
        return {"restart": "never", **(written or {})}
    return written


def decode_schedule(document: Document, name: str, table: Mapping[str, object]) -> Schedule:
    """Decodes one schedule from its table; the job of its command is decoded apart."""
    path = ("schedules", name)
    has_command = "command" in table
    mine = {key: value for key, value in table.items() if not has_command or key in TIMES}
    before = document.failures
    own = document.decode_keys(path, mine, TIMES if has_command else {**TIMES, **WORK})
    document.stop_after(before)
    chosen = [key for key in ("every", "cron", "at") if key in own]
    if len(chosen) != 1:
        reason = "it contradicts " + chosen[0] if chosen else "it is missing: write every, cron or at"
        raise document.error((*path, chosen[-1] if chosen else "every"), None, reason)
    at: datetime | None = own.get("at")
    if "timezone" in own and ("every" in own or (at is not None and at.tzinfo is not None)):
        reason = f"it contradicts {chosen[0]}, which is the same time everywhere"
        raise document.error((*path, "timezone"), own["timezone"], reason)
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=zone(own.get("timezone", "UTC")))
    task = _command_task(name, table) if has_command else _task(document, path, own)
    command = table["command"] if has_command else ()
    return Schedule(
        name=name,
        source=document.source,
        task=task,
        at=None if at is None else at.timestamp(),
        command=tuple(map(str, command)) if isinstance(command, (list, tuple)) else (),
        **{key: own[key] for key in TIMES if key in own and key != "at"},
    )


def _command_task(name: str, table: Mapping[str, object]) -> TaskParams:
    command = table["command"]
    return job_task(name, map(str, command) if isinstance(command, (list, tuple)) else [str(command)])


def job_task(name: str, command: Iterable[str]) -> TaskParams:
    """Returns the task for one run of a job, whose objective is its command line."""
    return TaskParams(objective=shlex.join(command)[:OBJECTIVE_CHARS], agent=name)


def _task(document: Document, path: KeyPath, own: Mapping[str, Any]) -> TaskParams:
    chosen = [key for key in RECEIVERS if key in own]
    if len(chosen) != 1:
        reason = (
            f"it contradicts {chosen[0]}: write one of them"
            if chosen
            else ('it is missing: write agent = "NAME", team, workflow or capability, or a command')
        )
        raise document.error((*path, chosen[-1] if chosen else "agent"), None, reason)
    retry = {key: own[key] for key in ("max_attempts", "retry_on") if key in own}
    if isinstance(retry.get("retry_on"), tuple):
        retry["retry_on"] = list(retry["retry_on"])
    given = ("objective", "input", "context", "priority", "session", "sticky_key")
    return TaskParams(
        **{"objective": "", **{key: own[key] for key in given if key in own}},
        agent=None if chosen[0] == "capability" else own[chosen[0]],
        capability=own.get("capability"),
        boundaries=Boundaries(timeout_s=own.get("timeout")),
        retry=Retry(**retry) if retry else None,
    )
