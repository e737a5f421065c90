"""Joins the answers of all nodes to one call, and what the engine adds: their lists as one, each entry with its node.

Pure. An entry without a node, `node` null, is of a task that waits on the engine.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from corral.worker.control.nodes import places_text
from corral.worker.control.reports import INBOX_RANKS

MILLISECOND_S = 0.001
"""Unit of the whole seconds in a record."""

PLACE = {"task.queued": 0, "task.ended": 2}
"""Where an event of one task stands, whatever the clocks of its nodes: one may begin before the other has told that it accepted the task."""

UNITED = frozenset(
    (
        "agent.list",
        "approval.list",
        "daemon.status",
        "event.list",
        "inbox.list",
        "log.read",
        "mcp.servers",
        "mcp.tools",
        "schedule.list",
        "statistics.show",
        "task.list",
        "team.list",
        "workflow.list",
    )
)
"""Methods that answer for all nodes unless a call names one."""


def united(method: str, answers: Mapping[str, object]) -> dict[str, object]:
    """Returns the answers of nodes, this one first, as one; "" is the node of what the engine adds.

    Statistics are those of this node, and those of each node under `nodes`.
    """
    if method == "statistics.show":
        figures = {node: plain(found) for node, found in answers.items()}
        return {**next(iter(figures.values()), {}), "nodes": figures}
    merged: dict[str, object] = {}
    for node, found in answers.items():
        for key, value in _tagged(found, node).items():
            present = merged.get(key)
            if key not in merged:
                merged[key] = value
            elif isinstance(present, list) and isinstance(value, list):
                merged[key] = [*present, *value]
            elif method == "daemon.status" and key == "tasks":
                merged[key] = _sums(present, value)
            elif key == "needs_you" and isinstance(present, int) and isinstance(value, int):
                merged[key] = present + value
            elif key == "daemon" and isinstance(present, dict) and "needs_you" in present and isinstance(value, dict):
                merged[key] = {**present, "needs_you": present["needs_you"] + value.get("needs_you", 0)}
    if method == "schedule.list":
        return {**merged, "schedules": _each_once(_dicts(merged.get("schedules")))}
    if method == "inbox.list":
        newest = sorted(_dicts(merged.get("items")), key=lambda each: str(each["at"]), reverse=True)
        return {**merged, "items": sorted(newest, key=lambda each: INBOX_RANKS.get(str(each["kind"]), 1))}
    if method == "event.list":
        return _events(answers)
    return _page(merged, answers) if method == "task.list" else merged


def _page(merged: dict[str, object], answers: Mapping[str, object]) -> dict[str, object]:
    """Returns a page of tasks, newest first, each once: none older than where the page of a node ends.

    The limit holds for each node. At the border of two pages a task of the same millisecond may be in both.
    """
    cursors = [str(each) for each in (plain(found).get("more") for found in answers.values()) if each]
    more = max(cursors, key=_created, default=None)
    newest: dict[object, dict[str, object]] = {}
    for each in _dicts(merged.get("tasks")):
        present = newest.get(each["id"])
        if present is None or present["state"] == "queued":  # it was given back, or begins now
            newest[each["id"]] = each
    found = sorted(newest.values(), key=lambda each: str(each["created_at"]), reverse=True)
    if more is not None:
        floor = _created(more) - MILLISECOND_S
        found = [each for each in found if datetime.fromisoformat(str(each["created_at"])).timestamp() >= floor]
    return {**merged, "tasks": found, "more": more}


def _events(answers: Mapping[str, object]) -> dict[str, object]:
    """Returns a page of events in the order of their times: none later than where the page of a node ends.

    The last page of a task on the engine has those that the nodes which answer do not have.
    """
    kept = _dicts(plain(answers.get("")).get("events"))
    pages = {node: plain(found) for node, found in answers.items() if node}
    events = {node: _dicts(_tagged(found, node).get("events")) for node, found in answers.items() if node}
    ends = [
        str(events[node][-1]["at"]) for node, page in pages.items() if page.get("next") is not None and events[node]
    ]
    horizon = min(ends, default=None)
    shown = {
        node: [each for each in found if horizon is None or str(each["at"]) <= horizon]
        for node, found in events.items()
    }
    newest = {node: str(page.get("newest")) for node, page in pages.items()}
    next_places = {
        node: str(shown[node][-1]["seq"])
        if shown[node]
        else str(int(str(found[0]["seq"])) - 1)
        if (found := events[node])
        else newest[node]
        for node in pages
    }
    is_more = any(page.get("next") is not None for page in pages.values())
    found = [each for some in shown.values() for each in some]
    if kept and not is_more:
        found += _missing(kept, found)
    return {
        "events": sorted(found, key=lambda each: (PLACE.get(str(each["type"]), 1) if kept else 1, str(each["at"]))),
        "next": places_text(next_places) if is_more else None,
        "newest": places_text(newest),
    }


def _missing(kept: list[dict[str, object]], found: list[dict[str, object]]) -> list[dict[str, object]]:
    """Returns those events of a task that no node has shown; one without a number is the only one of its type."""
    numbers = {(each["node"], each["seq"]) for each in found}
    types = {each["type"] for each in found}
    return [
        each
        for each in kept
        if ((each["node"], each["seq"]) not in numbers if each["seq"] else each["type"] not in types)
    ]


def runs_of_all(answers: Mapping[str, object], count_max: int) -> list[dict[str, object]]:
    """Returns the last runs in the answers of `schedule.show` of nodes, the newest first, each with its node."""
    runs = [run for node, found in answers.items() for run in _dicts(_tagged(found, node).get("recent"))]
    # One that waits has not begun: it is newer than all that have.
    return sorted(runs, key=lambda run: str(run.get("started_at") or "~"), reverse=True)[:count_max]


def greatest(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, object]:
    """Returns the values of two answers; of two numbers under one key the greater one."""
    found = {**one, **other}
    for key, count in one.items():
        value = found[key]
        if isinstance(count, int) and isinstance(value, int):
            found[key] = max(count, value)
    return found


def _each_once(schedules: list[dict[str, object]]) -> list[dict[str, object]]:
    """Returns the schedules with those that all nodes have once, of no node."""
    shared = {str(each["name"]): each for each in schedules if each.get("source") == "cluster"}
    own = [each for each in schedules if each.get("source") != "cluster"]
    return [*({**each, "node": None} for _, each in sorted(shared.items())), *own]


def _created(cursor: str) -> float:
    return float(cursor.partition(":")[0])


def _sums(present: object, value: object) -> object:
    """Returns two tables of counts as their sums."""
    if not isinstance(present, dict) or not isinstance(value, dict):
        return present
    return {key: count + value.get(key, 0) if isinstance(count, int) else count for key, count in present.items()}


def _tagged(found: object, node: str) -> dict[str, object]:
    """Returns a result as plain values, in which each object of a list has the name of its node."""
    return {
        str(key): [{**each, "node": node or None} if isinstance(each, dict) else each for each in value]
        if isinstance(value, list)
        else value
        for key, value in plain(found).items()
    }


def plain(found: object) -> dict[str, object]:
    """Returns a result as plain values."""
    plain = msgspec.json.decode(msgspec.json.encode(found))
    return plain if isinstance(plain, dict) else {}


def _dicts(found: object) -> list[dict[str, object]]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
