"""Formats `corral status`: the daemon, its agents and servers with their workers, teams and workflows.

Imports no library: see `status_fast`.
"""

from collections.abc import Iterable, Iterator, Mapping

from . import render
from .console import Session
from .fields import toml_text
from .render import Record, Table, duration, inner, inners, items, number, size, word

JOB_WORDS = {"running": "Running", "succeeded": "Done", "failed": "Failed"}
"""Words for the state of a job, whose workers are Starting while they run, and Terminated when they have ended."""

DOWN = frozenset({"Initial", "Starting", "ShuttingDown", "Terminated"})


def print_status(session: Session, found: Mapping[str, object], *, all_of_it: bool) -> None:
    """Prints the result of `daemon.status`; the counts of tasks only with `all_of_it`."""
    entries = inners(found, "agents") + inners(found, "mcp_servers")
    groups = inners(found, "teams") + inners(found, "workflows")
    if needs := int(number(inner(found, "daemon"), "needs_you") or 0):
        session.print(session.styled(f"needs you: {needs} (corral inbox)", "bold"))
    session.print(_daemon_line(session, inner(found, "daemon")))
    if not entries and (all_of_it or not groups):
        session.print('nothing to run: "corral add NAME -- COMMAND", or agents in the configuration')
    elif entries:
        print_entries(session, entries)
    if groups:
        print_groups(session, groups)
    if missing := items(found, "missing_nodes"):
        names = render.one_line(", ".join(map(str, missing)))
        session.print(session.styled(f"nodes without an answer: {names}", "red"))
    tasks = inner(found, "tasks")
    if all_of_it and tasks:
        counts = ", ".join(f"{render.one_line(str(v))} {render.one_line(k)}" for k, v in tasks.items())
        session.print(f"tasks: {counts}")


def _daemon_line(session: Session, daemon: Mapping[str, object]) -> str:
    parts = [f"corrald {word(daemon, 'version')}"]
    if daemon.get("pid") != 0:  # a tenant is not told of the daemon
        parts += [
            f"pid {word(daemon, 'pid', '-')}",
            f"up {duration(number(daemon, 'uptime_s'))}",
            f"containment {word(daemon, 'containment', '-')}",
        ]
    line = render.one_line(", ".join(parts))
    if daemon.get("draining"):
        line += ", " + session.styled("draining", "yellow")
    if degraded := items(daemon, "degraded"):
        problem = f"cluster ({word(daemon, 'cluster_problem')})" if daemon.get("cluster_problem") else "cluster"
        words = render.one_line(", ".join(problem if each == "cluster" else str(each) for each in degraded))
        line += ", " + session.styled(f"degraded: {words}", "red")
    if failed := number(inner(daemon, "alerts"), "failed"):
        line += ", " + session.styled(f"{failed:.0f} alerts could not be delivered", "yellow")
    return line


HEADER: tuple[str, ...] = (
    *("NAME", "KIND", "STATE", "PID", "UPTIME", "RESTARTS", "RENEWALS"),
    *("RSS", "CPU", "TASK/REASON"),
)
RENEWALS_AT = HEADER.index("RENEWALS")
NO_RENEWALS = ("", "0", "-")


def print_entries(session: Session, entries: Iterable[Mapping[str, object]]) -> None:
    """Prints agents and servers with their workers, as a table."""
    entries = list(entries)
    rows = [row for entry in entries for row in _rows(session, entry)]
    header = HEADER
    if all(row[RENEWALS_AT] in NO_RENEWALS for row in rows):  # as of most daemons: no column
        header = HEADER[:RENEWALS_AT] + HEADER[RENEWALS_AT + 1 :]
        rows = [row[:RENEWALS_AT] + row[RENEWALS_AT + 1 :] for row in rows]
    if any("node" in entry for entry in entries):  # as of a cluster
        nodes = [word(e, "node", "-") for e in entries for _ in _rows(session, e)]
        header = (header[0], "NODE", *header[1:])
        rows = [[row[0], node, *row[1:]] for row, node in zip(rows, nodes, strict=True)]
    session.print_table(
        header,
        rows,
        droppable=("RENEWALS", "KIND", "CPU", "RSS", "RESTARTS", "UPTIME", "PID"),
        right=("PID", "UPTIME", "RESTARTS", "RENEWALS", "RSS", "CPU"),
    )


def _rows(session: Session, entry: Mapping[str, object]) -> Iterator[list[str]]:
    """Yields one line for an agent of one worker; for others, and with autoscaling, one for the whole and one per worker."""
    name, kind = word(entry, "name"), word(entry, "kind", "agent")
    state = JOB_WORDS.get(word(entry, "job"), word(entry, "state", "-"))
    kind = "job" if word(entry, "type") == "oneshot" else kind
    workers = inners(entry, "workers")
    between = inner(entry, "instances")
    if len(workers) == 1 and not between:
        yield [name, kind, *_cells(session, entry, workers[0])]
        return
    reason = f"{len(workers)} workers" if workers else "scaled to 0"
    if workers and between:
        reason = f"{len(workers)} of {word(between, 'min')} to {word(between, 'max')} workers"
    if workers and entry.get("degraded"):
        reason += ", degraded"
    if (revision := entry.get("overridden")) is not None:
        reason += f", set by revision {revision}"
    shown = " ".join(_exit_words(inner(worker, "last_exit")) for worker in workers)
    reason = ", ".join(filter(None, (reason, _warmth(entry, shown), _change(entry), _changed_tools(entry))))
    counts = [
        str(sum(int(number(worker, key) or 0) for worker in workers)) if workers else ""
        for key in ("restarts", "renewals")
    ]
    yield [name, kind, state, "", "", *counts, "", "", reason]
    for worker in workers:
        yield [f"  {word(worker, 'id')}", kind, *_cells(session, entry, worker)]


def _shown_state(entry: Mapping[str, object], worker: Mapping[str, object]) -> str:
    """Returns the state of a worker in a word: Failed where it ended by itself and stays down, Running and Done for jobs."""
    state, is_job = word(worker, "state", "-"), word(entry, "type") == "oneshot"
    if is_job and worker.get("done"):
        return "Done"
    if render.has_failed(worker):  # a job that has exited with status 0 and is no longer done was stopped since
        return "Failed"
    return "Running" if is_job and state == "Starting" and worker.get("pid") is not None else state


def _cells(session: Session, entry: Mapping[str, object], worker: Mapping[str, object]) -> list[str]:
    state = word(worker, "state", "-")
    is_alive = worker.get("pid") is not None
    cpu = number(worker, "cpu_percent")
    return [
        _shown_state(entry, worker),
        word(worker, "pid", "-"),
        duration(number(worker, "uptime_s")) if is_alive else "-",
        word(worker, "restarts", "-"),
        word(worker, "renewals", "-"),
        size(number(worker, "rss_bytes") or None) if is_alive else "-",  # 0 is not measured yet
        f"{cpu:.0f}%" if is_alive and cpu is not None else "-",
        _reason(session, entry, worker, state),
    ]


def _reason(session: Session, entry: Mapping[str, object], worker: Mapping[str, object], state: str) -> str:
    """Returns the last column: the task of a busy worker and what it waits for, or the reason why another one is not up."""
    parts: list[str] = []
    if worker.get("paused"):
        parts.append("paused")
    if worker.get("throttled"):
        parts.append("throttled")
    if task := word(worker, "task"):
        parts += filter(None, (task, word(worker, "task_reason")))
    if worker.get("done"):
        parts.append(f"succeeded {session.at(word(inner(worker, 'last_exit'), 'at'))}")
    elif _shown_state(entry, worker) == "Running":
        pass
    elif state in DOWN:
        parts += _why_down(entry, worker, state)
    elif entry.get("degraded"):
        parts += _why_degraded(worker)
    if lost := number(worker, "log_lost_lines"):
        parts.append(f"{lost:.0f} log lines lost")
    if trouble := word(worker, "log_trouble"):
        parts.append(f"cannot write its log: {trouble}")
    if len(items(entry, "workers")) == 1 and (warmth := _warmth(entry, ": ".join(parts))):
        parts.append(warmth)
    if len(items(entry, "workers")) == 1 and (revision := entry.get("overridden")) is not None:
        parts.append(f"set by revision {revision}")
    if len(items(entry, "workers")) == 1 and (change := _change(entry)):
        parts.append(change)
    if len(items(entry, "workers")) == 1 and (changed := _changed_tools(entry)):
        parts.append(changed)
    if not parts and (tools := items(entry, "tools")):
        parts.append(f"{len(tools)} tools")
    return ": ".join(parts)


def _warmth(entry: Mapping[str, object], shown: str) -> str:
    """Returns how the workers of a warm agent deviate from starting as forks; empty if they do not.

    A reason that is shown already is not repeated: an import that fails, fails in the worker too.
    """
    warm = inner(entry, "warm")
    state, reason = word(warm, "state"), word(warm, "reason")
    if state == "cold" and reason.partition(": ")[2] in shown:
        return ""
    if state == "cold":
        return f"starts cold: {reason}"
    if state in ("loading", "renewing"):
        return f"{state} its zygote"
    return f"not renewed: {reason}" if reason else ""


def _change(entry: Mapping[str, object]) -> str:
    """Returns the change of workers that is under way, or why the last one was taken back; empty if there is none."""
    if rolling := inner(entry, "rolling"):
        ready, left = int(number(rolling, "ready") or 0), int(number(rolling, "left") or 0)
        between = f" {word(rolling, 'from', '-')} to {word(rolling, 'to')}" if word(rolling, "to") else ""
        return f"rolls{between}, {ready} of {ready + left} ready: {word(rolling, 'reason')}"
    last = inner(entry, "taken_back")
    if not last:
        return ""
    return " ".join(filter(None, ("change", word(last, "revision"), f"was taken back: {word(last, 'reason')}")))


def _changed_tools(entry: Mapping[str, object]) -> str:
    """Returns how many tools of a server are not as they were accepted; empty if all are."""
    about = inner(entry, "mcp")
    if not (changed := items(about, "changed")):
        return ""
    tools = "1 tool has" if len(changed) == 1 else f"{len(changed)} tools have"
    held = ", held" if about.get("held") else ""
    return f"{tools} changed{held}: corral mcp diff {word(entry, 'name')}"


def _why_degraded(worker: Mapping[str, object]) -> Iterator[str]:
    """Yields the health checks of a worker that have degraded its agent, with their messages."""
    for check in inners(worker, "health"):
        if check.get("degraded"):
            yield f"degraded: {word(check, 'name')}: {word(check, 'message')}"


def _why_down(entry: Mapping[str, object], worker: Mapping[str, object], state: str) -> Iterator[str]:
    """Yields the time of the next start and the last exit of a worker, without repetition."""
    ended = _exit_words(inner(worker, "last_exit"))
    reason = word(worker, "reason")
    next_start_s = number(worker, "next_start_in_s")
    if next_start_s is not None:
        yield f"next start in {duration(next_start_s)}"
    elif entry.get("wanted") is False and state == "Initial":
        at_first = "call" if entry.get("kind") == "mcp" else "connection"
        waits = entry.get("kind") == "mcp" or any(_is_on_demand(e) for e in inners(entry, "listen"))
        yield f"starts at its first {at_first}" if waits else "not started"
    if reason and reason not in ended:
        yield reason
    if ended:
        yield ended


def _is_on_demand(listen: Mapping[str, object]) -> bool:
    return listen.get("state") == "on-demand"


def _exit_words(last_exit: Mapping[str, object]) -> str:
    result = word(last_exit, "result")
    if not result:
        return ""
    message = word(last_exit, "message")
    return message if result in message else ": ".join(filter(None, (result, message)))


SHORT = 60
"""Number of characters of a text in a table."""


def print_groups(session: Session, records: Iterable[Record]) -> None:
    """Prints teams and workflows, one line each."""
    session.print_records(records, GROUPS)


def _mode(record: Record) -> str:
    return "steps" if word(record, "kind") == "workflow" else word(record, "mode")


def _members(record: Record) -> str:
    if word(record, "kind") == "workflow":
        return ", ".join(map(str, items(record, "steps")))
    members = ", ".join(map(str, items(record, "members")))
    return f"{record['lead']}: {members}" if record.get("lead") else members


GROUPS = Table(
    "NAME KIND RUNNING MODE MEMBERS",
    right="RUNNING",
    running=lambda record: word(record, "running", "0"),
    mode=_mode,
    members=_members,
)


def print_group(session: Session, found: Record) -> None:
    """Prints a team or a workflow in full: the result of `team.show`, `workflow.show`, or `agent.show` for either."""
    spec = inner(found, "spec")
    for kind in ("team", "workflow"):
        if kind in found:
            print_groups(session, [inner(found, kind)])
            print_service(session, inner(found, kind))
            if (revision := inner(found, kind).get("overridden")) is not None:
                session.print(f"set by revision {revision}, not as in the file")
    for key, value in spec.items():
        if key != "steps" and value is not None:
            session.print_line(f"{key} = {toml_text(value)}")
    if steps := inners(spec, "steps"):
        session.print("")
        session.print_records(steps, STEPS)


def print_service(session: Session, entry: Record) -> None:
    """Prints where an agent, team or workflow is served over HTTP, if it is."""
    if service := inner(entry, "service"):
        place = word(service, "url") or f"{word(service, 'address')}: {word(service, 'reason')}"
        by = ", by corral expose" if service.get("exposed") else ""
        session.print_line(f"HTTP {word(service, 'state')} at {place}{by}")


def print_listen(session: Session, entry: Record) -> None:
    """Prints the addresses at which the daemon listens for an agent."""
    for each in inners(entry, "listen"):
        place = word(each, "bound") or word(each, "address")
        name = word(each, "name")
        named = f" ({name})" if name and name != entry.get("name") else ""
        reason = f": {word(each, 'reason')}" if word(each, "reason") else ""
        session.print_line(f"listen {word(each, 'state')} at {place}{named}{reason}")


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT - 4]} ..."


def _for_each(step: Record) -> str:
    each = step.get("for_each")
    return _short(each if isinstance(each, str) else "" if each is None else toml_text(each))


STEPS = Table(
    "STEP=name AGENT AFTER WHEN FOR_EACH ON_FAILURE OBJECTIVE",
    drop="ON_FAILURE FOR_EACH WHEN",
    agent=lambda step: word(step, "agent") or f"capability {word(step, 'capability')}",
    after=lambda step: ", ".join(map(str, items(step, "after"))),
    when=lambda step: _short(word(step, "when")),
    for_each=_for_each,
    on_failure=lambda step: word(step, "on_failure", "fail"),
    objective=lambda step: _short(word(step, "objective")),
)
