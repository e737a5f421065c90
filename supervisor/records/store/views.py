"""Defines the read-only views of the store that people may query in a copy of it; docs/reference/store.md describes them.

The tables behind them change from version to version, and hold sealed records. The names and columns of a view stay:
columns are added at its end. Times are UTC, as text.
"""

import sqlite3
from collections.abc import Mapping

_TENANT = "CASE instr({0}, '/') WHEN 0 THEN '' ELSE substr({0}, 1, instr({0}, '/') - 1) END"
_TIME = "strftime('%Y-%m-%dT%H:%M:%SZ', {0}, 'unixepoch')"


def _tenant(column: str) -> str:
    return _TENANT.format(column)


def _time(column: str) -> str:
    return _TIME.format(column)


VIEWS: Mapping[str, str] = {
    "organization_runtimes": f"""
        SELECT tenant, COUNT(DISTINCT agent) AS agents, SUM(tasks) AS tasks, SUM(failed) AS failed,
            SUM(tokens) AS tokens, SUM(cost_cents) AS cost_cents, MAX(size_bytes) AS memory_bytes
        FROM (
            SELECT {_tenant("agent")} AS tenant, agent, tasks, failed, tokens, cost_cents, 0 AS size_bytes FROM cost
            UNION ALL
            SELECT {_tenant("agent")}, agent, 0, 0, 0, 0.0,
                SUM(size_bytes + session_bytes) OVER (PARTITION BY {_tenant("agent")}) FROM memory_usage
        ) GROUP BY tenant
    """,
    "memory_pools": f"""
        SELECT {_tenant("agent")} AS tenant, agent, sessions, session_bytes, keys, size_bytes AS key_bytes,
            size_bytes + session_bytes AS used_bytes FROM memory_usage
    """,
    "memory_sessions": f"""
        SELECT {_tenant("agent")} AS tenant, agent, session, turns, messages, size_bytes,
            {_time("created_at")} AS created_at, {_time("accessed_at")} AS accessed_at,
            {_time("expires_at")} AS expires_at FROM session
    """,
    "memory_keys": f"""
        SELECT {_tenant("agent")} AS tenant, agent, session, key, CAST(value AS TEXT) AS value,
            {_time("updated_at")} AS updated_at, {_time("expires_at")} AS expires_at FROM memory
    """,
    "checkpoints": f"""
        SELECT {_tenant("agent")} AS tenant, id, agent, worker, task, reason, size_bytes, revision,
            {_time("at")} AS at FROM checkpoint
    """,
    "packages": f"""
        SELECT {_tenant("name")} AS tenant, name AS package_id, version, substr(digest, -64) AS digest FROM package
    """,
    "package_deployments": f"""
        SELECT number, {_tenant("agent")} AS tenant, agent, digest FROM deployment
    """,
    "tasks": f"""
        SELECT {_tenant("agent")} AS tenant, id, agent, state, priority, attempt, parent,
            {_time("created_at")} AS created_at, {_time("finished_at")} AS finished_at FROM task
    """,
    "runtime_metrics": f"""
        SELECT {_tenant("agent")} AS tenant, agent, session, {_time("hour * 3600")} AS hour, tasks, failed, tokens,
            cost_cents, cpu_ms FROM cost
    """,
}
"""Statements of the views, by name."""


def drop(connection: sqlite3.Connection) -> None:
    """Drops the views, so that a migration may change the tables behind them."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall()
    for (name,) in rows:
        connection.execute(f'DROP VIEW "{name}"')


def create(connection: sqlite3.Connection) -> None:
    """Creates the views, which do not exist yet."""
    for name, statement in VIEWS.items():
        connection.execute(_creation(name, statement))


def are_current(connection: sqlite3.Connection) -> bool:
    """Returns whether the views in the file are these."""
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'").fetchall()
    return dict(rows) == {name: _creation(name, each) for name, each in VIEWS.items()}


def _creation(name: str, statement: str) -> str:
    return f"CREATE VIEW {name} AS {statement.strip()}"
