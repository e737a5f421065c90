"""What corral's figures are to be: each aim a row of a benchmark's report against a limit, as data.

A limit is a number, or a multiple of another row of the same report (and something more). A ratio is the median of those that were
made within a round, where the report has them; else it is made of the medians. Nothing here measures.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Report = Mapping[str, Any]  # Any: JSON, as `bench.report` writes it


@dataclass(frozen=True)
class Aim:
    """One line of the table.

    Rows are patterns, since the names of some hold a size; of several that match, the last counts. `a + b` is a sum.
    """

    what: str
    part: str
    """The benchmark in whose report the rows are."""
    row: str
    op: Literal["<=", ">="]
    limit: float
    """In the unit of the row; with `of` a multiple of that row."""
    of: str | None = None
    than: str = ""
    """What `of` is, for people."""
    more: float = 0.0
    """Beyond the multiple, in the unit of the row."""
    statistic: Literal["median", "p99"] = "median"

    def judged(self, reports: Mapping[str, Report], missing: Mapping[str, str]) -> dict[str, Any]:
        """The line as JSON: measured, limit, unit and `met`, which is None with a `reason` where nothing was measured."""
        line: dict[str, Any] = {
            "what": self.what,
            "part": self.part,
            "row": self.row,
            "op": self.op,
            "aim": self.words(),
        }
        report = reports.get(self.part)
        if report is None:
            why = missing.get(self.part, "was not run")
            return line | {"met": None, "reason": f"{self.part}.py {why}"}
        found = self._found(report, self.row)
        base = [] if self.of is None else self._found(report, self.of)
        for rows, name in ((found, self.row), (base, self.of)):
            if name is not None and not rows:
                return line | {"met": None, "reason": _skipped(report, name)}
        measured, unit = _sum(found, self.statistic)
        if measured is None:
            return line | {"met": None, "reason": "too few values for a p99"}
        limit = self.limit
        if base:
            is_direct = [row["against"] for row in found] == [row["name"] for row in base]
            if is_direct and not self.more and self.statistic == "median":
                measured, unit = found[0]["ratio"]["median"], "times"
            else:
                under, _ = _sum(base, self.statistic)
                if under is None:
                    return line | {"met": None, "reason": "too few values for a p99"}
                if self.more:
                    limit = limit * under + self.more
                else:
                    measured, unit = measured / under, "times"
        met = measured <= limit if self.op == "<=" else measured >= limit
        return line | {"measured": measured, "limit": limit, "unit": unit, "met": met}

    def words(self) -> str:
        """The limit for people."""
        sign = "≤" if self.op == "<=" else "≥"
        if self.of is None:
            return f"{sign} {self.limit:g}"
        more = f" + {self.more:g}" if self.more else ""
        p99 = " (p99)" if self.statistic == "p99" else ""
        return f"{sign} {self.limit:g} times {self.than}{more}{p99}"

    @staticmethod
    def _found(report: Report, names: str) -> list[Mapping[str, Any]]:
        """The rows that are meant, or none if one of them is not there."""
        found: list[Mapping[str, Any]] = []
        for name in names.split(" + "):
            rows = [row for row in report["rows"] if re.fullmatch(name, row["name"])]
            if not rows:
                return []
            found.append(rows[-1])
        return found


def _sum(rows: Iterable[Mapping[str, Any]], statistic: str) -> tuple[float | None, str]:
    total, unit = 0.0, ""
    for row in rows:
        if row[statistic] is None:
            return None, ""
        total, unit = total + row[statistic], row["unit"]
    return total, unit


def _skipped(report: Report, name: str) -> str:
    """Why a row is not there: the report's own words where it has some."""
    word = re.split(r"[^a-z0-9]", name)[0]
    told = [note for note in report.get("notes", ()) if note.startswith(f"{word}: ")]
    return told[0] if told else f"no row {name}"


@dataclass(frozen=True)
class Figure:
    """A row of a benchmark's report that the page shows, though nothing in particular is aimed at."""

    what: str
    part: str
    row: str
    """A pattern, as that of an aim; of several rows that match, the last counts."""

    def found(self, report: Report | None) -> Mapping[str, Any] | None:
        """The row of a report, or None where it is not there."""
        rows = [] if report is None else [row for row in report["rows"] if re.fullmatch(self.row, row["name"])]
        return rows[-1] if rows else None


PEERS = ("supervisord", "circus", "pm2")

AIMS = [
    Aim("1,000 none-workers, start to the last main()", "workers", "start", "<=", 2.5, "least_start", "C", 300.0),
    *(
        Aim(f"the start beside {peer}'s", "supervisors", f"{peer}_start", ">=", 4.0, "corral_start", "ours")
        for peer in PEERS
    ),
    Aim("the start beside s6's", "supervisors", "s6_start", ">=", 1.0, "corral_start", "ours"),
    Aim("stop of 1,000, everything gone, corrald included", "workers", "end", "<=", 500.0),
    Aim("kill -9 to the replacement's main()", "workers", "restart", "<=", 2.0, "least_restart", "C"),
    Aim("the same, the slowest of a hundred", "workers", "restart", "<=", 4.0, "least_restart", "C", statistic="p99"),
    Aim("PSS of corrald and launcher, no worker", "workers", "pss_none", "<=", 36.0),
    Aim(
        "the same over the daemon's imports bare",
        "start",
        "pss_daemon_empty + pss_launcher_empty",
        "<=",
        1.0,
        "pss_imports",
        "the imports",
        8.0,
    ),
    Aim("PSS more per worker", "workers", "pss_daemon_each + pss_launcher_each", "<=", 6.0),
    Aim("idle CPU, 1,000 none-workers", "workers", "idle", "<=", 0.2),
    Aim("CPU of 1,000 SDK heartbeats a second, each sampled once", "idle", "beating", "<=", 4.0),
    *(
        aim
        for words, count in (("one", 1), ("fifty", 50))
        for aim in (
            Aim(
                f"logs of {words}, beside a C copy",
                "logs",
                rf"corral_\d+_{count}",
                ">=",
                0.4,
                rf"copier_\d+_{count}",
                "C",
            ),
            Aim(
                f"logs of {words}, beside s6-log with times",
                "logs",
                rf"corral_\d+_{count}",
                ">=",
                2.0,
                rf"s6_stamped_\d+_{count}",
                "s6-log",
            ),
        )
    ),
    Aim("`status` of 1,000 over the socket", "workers", "rpc_status", "<=", 2.0),
    Aim("`corral status` of 1,000, the whole process", "workers", "cli_status", "<=", 60.0),
    *(
        aim
        for name, words in (("ping", "a call that the SDK answers"), ("task", "a call of a handler"))
        for aim in (
            Aim(
                f"{words}, over the socket-free path",
                "rpc",
                f"{name}_us",
                "<=",
                1.0,
                f"{name}_free",
                "socket-free",
                20.0,
            ),
            Aim(f"{words}, 64 at once", "rpc", f"{name}_rate", ">=", 150_000.0),
        )
    ),
    *(
        aim
        for name in ("pydantic_ai", "langgraph", "mcp")
        for aim in (
            Aim(f"{name}: a fork until Ready", "warm", f"{name}_fork", "<=", 10.0),
            Aim(f"{name}: a spare until Ready", "warm", f"{name}_spare", "<=", 2.0),
            Aim(f"{name}: a cold start beside a fork", "warm", f"{name}_cold", ">=", 50.0, f"{name}_fork", "a fork"),
            Aim(
                f"{name}: memory of 50 beside cold ones",
                "warm",
                f"{name}_pss",
                "<=",
                0.3,
                f"{name}_cold_pss",
                "cold ones",
            ),
        )
    ),
    Aim("an empty task, not durable", "tasks", "wide_loose_one_ms", "<=", 0.3),
    Aim("an empty task, durable", "tasks", "wide_durable_one_ms", "<=", 3.0, "fsync", "fsync", 1.0),
    Aim("steps that are done once, a second", "steps", "many", ">=", 5000.0),
    Aim("the same beside DBOS on SQLite", "steps", "many", ">=", 5.0, "dbos_many", "DBOS"),
    Aim("a step answered from the record", "steps", "again", "<=", 20.0),
    Aim("empty tasks a second, not durable", "tasks", "wide_loose_rate", ">=", 10_000.0),
    Aim("empty tasks a second, durable", "tasks", "wide_durable_rate", ">=", 4_000.0),
]

FIGURES = [
    Figure("daemon to READY, no agent, beside `python -c pass`", "start", "ready_empty"),
    Figure("`corral status`, beside `python -c pass`", "start", "status"),
    Figure("an empty durable task, beside a process pool's", "tasks", "wide_durable_one_ms"),
    Figure("the same in a store with a million records, beside a thousand", "million", "run"),
    Figure("an empty task during a backup, beside one alone", "backup", "run"),
    Figure("a turn after 100 remembered messages", "memory", "remembered_100"),
    Figure("the same, rebuilt turn by turn", "memory", "rebuilt_100"),
    Figure("a tool call by `corral mcp serve`, beside the least client's", "mcp", "serve_us"),
    Figure("FastMCP's proxy beside that", "mcp", "fastmcp_us"),
    Figure("a tool call by HTTP, beside the least client's", "mcp", "http_us"),
    Figure("mcp-proxy beside that", "mcp", "mcp_proxy_us"),
    Figure("memory of 10 editor sessions, beside private copies", "sessions", "corral_10"),
    Figure("memory of 30 LangGraph agents with shared imports, beside their own", "frameworks", "shared_mb"),
    Figure("deployment from a warm cache, beside venv and pip", "deploy", "fresh_ms"),
    Figure("a cold start in `strict`, beside `none`", "isolation", "strict"),
    Figure("the same in a container by runc", "isolation", "runc"),
    Figure("PSS of the daemon without tenants", "tenants", "empty"),
    Figure("the same with 1,000 tenants, a hibernated agent each", "tenants", "memory"),
    Figure("a hibernated agent woken", "tenants", "start"),
    Figure("`daemon.status` of 1,000 over HTTP, beside the socket", "http_api", "http_status"),
    Figure("an empty task over HTTP, beside the socket", "http_api", "http_run"),
    Figure("an event to the screen of the dashboard", "dashboard", "pixel"),
    Figure("processor share of 100 watched workers, beside unwatched ones", "sampler", "cpu_watched"),
    Figure("processor time of a task with metrics, beside without", "metrics", "task on"),
    Figure("a streamed part, from handler to reader", "streaming", "alone_us"),
    Figure("a model's call through the gateway, beside a direct one", "models", "gateway_us"),
    Figure("the first byte of its stream, likewise", "models", "gateway_first_us"),
    Figure("processor time of a task with traces, beside without", "telemetry", "task on"),
    *(
        Figure(f"p99 of a tenant's tasks in another's flood of {words}, beside before it", "flood", f"{kind}_p99")
        for kind, words in (
            ("tasks", "tasks"),
            ("failed", "tasks for nobody"),
            ("connections", "connections"),
            ("logs", "log lines"),
            ("events", "events"),
            ("calls", "tool calls"),
        )
    ),
    Figure("an empty task by NATS on 3 nodes, beside NATS alone", "cluster", "nats3_us"),
    Figure("the same by Redis, beside Redis alone", "cluster", "redis3_us"),
    Figure("kill -9 of a node until its agent is Ready elsewhere", "cluster", "failover"),
    Figure("a decision where an agent goes, among 1,000 nodes", "cluster_simulation", "decision"),
]
