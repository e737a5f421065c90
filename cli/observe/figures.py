"""Implements the commands that show figures: `metrics`, `stats`, `quota`, `cost`, and the states of `models` and `stores`."""

import time
from collections.abc import Sequence
from typing import Any

import click

from .. import render
from ..context import (
    Session,
    between,
    command,
    complete_agents,
    duration,
    given,
    listing,
    moment,
    option,
    selecting,
    selection,
)
from ..render import Record, Table, inner, inners, number, word
from ..screen.samples import KINDS, milliseconds, overhead_line

RANKINGS = ("best", "worst", "slowest", "expensive")

ROWS = 24
"""Number of rows of the table, where no step is asked for."""


def _share(point: Record) -> str:
    rate = number(point, "error_rate")
    return "-" if rate is None else f"{rate:.1%}"


def _figures(columns: str, drop: str) -> Table:
    """Returns a table of points; all columns but those of texts have figures."""
    headings = (column.partition("=")[0] for column in columns.split())
    return Table(
        columns,
        drop=drop,
        right=" ".join(heading for heading in headings if heading not in ("TIME", "NAME", "TENANT", "")),
        rate=lambda point: f"{number(point, 'executions_per_minute') or 0:.4g}",
        errors=_share,
        p50=lambda point: milliseconds(point, "p50_ms"),
        p99=lambda point: milliseconds(point, "p99_ms"),
        average=lambda point: milliseconds(point, "average_ms"),
        cpu=lambda point: f"{number(point, 'cpu_percent') or 0:.1f}",
        cents=lambda point: f"{number(point, 'cost_cents') or 0:.6g}",
    )


POINT = (
    "RUN/MIN=rate DONE=executed FAILED ERRORS P50 P99 CPU%=cpu MEMORY=memory_bytes RUNNING QUEUED CALLS=tool_calls "
    "TOKENS CENTS RESTARTS"
)
TOTAL = "DONE=executed FAILED ERRORS AVERAGE TOKENS CENTS"
NARROW = "CENTS TOKENS CALLS RESTARTS DONE QUEUED P50 RUNNING"
POINTS = _figures(f"TIME=at {POINT}", NARROW)
PRESENT = _figures(f"NAME HEALTH=health_score {POINT}", NARROW)
RANKED = _figures(f"=ranking NAME HEALTH=health_score {TOTAL}", "CENTS TOKENS")
TENANTS = _figures(f"TENANT=name AGENTS {TOTAL}", "CENTS TOKENS")

BARS = "▁▂▃▄▅▆▇█"

SPARKS = (
    ("runs/min", "executions_per_minute", ""),
    ("failed", "failed", ""),
    ("p99", "p99_ms", "ms"),
    ("cpu", "cpu_percent", "%"),
    ("memory", "memory_bytes", "bytes"),
    ("queued", "queued_peak", ""),
)
"""Label, key and unit of each line of bars."""


@command("metrics")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_agents)
@option("--since T", "Begin here; default 1h ago.", default="1h")
@option("--until T", "End here; default now.")
@option("--step D", "Time between two rows.", type=duration)
@option("--top", "Rank agents, and name problems.")
@option("--now", "Show the last minute of each agent.", "latest")
def metrics(session: Session, /, **options: Any) -> None:  # Any: the values of the options above
    """Show what an agent or the daemon did over time."""
    now = time.time()
    name: str | None = options["name"]
    if options["top"] and options["latest"]:
        raise click.UsageError("--top and --now exclude each other")
    since = moment(options["since"], "--since", now)
    if options["latest"]:
        _show_latest(session, {} if name is None else {"names": [name]})
        return
    params: dict[str, object] = {"since": since}
    if options["top"]:
        _show_top(session, {**params, **({} if name is None else {"names": [name]})})
        return
    if name is not None:
        params["agent"] = name
    if options["until"] is not None:
        params["until"] = moment(options["until"], "--until", now)
    if options["step"] is not None:
        params["step_s"] = options["step"]
    elif not session.json:  # as many rows as a screen has
        length_s = float(str(params.get("until", now))) - since
        params["step_s"] = max(1.0, length_s / ROWS)
    _show_history(session, session.call("metrics.history", params))


def _show_history(session: Session, document: Record) -> None:
    if session.printed_json(document):
        return
    points = inners(document, "points")
    if not points:
        session.print("no metrics of this time")
        return
    session.print_records(points, POINTS)
    step_s = number(document, "step_s") or 1.0
    for label, key, unit in SPARKS:
        values = _on_axis(points, key, step_s)
        known = [each for each in values if each is not None]
        if any(known):
            ends = f"{_amount(min(known), unit)} to {_amount(max(known), unit)}"
            session.print(f"{label:>9} {_bars(values)} {ends}")


def _on_axis(points: Sequence[Record], key: str, step_s: float) -> list[float | None]:
    """Returns the values of a key, one for each step; None for a step without a point."""
    from datetime import datetime  # noqa: PLC0415 - start-up time: only for this command

    places = [datetime.fromisoformat(word(each, "at")).timestamp() for each in points]
    count = round((places[-1] - places[0]) / step_s) + 1
    values: list[float | None] = [None] * count
    for place, point in zip(places, points, strict=True):
        values[min(count - 1, round((place - places[0]) / step_s))] = number(point, key)
    return values


def _bars(values: list[float | None]) -> str:
    """Returns a line of bars from 0 to the highest value; a step without a value is blank."""
    highest = max((each for each in values if each is not None), default=0.0) or 1.0
    return "".join(
        " " if each is None else BARS[min(len(BARS) - 1, int(each / highest * len(BARS)))] for each in values
    )


def _amount(value: float, unit: str) -> str:
    return render.size(value) if unit == "bytes" else f"{value:.4g}{unit}"


def _show_latest(session: Session, params: Record) -> None:
    document = session.call("metrics.latest", dict(params))
    if session.printed_json(document):
        return
    if document.get("enabled") is not True:
        session.print("metrics are off: enable_metrics = false")
        return
    daemon = inner(document, "daemon")
    found = [*inners(document, "agents"), *inners(document, "mcp_servers"), *([daemon] if daemon else [])]
    session.print_records([{**inner(each, "last_minute"), **_named(each, "(all)")} for each in found], PRESENT)


def _show_top(session: Session, params: Record) -> None:
    document = session.call("metrics.top", dict(params))
    if session.printed_json(document):
        return
    ranked = [
        {**inner(each, "total"), **_named(each, ""), "ranking": "" if place else kind}
        for kind in RANKINGS
        for place, each in enumerate(inners(document, kind))
    ]
    if not ranked:
        session.print("nothing ran in this time")
        return
    session.print_records(ranked, RANKED)
    if tenants := inners(document, "tenants"):
        session.print_records([{**inner(each, "total"), **_named(each, "(owner)")} for each in tenants], TENANTS)
    for each in inners(document, "problems"):
        reasons = "; ".join(str(reason) for reason in render.items(each, "reasons"))
        session.print(f"problem: {word(each, 'name')}: {reasons}")


def _named(found: Record, nameless: str) -> dict[str, object]:
    """Returns what stands beside the figures of an agent, a server or a tenant."""
    return {
        "name": word(found, "name", nameless),
        "health_score": found.get("health_score"),
        "agents": found.get("agents"),
    }


GROUPS = (*KINDS, "teams", "workflows")

STATISTICS = Table(
    "NAME UP=runtime.active SPAWNED=runtime.spawned TASKS=executor.total OK=executor.ok FAILED=executor.failed "
    "CANCELLED=executor.cancelled CALLS=executor.tool_calls CALLS/MIN=executor.tool_calls_last_minute "
    "AVERAGE P50 P99 MEMORY=process.memory_bytes CPU",
    drop="CANCELLED AVERAGE SPAWNED UP CPU P50 CALLS/MIN CALLS",
    right="UP SPAWNED TASKS OK FAILED CANCELLED CALLS CALLS/MIN AVERAGE P50 P99 MEMORY CPU",
    average=lambda found: milliseconds(inner(found, "executor"), "average_ms"),
    p50=lambda found: milliseconds(inner(found, "executor"), "p50_ms"),
    p99=lambda found: milliseconds(inner(found, "executor"), "p99_ms"),
    cpu=lambda found: milliseconds(inner(found, "process"), "cpu_ms"),
)


@command("stats")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@selecting
def stats(session: Session, names: tuple[str, ...], selector: tuple[str, ...]) -> None:
    """Show numbers of tasks and tool calls since the start."""
    document = session.call("statistics.show", selection(names, selector))
    if session.printed_json(document):
        return
    named = [
        {**render.as_record(found), "name": name} for group in GROUPS for name, found in inner(document, group).items()
    ]
    lifetime = render.duration(number(document, "uptime_s"))
    session.print(f"since {session.at(word(document, 'since'))}, {lifetime} ago")
    session.print_records([*named, {**document, "name": "(all)"}], STATISTICS)
    session.print(overhead_line(document))


@command("quota")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_agents)
@selecting
def quota(session: Session, names: tuple[str, ...], selector: tuple[str, ...]) -> None:
    """Show limits and what is used of each.

    These are the limits of queues, calls, tokens and cost that the daemon holds; those of
    processes are in status. A limit that is off is left out. REFUSED counts since the start
    of the daemon. The limits of a tenant, whose name ends with a slash, stand before those
    of its agents.
    """
    document = session.call("quota.list", selection(names, selector))
    if not session.printed_json(document):
        session.print_records(inners(document, "quotas"), QUOTAS)


def _quota_amount(found: Record, key: str) -> str:
    value = number(found, key)
    return render.size(value) if word(found, "key").endswith("_bytes") else f"{value or 0:.12g}"


QUOTAS = Table(
    "NAME LIMIT=key VALUE USED WINDOW=window_s REFUSED",
    drop="WINDOW REFUSED",
    right="VALUE USED WINDOW REFUSED",
    name=lambda found: f"{word(found, 'tenant')}/" if found.get("tenant") else word(found, "name", "(all)"),
    value=lambda found: _quota_amount(found, "limit"),
    used=lambda found: _quota_amount(found, "used"),
)


COST_GROUPS = ("agent", "session", "day", "hour", "tenant")


@command(
    "cost",
    epilog="""\b
Examples:
  corral cost --since 24h
  corral cost --by day --agent crawler
  corral cost --by session --since 1h --json
""",
)
@option(
    "--by",
    "Sum by this; days and hours are of UTC.",
    type=click.Choice(COST_GROUPS),
    default="agent",
    show_default=True,
)
@option("--since T", "Count only tasks that ended since: 24h (ago), or a time.")
@option("--until T", "Count only tasks that ended before this.")
@option("--agent NAME", "Count only this agent.", shell_complete=complete_agents)
def cost(session: Session, by: str, since: str | None, until: str | None, agent: str | None) -> None:
    """Show tokens, cents and processor time of ended tasks.

    Tokens and cents are what agents have reported. Sums stay when an agent is removed.
    """
    document = session.call("cost.list", given(by=by, agent=agent) | between(since, until))
    if session.printed_json(document):
        return
    costs = inners(document, "costs")
    if not costs:
        session.note("no task has ended in this time")
        return
    first = ("AGENT", "SESSION") if by == "session" else ("FROM",) if by in ("day", "hour") else (by.upper(),)
    header = (*first, "TASKS", "FAILED", "TOKENS", "CENTS", "CPU")
    rows = [[*_cost_names(by, each), *_cost_figures(each)] for each in costs]
    total = inner(document, "total")
    if len(costs) > 1:
        rows.append(["(all)", *[""] * (len(first) - 1), *_cost_figures(total)])
    session.print_table(header, rows, droppable=("FAILED", "CPU"), right=header[len(first) :])


def _cost_names(by: str, found: Record) -> list[str]:
    if by == "session":
        return [word(found, "name"), word(found, "session", "-")]
    if by in ("day", "hour"):
        at = word(found, "at")
        return [at[:10] if by == "day" else f"{at[:13]}h".replace("T", " ")]
    return [word(found, "name", "-")]


def _cost_figures(found: Record) -> list[str]:
    return [
        word(found, "tasks"),
        word(found, "failed"),
        word(found, "tokens"),
        f"{number(found, 'cost_cents') or 0:.12g}",
        render.duration((number(found, "cpu_ms") or 0) / 1000),
    ]


MODELS = Table(
    "NAME KIND STATE CALLS=calls_today FAILED=calls_failed_today ESTIMATED=calls_estimated_today TOKENS=tokens_today "
    "CENTS=cost_cents_today USED_BY URL REASON",
    drop="URL FAILED ESTIMATED",
    cost_cents_today=lambda record: f"{number(record, 'cost_cents_today'):.2f}",
)


NO_MODELS = "there are no models; declare one with [models.NAME] in the configuration"
ABOUT_MODELS = "List models, their agents, and today's tokens and cost."
models = listing("models", "models.list", "models", NO_MODELS, MODELS, text=ABOUT_MODELS)

STORES = Table("NAME KIND STATE URL USED_BY REASON", drop="URL")
NO_STORES = "there are no stores; declare one with [stores.NAME] in the configuration"
stores = listing("stores", "store.list", "stores", NO_STORES, STORES, text="List stores and the agents that use them.")
