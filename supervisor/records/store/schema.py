"""Opens the file of the store: defines its tables and views, migrates an older file, and translates the errors of SQLite.

A file that is damaged, of a newer version, or another program's is refused before anything is changed in it. Nothing
here knows of commits, threads, or the meaning of rows.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from corral.worker.contract.errors import Conflict, CorralError, Overloaded, PermissionDenied

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
"""Statements of the views that people may query in a copy (docs/reference/store.md), by name. They stay while the tables behind them change:
columns are added at the end of a view. Times are UTC, as text."""


def drop_views(connection: sqlite3.Connection) -> None:
    """Drops the views, so that a migration may change the tables behind them."""
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
        connection.execute(f'DROP VIEW "{name}"')


def create_views(connection: sqlite3.Connection) -> None:
    """Creates the views, which do not exist yet."""
    for name, statement in VIEWS.items():
        connection.execute(_creation(name, statement))


def views_are_current(connection: sqlite3.Connection) -> bool:
    """Returns whether the views in the file are these."""
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'").fetchall()
    return dict(rows) == {name: _creation(name, each) for name, each in VIEWS.items()}


def _creation(name: str, statement: str) -> str:
    return f"CREATE VIEW {name} AS {statement.strip()}"


BUSY_TIMEOUT_S = 5.0
"""Seconds to wait for a foreign lock (a backup tool)."""

CHECK_LIMIT_BYTES = 16 * 1024 * 1024
"""Bytes of a file that is checked as a whole at the start; a larger one is not."""

REWRITTEN_BYTES = 64 * 1024 * 1024
"""Bytes of content, at most, of an older file that is rewritten at the start if more of it is free: less than a second."""

LOG_BYTES = 16 * 1024 * 1024
"""Bytes that the write-ahead log keeps of its file once all is in the store."""

OPENING_BYTES = 1024 * 1024
"""Bytes that the opening of a store writes at most: its index of the log, and the tables."""

RETRY_AFTER_S = 1.0
"""Seconds after which a refused caller may try again."""

APPLICATION_ID = 0x636F7272
"""Number of this application, "corr": the database of another program is refused."""

# Entry N migrates a database from user_version N to N + 1. Entries are only ever appended.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value);
    CREATE TABLE incarnation (worker TEXT PRIMARY KEY, value INTEGER NOT NULL);
    CREATE TABLE agent (
        name TEXT PRIMARY KEY, kind TEXT NOT NULL, table_json TEXT NOT NULL, created_at REAL NOT NULL
    );
    CREATE TABLE task (
        id TEXT PRIMARY KEY, agent TEXT NOT NULL, state TEXT NOT NULL, priority INTEGER NOT NULL,
        attempt INTEGER NOT NULL, created_at REAL NOT NULL, finished_at REAL, record BLOB NOT NULL
    );
    CREATE INDEX task_state ON task (state);
    CREATE INDEX task_agent ON task (agent, created_at);
    CREATE INDEX task_finished ON task (finished_at);
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY, at TEXT NOT NULL, type TEXT NOT NULL, agent TEXT, worker TEXT, data BLOB
    );
    CREATE TABLE tool_call (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, caller TEXT, tool TEXT NOT NULL, server TEXT,
        duration_s REAL, outcome TEXT, task TEXT
    );
    CREATE TABLE memory (
        agent TEXT NOT NULL, session TEXT NOT NULL, key TEXT NOT NULL, value BLOB,
        updated_at REAL NOT NULL, expires_at REAL, PRIMARY KEY (agent, session, key)
    );
    CREATE TABLE checkpoint (
        id INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, worker TEXT, task TEXT,
        at REAL NOT NULL, data BLOB NOT NULL
    );
    """,
    # Tool calls are records of the audit from here on. Those from before go: they were in no chain, and each
    # is in the stream of events, too, for as long as they would have been kept.
    """
    CREATE TABLE audit (id INTEGER PRIMARY KEY, record BLOB NOT NULL, hash BLOB NOT NULL);
    CREATE TABLE audit_chain (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        anchor_id INTEGER NOT NULL, anchor_hash BLOB NOT NULL,
        head_id INTEGER NOT NULL, head_hash BLOB NOT NULL, size_bytes INTEGER NOT NULL
    );
    INSERT INTO audit_chain VALUES (1, 0, zeroblob(32), 0, zeroblob(32), 0);
    DROP TABLE tool_call
    """,
    # The catalogue of each MCP server, for as long as it is started in the same way.
    """
    CREATE TABLE catalogue (server TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, value BLOB NOT NULL)
    """,
    # Tasks that are looked for by more than their agent; schedules; sessions; the owner and the kind of a checkpoint.
    """
    ALTER TABLE task ADD COLUMN parent TEXT;
    ALTER TABLE task ADD COLUMN idempotency_key TEXT;
    ALTER TABLE task ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE task ADD COLUMN retried_by TEXT;
    ALTER TABLE task ADD COLUMN checksum INTEGER;
    CREATE UNIQUE INDEX task_key ON task (agent, idempotency_key) WHERE idempotency_key IS NOT NULL;
    CREATE INDEX task_parent ON task (parent, created_at) WHERE parent IS NOT NULL;
    CREATE INDEX task_dead ON task (created_at) WHERE dead = 1;
    CREATE INDEX task_created ON task (created_at);
    DROP INDEX task_state;
    DROP INDEX task_finished;
    CREATE INDEX task_state ON task (state, created_at);
    CREATE TABLE schedule (
        name TEXT PRIMARY KEY, created_at REAL NOT NULL, next_at REAL, record BLOB NOT NULL, checksum INTEGER
    );
    CREATE TABLE session (
        id INTEGER PRIMARY KEY, agent TEXT NOT NULL, session TEXT NOT NULL, created_at REAL NOT NULL,
        accessed_at REAL NOT NULL, turns INTEGER NOT NULL, messages INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
        value BLOB, UNIQUE (agent, session)
    );
    CREATE INDEX session_accessed ON session (agent, accessed_at);
    CREATE TABLE session_turn (id INTEGER PRIMARY KEY, session_id INTEGER NOT NULL, value BLOB NOT NULL);
    CREATE INDEX session_turn_session ON session_turn (session_id, id);
    ALTER TABLE memory ADD COLUMN crc INTEGER;
    CREATE TABLE memory_usage (agent TEXT PRIMARY KEY, keys INTEGER NOT NULL, size_bytes INTEGER NOT NULL);
    INSERT INTO memory_usage SELECT agent, COUNT(*), SUM(LENGTH(CAST(key AS BLOB)) + LENGTH(value))
        FROM memory GROUP BY agent;
    ALTER TABLE checkpoint ADD COLUMN reason TEXT NOT NULL DEFAULT 'task';
    ALTER TABLE checkpoint ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX checkpoint_task ON checkpoint (task, id) WHERE task IS NOT NULL;
    CREATE INDEX checkpoint_agent ON checkpoint (agent, id);
    CREATE INDEX checkpoint_worker ON checkpoint (worker, id) WHERE task IS NULL;
    CREATE TABLE spending (
        agent TEXT NOT NULL, at REAL NOT NULL, cost_cents REAL NOT NULL, PRIMARY KEY (agent, at)
    );
    CREATE TABLE resumption (
        worker TEXT PRIMARY KEY, agent TEXT NOT NULL, checkpoint INTEGER, hibernated INTEGER NOT NULL, at REAL NOT NULL
    )
    """,
    # The tool calls of tasks, beside their records in the audit, which has no index by task.
    """
    CREATE TABLE task_call (
        id INTEGER PRIMARY KEY, task TEXT NOT NULL, delivery INTEGER NOT NULL, at REAL NOT NULL, tool TEXT NOT NULL,
        outcome TEXT NOT NULL, duration_s REAL NOT NULL, size_bytes INTEGER NOT NULL, result BLOB
    );
    CREATE INDEX task_call_task ON task_call (task, id)
    """,
    # Tokens: the sealed record has the SHA-256 of each, and its rights.
    """
    CREATE TABLE access_token (name TEXT PRIMARY KEY, record BLOB NOT NULL, used_at REAL)
    """,
    # The history of what agents, servers, teams and workflows were; which table of the file an entry overrides; the
    # revision with which a checkpoint was saved.
    """
    CREATE TABLE revision (
        name TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
        how TEXT NOT NULL, made_by TEXT NOT NULL, why TEXT NOT NULL, package TEXT, of_number INTEGER,
        table_json TEXT NOT NULL, is_stored INTEGER NOT NULL, base TEXT, at REAL NOT NULL, settled_at REAL,
        PRIMARY KEY (name, number)
    );
    CREATE INDEX revision_open ON revision (state, name) WHERE state IN ('current', 'rolling');
    ALTER TABLE agent ADD COLUMN base TEXT;
    ALTER TABLE checkpoint ADD COLUMN revision INTEGER
    """,
    # Packages that were added; their archives are files beside the store.
    """
    CREATE TABLE package (
        name TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, record BLOB NOT NULL,
        PRIMARY KEY (name, version)
    )
    """,
    # Deployments of packages: a sealed record each, and the lock of what was installed.
    """
    CREATE TABLE deployment (
        number INTEGER PRIMARY KEY, agent TEXT NOT NULL, digest TEXT NOT NULL, record BLOB NOT NULL, lock TEXT
    );
    CREATE INDEX deployment_agent ON deployment (agent, number);
    CREATE INDEX deployment_digest ON deployment (digest, number) WHERE lock IS NOT NULL
    """,
    # The usage of ended tasks, by the hour of their end.
    """
    CREATE TABLE cost (
        hour INTEGER NOT NULL, agent TEXT NOT NULL, session TEXT NOT NULL, tasks INTEGER NOT NULL, failed INTEGER NOT NULL,
        tokens INTEGER NOT NULL, cost_cents REAL NOT NULL, cpu_ms REAL NOT NULL, PRIMARY KEY (hour, agent, session)
    ) WITHOUT ROWID
    """,
    # The number of daemons that have taken up a revision which an earlier one had not finished.
    """
    ALTER TABLE revision ADD COLUMN resumes INTEGER NOT NULL DEFAULT 0
    """,
    # The history of metrics: a row for each subject and step, minute or hour, in the order of time.
    """
    CREATE TABLE metric (
        tier INTEGER NOT NULL, at INTEGER NOT NULL, subject TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (tier, at, subject)
    ) WITHOUT ROWID
    """,
    # Tenants that were added or changed at run time: a sealed record each.
    """
    CREATE TABLE tenant (name TEXT PRIMARY KEY, record BLOB NOT NULL)
    """,
    # Questions of tasks that persons answer: a sealed record each.
    """
    CREATE TABLE approval (
        id INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT NOT NULL, key TEXT NOT NULL, agent TEXT NOT NULL, state TEXT NOT NULL,
        record BLOB NOT NULL, expires_at REAL NOT NULL, ended_at REAL, UNIQUE (task, key)
    );
    CREATE INDEX approval_state ON approval (state, ended_at)
    """,
    # The counts of an agent have its sessions, too, which triggers hold equal to the rows; the end of a session.
    """
    ALTER TABLE session ADD COLUMN expires_at REAL;
    CREATE INDEX session_expires ON session (expires_at) WHERE expires_at IS NOT NULL;
    CREATE INDEX memory_expires ON memory (expires_at) WHERE expires_at IS NOT NULL;
    ALTER TABLE memory_usage ADD COLUMN sessions INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE memory_usage ADD COLUMN session_bytes INTEGER NOT NULL DEFAULT 0;
    INSERT INTO memory_usage (agent, keys, size_bytes, sessions, session_bytes)
        SELECT agent, 0, 0, COUNT(*), SUM(size_bytes) FROM session WHERE TRUE GROUP BY agent
        ON CONFLICT (agent) DO UPDATE SET sessions = excluded.sessions, session_bytes = excluded.session_bytes;
    CREATE TRIGGER session_added AFTER INSERT ON session BEGIN
        INSERT INTO memory_usage (agent, keys, size_bytes, sessions, session_bytes)
            VALUES (NEW.agent, 0, 0, 1, NEW.size_bytes) ON CONFLICT (agent) DO UPDATE
            SET sessions = sessions + 1, session_bytes = session_bytes + NEW.size_bytes;
    END;
    CREATE TRIGGER session_resized AFTER UPDATE OF size_bytes ON session
        WHEN NEW.size_bytes IS NOT OLD.size_bytes BEGIN
        UPDATE memory_usage SET session_bytes = session_bytes + NEW.size_bytes - OLD.size_bytes
            WHERE agent = NEW.agent;
    END;
    CREATE TRIGGER session_removed AFTER DELETE ON session BEGIN
        UPDATE memory_usage SET sessions = sessions - 1, session_bytes = session_bytes - OLD.size_bytes
            WHERE agent = OLD.agent;
    END
    """,
    # The usage of calls of models, by hour, model and agent.
    """
    CREATE TABLE model_use (
        hour INTEGER NOT NULL, model TEXT NOT NULL, agent TEXT NOT NULL, calls INTEGER NOT NULL, failed INTEGER NOT NULL,
        estimated INTEGER NOT NULL, input INTEGER NOT NULL, cached INTEGER NOT NULL, cache_write INTEGER NOT NULL,
        output INTEGER NOT NULL, cost_cents REAL NOT NULL, PRIMARY KEY (hour, model, agent)
    ) WITHOUT ROWID
    """,
    # The usage of running tasks until now; how far each journal of calls of models is counted, -1 for a whole one.
    """
    CREATE TABLE task_use (
        task TEXT PRIMARY KEY, tokens INTEGER NOT NULL, cost_cents REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE model_journal (name TEXT PRIMARY KEY, counted INTEGER NOT NULL) WITHOUT ROWID
    """,
    # The number of tokens of running tasks that are estimated.
    """
    ALTER TABLE task_use ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0
    """,
    # Addresses that A2A clients want to be notified at, and the last status of the task that each was notified of.
    """
    CREATE TABLE push_target (
        task TEXT NOT NULL, id TEXT NOT NULL, record BLOB NOT NULL, notified TEXT NOT NULL, PRIMARY KEY (task, id)
    ) WITHOUT ROWID
    """,
    # The steps of tasks, which go with the record of their task.
    """
    CREATE TABLE task_step (
        task TEXT NOT NULL, number INTEGER NOT NULL, step TEXT NOT NULL, state TEXT NOT NULL, kind TEXT NOT NULL,
        at REAL NOT NULL, duration_s REAL, delivery INTEGER NOT NULL, tries INTEGER NOT NULL, error TEXT,
        result BLOB, checksum INTEGER, PRIMARY KEY (task, number)
    ) WITHOUT ROWID;
    CREATE TRIGGER task_removed AFTER DELETE ON task BEGIN DELETE FROM task_step WHERE task = OLD.id; END
    """,
    # What waits for a person, until it is seen: a sealed record each.
    """
    CREATE TABLE inbox (id TEXT PRIMARY KEY, agent TEXT NOT NULL, record BLOB NOT NULL) WITHOUT ROWID
    """,
    # The words of the tools of MCP servers: those that were accepted, and others that are listed now.
    """
    CREATE TABLE tool_pin (
        server TEXT NOT NULL, tool TEXT NOT NULL, accepted BLOB, pending BLOB, PRIMARY KEY (server, tool)
    ) WITHOUT ROWID
    """,
)


class Database(NamedTuple):
    """Holds an open file, which no other process can open while the lock is held."""

    lock_fd: int
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    generation: int
    """The number of this opening: larger than every earlier one, and on disk."""


def open_database(path: Path) -> Database:
    """Opens or creates the file (folder 0700, file 0600), migrates its schema, and counts its generation up."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _open_error(path, error) from error
    connections: list[sqlite3.Connection] = []
    try:
        # flock and SQLite's own fcntl locks do not meet. The descriptor is closed last: closing
        # any descriptor of a file drops the fcntl locks that the process holds on it.
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        writer = _connect(path, "rw")
        connections.append(writer)
        generation = _prepare(writer, path)
        reader = _connect(path, "ro")
        connections.append(reader)
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (OSError, sqlite3.Error, CorralError) as error:
        for connection in reversed(connections):
            connection.close()
        os.close(lock_fd)
        if isinstance(error, CorralError):
            raise
        raise _open_error(path, error) from error
    return Database(lock_fd, writer, reader, generation)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,  # transactions are explicit
        check_same_thread=False,  # opened here, then handed to its thread for good
        cached_statements=256,
    )
    if mode == "ro":
        connection.execute("PRAGMA query_only = ON")
    return connection


def layout_of(path: Path) -> int:
    """Returns the number of the layout of a store that another program uses, and changes nothing."""
    try:
        with closing(_connect(path, "ro")) as connection:
            return _integer(connection, "PRAGMA user_version")
    except (OSError, sqlite3.Error) as error:
        raise _open_error(path, error) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> int:
    """Checks the file, migrates its schema, and returns the new generation."""
    file = str(path)
    version = _integer(connection, "PRAGMA user_version")
    empty = _integer(connection, "SELECT count(*) FROM sqlite_master") == 0
    if not empty and _integer(connection, "PRAGMA application_id") != APPLICATION_ID:
        text = f'cannot open the store "{path}": it is the database of another program'
        raise Conflict(text, file=file, reason="not-a-store")
    if version > len(MIGRATIONS):
        text = (
            f'cannot open the store "{path}": version {version} is newer than {len(MIGRATIONS)}, which this corrald'
            " knows: run the newer one, or restore the copy from before the upgrade"
        )
        raise Conflict(text, file=file, reason="newer-version", version=version, known=len(MIGRATIONS))
    if path.stat().st_size <= CHECK_LIMIT_BYTES:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != ("ok",):
            text = f'cannot open the store "{path}": the file is corrupt'
            raise Conflict(text, file=file, reason="corrupt", detail=str(verdict))
    if empty:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # see Store.shrink; comes before the first table
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        text = f'cannot open the store "{path}": its file system cannot share memory'
        raise Conflict(text, file=file, reason="no-wal")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    _rewrite(connection)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    is_shown = version == len(MIGRATIONS) and views_are_current(connection)
    if not is_shown:
        drop_views(connection)
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        for statement in statements(script):  # not executescript(): it would commit first
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
    if not is_shown:
        create_views(connection)
    connection.execute(
        "INSERT INTO meta (key, value) VALUES ('generation', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
    )
    generation = _integer(connection, "SELECT value FROM meta WHERE key = 'generation'")
    connection.execute("COMMIT")
    return generation


def _rewrite(connection: sqlite3.Connection) -> None:
    """Makes a file of an earlier version, most of which is free, one that can shrink while it is used."""
    page_bytes, pages, free, mode = (
        _integer(connection, f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count", "auto_vacuum")
    )
    used = pages - free
    if not mode and used < free and used * page_bytes <= REWRITTEN_BYTES:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        with contextlib.suppress(sqlite3.DatabaseError):  # no room for the copy, or a damaged page: it works as it is
            connection.execute("VACUUM")


def statements(script: str) -> Iterator[str]:
    """Yields the statements of a script; those of a trigger's body belong to the trigger."""
    whole = ""
    for part in script.split(";"):
        whole += f"{part};"
        if sqlite3.complete_statement(whole):
            yield whole
            whole = ""


def _integer(connection: sqlite3.Connection, sql: str) -> int:
    value = connection.execute(sql).fetchone()[0]
    assert isinstance(value, int), f"{sql} gives an integer"
    return value


def primary_code(error: Exception) -> int:
    """Returns SQLite's result code without the extension, 0 if it has none."""
    code: object = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF if isinstance(code, int) else 0


_REASONS = {
    sqlite3.SQLITE_FULL: "disk-full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_IOERR: "io-error",
    sqlite3.SQLITE_CANTOPEN: "io-error",
    sqlite3.SQLITE_NOMEM: "no-memory",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "not-a-store",
    sqlite3.SQLITE_CONSTRAINT: "constraint",
}


def typed_error(path: Path, error: Exception) -> Exception:
    """Returns the error for the caller: a CorralError where it can act on it, else (a mistake of the daemon) as it is."""
    reason = _REASONS.get(primary_code(error))
    if reason is None:
        return error
    text = f'cannot use the store "{path}": {error}'
    if reason in {"corrupt", "not-a-store", "constraint"}:
        return Conflict(text, file=str(path), reason=reason)
    return Overloaded(text, file=str(path), reason=reason, retry_after_s=RETRY_AFTER_S)


def _has_room(path: Path) -> bool:
    """Returns whether the file system has room for what an opening writes."""
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize > OPENING_BYTES


def _open_error(path: Path, error: OSError | sqlite3.Error) -> CorralError:
    text = f'cannot open the store "{path}": {error}'
    file = str(path)
    if isinstance(error, sqlite3.Error):
        reason = _REASONS.get(primary_code(error), "unreadable")
        if reason in {"io-error", "disk-full"} and not _has_room(path):
            # SQLite reports a file of its own that has no room as an I/O error.
            text, reason = f'cannot open the store "{path}": the disk is full', "disk-full"
        if reason == "read-only":
            return PermissionDenied(text, file=file, reason=reason)
        return Conflict(text, file=file, reason=reason)
    if isinstance(error, BlockingIOError):
        return Conflict(f'cannot open the store "{path}": another daemon has it', file=file, reason="in-use")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return PermissionDenied(text, file=file, reason="permission")
    return Conflict(text, file=file, reason=errno.errorcode.get(error.errno or 0, "unreadable"))
