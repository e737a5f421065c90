"""Deletes the rows of a tenant from every table of the store, by the columns that hold full names.

The tables are those that the file has: one that comes later needs no entry here, as long as its columns have the names
below. The audit is left alone: its chain of hashes has no hole, and its records end by their own retention.
"""

from collections.abc import Iterator

from corral.supervisor.records.store.store import Params, Statement, Store

OWNED = frozenset({"agent", "name", "server", "subject", "worker"})
"""Columns that hold a full name, the id of a worker, or what begins with one."""

KEPT = frozenset({"audit", "audit_chain", "tenant"})
"""Tables that are left alone; that of the tenants is the last to go, when all else is erased."""

CHILDREN = (
    ("task_call", "task", "SELECT id FROM task WHERE agent GLOB ?"),
    ("session_turn", "session_id", "SELECT id FROM session WHERE agent GLOB ?"),
)
"""Tables whose rows belong to rows of another one: table, column, and the numbers of those."""


async def erase_rows(store: Store, tenant: str) -> dict[str, int]:
    """Deletes all rows of a tenant in one transaction; returns their counts by table, without those that had none."""
    statements = list(_statements(tenant, await _columns(store)))
    counts = await store.write(*(statement for _, statement in statements))
    found: dict[str, int] = {}
    for (table, _), count in zip(statements, counts, strict=True):
        if count:
            found[table] = found.get(table, 0) + count
    return found


async def _columns(store: Store) -> dict[str, list[str]]:
    """Returns the columns of each table that hold names."""
    sql = (
        "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, c.cid"
    )
    found: dict[str, list[str]] = {}
    for table, column in await store.read(sql):
        if column in OWNED and table not in KEPT:
            found.setdefault(str(table), []).append(str(column))
    return found


def _statements(tenant: str, columns: dict[str, list[str]]) -> Iterator[tuple[str, Statement]]:
    names = f"{tenant}/*"  # the name of a tenant has no character that GLOB would take for another
    for table, column, numbers in CHILDREN:
        yield table, (f"DELETE FROM {table} WHERE {column} IN ({numbers})", (names,))
    for table, found in columns.items():
        where = " OR ".join(f"{column} GLOB ?" for column in found)
        params: Params = (names,) * len(found)
        yield table, (f"DELETE FROM {table} WHERE {where}", params)
    # Events of the daemon that name the tenant, or something of it, in their data.
    data = "instr(data, CAST(? AS BLOB)) OR instr(data, CAST(? AS BLOB))"
    where = f"{data} OR (type GLOB 'tenant.*' AND instr(data, CAST(? AS BLOB)))"
    yield ("event", (f"DELETE FROM event WHERE {where}", (f'"{tenant}/', f":{tenant}/", f'"{tenant}"')))
    record = "DELETE FROM schedule WHERE instr(record, CAST(? AS BLOB))"
    yield "schedule", (record, (f'"{tenant}/',))
    yield "meta", ("DELETE FROM meta WHERE key GLOB ?", (f"*:{names}",))
