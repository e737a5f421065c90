"""Makes a sample of the load, as `corral top` shows it, of the answers of `daemon.status` and `statistics.show`.

Values in, values out: it asks nobody, and knows no terminal.
"""

from collections.abc import Callable, Mapping

from .. import render
from ..render import Record, inner, inners, number, word

KINDS = ("agents", "mcp_servers")
"""Keys of both answers under which agents and servers stand."""

FRAME = ("since", "uptime_s", "runtime", "process", "executor", "overhead")
"""Keys of `statistics.show` that a sample has as they are."""

COUNTS = ("total", "ok", "failed", "tool_calls", "p50_ms", "p99_ms")

Order = Callable[[Record], tuple[object, ...]]

ORDERS: Mapping[str, Order] = {
    "cpu": lambda row: (-(number(row, "cpu_percent") or 0), word(row, "name")),
    "memory": lambda row: (-(number(row, "memory_bytes") or 0), word(row, "name")),
    "tasks": lambda row: (*(-(number(row, key) or 0) for key in ("running", "queued", "total")), word(row, "name")),
    "name": lambda row: (word(row, "name"),),
}
"""Name of an order -> sort key; equal rows are sorted by name."""


def sample(status: Record, statistics: Record, order: Order, at: str) -> dict[str, object]:
    """Returns one sample, as `top --json` prints it; `at` is its time.

    In a cluster the processes are those of all nodes; `runtime`, `executor` and `overhead` are of the node that answers.
    """
    known = figures_of(statistics)
    rows = [row(entry, known.get(key_of(entry), {})) for entry in entries(status)]
    return {
        "at": at,
        "tasks": status.get("tasks"),
        **{key: statistics.get(key) for key in FRAME},
        "process": processes(statistics),
        "agents": sorted(rows, key=order),
    }


def key_of(entry: Record, name: str = "name") -> str:
    """Returns the name of an agent, or of its worker, in a cluster with its node: NAME@NODE."""
    node = word(entry, "node")
    return f"{word(entry, name)}@{node}" if node else word(entry, name)


def parts_of(key: str) -> tuple[str, dict[str, object]]:
    """Returns the name of a key, and the params that choose its node."""
    name, _, node = key.partition("@")
    return name, {"node": node} if node else {}


def entries(status: Record) -> list[dict[str, object]]:
    """Returns the agents and servers of a status."""
    return [entry for key in KINDS for entry in inners(status, key)]


def figures_of(statistics: Record) -> dict[str, dict[str, object]]:
    """Returns the figures of each agent and server by its name, in a cluster with its node as `key_of` writes it."""
    nodes: dict[str, Record] = {node: render.as_record(each) for node, each in inner(statistics, "nodes").items()}
    return {
        key_of({"name": name, "node": node}): render.as_record(found)
        for node, figures in (nodes or {"": statistics}).items()
        for key in KINDS
        for name, found in inner(figures, key).items()
    }


def processes(statistics: Record) -> dict[str, object]:
    """Returns the number, the memory and the processor time of the processes, of all nodes together."""
    parts = [inner(render.as_record(each), "process") for each in inner(statistics, "nodes").values()]
    own = inner(statistics, "process")
    return {key: sum(number(part, key) or 0 for part in parts or [own]) for key in own}


def _reason(worker: Record) -> str:
    return word(worker, "task_reason") or ("" if worker.get("pid") is not None else word(worker, "reason"))


def row(entry: Record, figures: Record) -> dict[str, object]:
    """Returns the row of one agent or server."""
    workers, executor = inners(entry, "workers"), inner(figures, "executor")
    present = [worker for worker in workers if worker.get("pid") is not None]
    active = inner(figures, "runtime").get("active") if figures else len(present)
    return {
        "name": word(entry, "name"),
        **({"node": entry["node"]} if entry.get("node") else {}),
        "kind": word(entry, "kind", "agent"),
        "state": word(entry, "state", "-"),
        "up": active,
        "workers": len(workers),
        "cpu_percent": round(sum(number(worker, "cpu_percent") or 0 for worker in present), 1),
        "memory_bytes": sum(int(number(worker, "rss_bytes") or 0) for worker in present),
        "running": sum(worker.get("state") == "Busy" for worker in workers),
        "queued": entry.get("queued", 0),
        "restarts": sum(int(number(worker, "restarts") or 0) for worker in workers),
        "renewals": sum(int(number(worker, "renewals") or 0) for worker in workers),
        **{key: executor.get(key) for key in COUNTS},
        "reason": next((found for worker in workers if (found := _reason(worker))), ""),
    }


def milliseconds(record: Record, key: str) -> str:
    """Formats a number of milliseconds: one decimal where it is small, else as a duration."""
    found = number(record, key)
    if found is not None and found < 9.95:
        return f"{found:.1f}ms"
    return render.duration(None if found is None else found / 1000)


def overhead_line(found: Record) -> str:
    """Returns the resident memory of corral's own processes, which the totals include."""
    words: list[str] = []
    for part, figures in inner(found, "overhead").items():
        active = number(render.as_record(figures), "active") or 0
        memory = render.size(number(render.as_record(figures), "memory_bytes"))
        if part == "zygotes":
            part = "1 zygote" if active == 1 else f"{active:.0f} zygotes"
        words.append(f"{part} {memory}")
    return f"corral itself (RSS, part of the totals): {', '.join(words)}"
