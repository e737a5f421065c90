"""The views of the store: their documented columns, their rows, and what a migration does with them."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from corral.supervisor.records.store import schema
from corral.supervisor.records.store.store import Store

pytestmark = pytest.mark.shell

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "store.md"


def filled(path: Path, *statements: str) -> None:
    """Opens a store as a daemon does, and writes rows."""

    async def fill() -> None:
        store = Store.open(path)
        for each in statements:
            await store.write((each, ()))
        await store.close()

    asyncio.run(fill())


def test_the_views_have_the_columns_of_the_manual(tmp_path: Path) -> None:
    filled(tmp_path / "corral.db")
    with closing(sqlite3.connect(f"file:{tmp_path}/corral.db?mode=ro", uri=True)) as copy:
        found = {
            name: ", ".join(each[0] for each in copy.execute(f"SELECT * FROM {name}").description)
            for name in schema.VIEWS
        }
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", PAGE.read_text("utf-8"), re.M)
    assert found == dict(rows)


def test_the_views_show_rows_by_tenant(tmp_path: Path) -> None:
    insert = "INSERT INTO session (agent, session, created_at, accessed_at, turns, messages, size_bytes, expires_at)"
    filled(
        tmp_path / "corral.db",
        f"{insert} VALUES ('acme/a', 's', 0, 60, 1, 2, 30, 3600), ('b', 's', 0, 60, 1, 2, 50, NULL)",
        "INSERT INTO memory_usage (agent, keys, size_bytes) VALUES ('acme/c', 1, 7)",
        "INSERT INTO cost VALUES (1, 'acme/a', '', 3, 1, 9, 2.5, 1.0), (2, 'b', 's', 1, 0, 1, 1.0, 1.0)",
        "INSERT INTO package VALUES ('p', '1.0', 'sha', x'00')",
    )
    with closing(sqlite3.connect(tmp_path / "corral.db")) as copy:

        def rows(sql: str) -> list[object]:
            return copy.execute(sql).fetchall()

        assert rows("SELECT tenant, session_bytes, used_bytes FROM memory_pools ORDER BY 2") == [
            ("acme", 0, 7),
            ("acme", 30, 30),
            ("", 50, 50),
        ]
        assert rows("SELECT * FROM organization_runtimes") == [("", 1, 1, 0, 1, 1.0, 50), ("acme", 2, 3, 1, 9, 2.5, 37)]
        times = "created_at, accessed_at, expires_at"
        assert rows(f"SELECT agent, {times} FROM memory_sessions ORDER BY agent DESC") == [
            ("b", "1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z", None),
            ("acme/a", "1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z", "1970-01-01T01:00:00Z"),
        ]
        assert rows("SELECT hour FROM runtime_metrics") == [("1970-01-01T01:00:00Z",), ("1970-01-01T02:00:00Z",)]
        assert rows("SELECT * FROM packages") == [("", "p", "1.0", "sha")]


def test_views_of_another_version_are_replaced_and_those_of_this_one_left(tmp_path: Path) -> None:
    path = tmp_path / "corral.db"
    filled(path)
    with closing(sqlite3.connect(path)) as other:
        version = other.execute("PRAGMA schema_version").fetchone()
    filled(path)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA schema_version").fetchone() == version
        other.execute("DROP VIEW tasks")
        other.execute("CREATE VIEW tasks AS SELECT 1")
        other.execute("CREATE VIEW older AS SELECT hour FROM cost")
        other.commit()
        assert not schema.views_are_current(other)
    filled(path)
    with closing(sqlite3.connect(path)) as other:
        assert schema.views_are_current(other)
