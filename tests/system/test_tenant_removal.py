"""Removal of a tenant leaves nothing: no process, file, row or uid; others keep all; a killed daemon's removal goes on."""

import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.workers.process.containment import state_number
from corral.worker.contract.errors import Conflict, CorralError, NotFound
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from tenant_uids import RANGE

NAME = f"zanzibar{os.getpid()}"
"""A word that no other process of the machine has."""
"""A name that stands nowhere else."""

CONFIG = f"""
[monitoring]
metrics_interval = "200ms"
[process]
working_directory = "{AGENTS}"
[tenants.filed]
[agents."filed/a"]
command = ["sleep", "1000000"]
protocol = "none"
[agents.live]
entrypoint = "live_agent:agent"
"""

EXEMPT = {"audit", "audit_chain"}
"""Tables that keep records of a tenant that is gone, until their retention is over."""

STUBBORN: dict[str, object] = {
    "command": ["sh", "-c", "trap '' TERM; while :; do sleep 1000 & wait; done"],
    "protocol": "none",
    "process": {"shutdown_grace_period": "600s"},
}


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    folder = Path(tempfile.mkdtemp(prefix="removal-", dir="/tmp"))
    folder.chmod(0o711)
    config = CONFIG
    if os.getuid() == 0 and os.access("/usr/bin/python3", os.X_OK):
        config = f'[daemon]\ntenant_uids = "{RANGE}"\n{CONFIG}'
    try:
        with DaemonProcess(folder, config) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(is_so: Callable[[], bool]) -> None:
    """Waits for what another process does, bounded."""
    deadline = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def rows_with(path: Path, word: str) -> dict[str, int]:
    """How many rows of each table have a word in any column."""
    found: dict[str, int] = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        tables = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if table in EXEMPT:
                continue
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
            where = " OR ".join(f"instr(CAST({column} AS BLOB), CAST('{word}' AS BLOB))" for column in columns)
            (count,) = store.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()
            if count:
                found[table] = count
    return found


def rows_of(path: Path, agent: str) -> dict[str, int]:
    """How many rows of each table an agent has."""
    found: dict[str, int] = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
            if "agent" in columns:
                sql = f"SELECT count(*) FROM {table} WHERE agent = ?"
                found[table] = store.execute(sql, (agent,)).fetchone()[0]
    return {table: count for table, count in found.items() if count}


def files_with(folder: Path, word: str) -> list[str]:
    """The files and folders whose path, or content, has a word; the store is looked into by its rows."""
    found: list[str] = []
    for path in folder.rglob("*"):
        if word in str(path.relative_to(folder)):
            found.append(str(path))
            continue
        is_own = path.name.startswith("corral.db") or "sdk" in path.parts
        if path.is_file() and not is_own and word.encode() in path.read_bytes():
            found.append(str(path))
    return found


def processes_with(word: str) -> list[int]:
    """The processes whose environment or arguments have a word."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in text:
                found.append(int(entry.name))
    return found


def groups_with(word: str) -> list[str]:
    """The control groups of version 2 whose path has a word."""
    roots = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
    root = next(each for each in roots if each.is_dir())
    return [path for path, _, _ in os.walk(root) if word in path]


def leave_traps(folder: Path, outside: Path) -> None:
    """Puts what a hostile agent may leave for its removal into a folder: ways out of it, and what is hard to remove."""
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (folder / "link").symlink_to(outside)
    (folder / "to-a-file").symlink_to(outside / "kept")
    (folder / "to-all").symlink_to("/")
    (folder / "set-uid").write_bytes(b"#!/bin/sh\n")
    (folder / "set-uid").chmod(0o6755)
    os.mkfifo(folder / "fifo")
    (folder / "locked").mkdir()
    (folder / "locked" / "link").symlink_to(outside)
    (folder / "locked").chmod(0)
    deep = folder
    for _ in range(30):
        deep /= "d" * 100
        deep.mkdir()
    (folder / os.fsdecode(b"\xff\n")).touch()


def settled(daemon: DaemonProcess, agent: str, objective: str, **more: object) -> Any:
    task = daemon.call("task.submit", agent=agent, objective=objective, **more)
    return daemon.call("task.wait", task=task["id"])


def use(daemon: DaemonProcess, agent: str) -> None:
    """Leaves a trace of every kind that an agent can leave."""
    assert settled(daemon, agent, "say", input=f"of {agent}")["state"] == "succeeded"
    settled(daemon, agent, "recall", input="a word", session=f"talk of {agent}")
    settled(daemon, agent, "use", input={"tokens": 3, "cents": 2.5})
    settled(daemon, agent, "publish")
    daemon.call("memory.put", agent=agent, key="k", value={"of": agent})
    daemon.call("checkpoint.save", name=agent)
    daemon.call("agent.set", name=agent, spec={"title": f"of {agent}"})


def populate(daemon: DaemonProcess) -> None:
    daemon.call("tenant.add", name=NAME, spec={"max_agents": 9})
    spec = {"entrypoint": "live_agent:agent", "process": {"working_directory": str(AGENTS)}}
    if os.getuid() == 0:
        spec["python"] = "/usr/bin/python3"
    daemon.call("agent.add", name=f"{NAME}/a", spec=spec)
    daemon.call("agent.add", name=f"{NAME}/b", spec={**spec, "requires": ["a"]})
    daemon.call("team.add", name=f"{NAME}/t", spec={"mode": "route", "members": ["a", "b"]})
    task = {"agent": f"{NAME}/a", "objective": "say"}
    daemon.call("schedule.add", name="ofit", every_s=3600, task=task)
    daemon.call("secret.set", name=f"{NAME}/KEY", secret="of the tenant")
    daemon.call("token.add", name=f"{NAME}/token", rights="admin")
    use(daemon, f"{NAME}/a")
    for _ in range(2):  # one runs, one waits
        daemon.call("task.submit", agent=f"{NAME}/a", objective="wait", input=3600)
    daemon.call("agent.hibernate", names=[f"{NAME}/b"])
    until(lambda: "metric" in rows_with(daemon.state_dir / "corral.db", NAME))


def test_nothing_is_left_of_a_tenant_that_is_removed(daemon: DaemonProcess) -> None:
    store = daemon.state_dir / "corral.db"
    use(daemon, "live")
    populate(daemon)
    kinds = {"agent", "task", "event", "session", "memory", "checkpoint", "revision", "metric", "access_token"}
    assert kinds | {"schedule", "tenant", "incarnation"} <= rows_with(store, NAME).keys()
    assert processes_with(f"{NAME}/")
    assert files_with(daemon.state_dir, NAME)
    tenant = daemon.call("tenant.show", name=NAME)["tenant"]
    uid = tenant["uid"]
    had_groups = bool(groups_with(NAME))
    outside = daemon.folder / "outside"
    leave_traps(Path(tenant["folder"]), outside)
    owner = rows_of(store, "live")

    found = daemon.call("tenant.rm", name=NAME)
    assert found["removed"] == [NAME]
    assert found["erased"]["rows"] > 0
    assert (outside / "kept").read_text() == "kept"
    until(lambda: groups_with(NAME) == [])
    if groups_with(f"corral-{state_number(daemon.state_dir):08x}"):
        assert had_groups, "the test has looked where the groups are"

    assert [each["name"] for each in daemon.call("secret.list")["secrets"]] == []
    assert [each["name"] for each in daemon.call("token.list")["tokens"]] == []
    assert processes_with(f"{NAME}/") == []
    assert files_with(daemon.state_dir, NAME) == []
    assert rows_with(store, NAME) == {}
    settled(daemon, "live", "say", input="later")  # and no row comes back with the next ones
    daemon.call("daemon.log_level", level="info")
    assert rows_with(store, NAME) == {}
    assert daemon.call("audit.verify")["ok"] is True
    after = rows_of(store, "live")
    assert {"session", "memory", "checkpoint", "task"} <= owner.keys()
    assert [table for table in owner if after.get(table, 0) < owner[table]] == []
    daemon.stop()
    assert rows_with(store, NAME) == {}, "the end of the daemon writes none either"
    daemon.start()
    with pytest.raises(NotFound):
        daemon.call("tenant.show", name=NAME)
    daemon.call("tenant.add", name="next")
    assert daemon.call("tenant.show", name="next")["tenant"]["uid"] == uid, "its uid is free again"


def test_a_second_removal_is_refused_while_the_first_is_under_way(daemon: DaemonProcess) -> None:
    """It could erase a tenant that is added once the first one has ended."""
    daemon.call("tenant.add", name=NAME, spec={})
    daemon.call("agent.add", name=f"{NAME}/a", spec=STUBBORN)
    ended: list[Any] = []
    first = threading.Thread(target=lambda: ended.append(daemon.call("tenant.rm", name=NAME)))
    first.start()

    until(lambda: daemon.worker(f"{NAME}/a-0")["state"] == "ShuttingDown")
    with pytest.raises(Conflict) as refused:
        daemon.call("tenant.rm", name=NAME)
    assert refused.value.data["reason"] == "removing"
    os.killpg(daemon.worker(f"{NAME}/a-0")["pid"], signal.SIGKILL)
    first.join(BOUND_S)
    assert ended, "the first removal has ended"
    assert ended[0]["removed"] == [NAME]
    with pytest.raises(NotFound):
        daemon.call("tenant.rm", name=NAME)
    assert daemon.call("tenant.add", name=NAME, spec={})["created"]


def test_a_removal_that_was_killed_is_finished_by_the_next_daemon(daemon: DaemonProcess) -> None:
    populate(daemon)
    daemon.call("agent.add", name=f"{NAME}/stubborn", spec=STUBBORN)

    def remove() -> None:
        with suppress(CorralError):  # the daemon is killed
            daemon.call("tenant.rm", name=NAME)

    caller = threading.Thread(target=remove)
    caller.start()

    def is_begun() -> bool:
        try:
            daemon.call("agent.start", names=[f"{NAME}/a"])
        except CorralError as error:
            return error.data.get("reason") == "suspended"
        return False

    until(is_begun)
    daemon.kill()
    caller.join(BOUND_S)
    daemon.start()
    store = daemon.state_dir / "corral.db"
    assert rows_with(store, NAME) == {}
    assert files_with(daemon.state_dir, NAME) == []
    assert processes_with(f"{NAME}/") == []
    assert NAME not in [each["name"] for each in daemon.call("tenant.list")["tenants"]]


def test_a_tenant_of_the_file_stays_until_its_tables_are_gone(daemon: DaemonProcess) -> None:
    with pytest.raises(Conflict) as found:
        daemon.call("tenant.rm", name="filed")
    assert found.value.data["reason"] == "file"
    assert found.value.data["names"] == ["filed/a"]
    assert daemon.worker("filed/a-0")
    with pytest.raises(NotFound):
        daemon.call("tenant.rm", name="nobody")
    text = daemon.config.read_text()
    begin, end = text.index("[tenants.filed]"), text.index("[agents.live]")
    daemon.config.write_text(text[:begin] + text[end:])
    daemon.call("daemon.reload")
    assert rows_with(daemon.state_dir / "corral.db", "filed")
    daemon.call("tenant.rm", name="filed")
    assert rows_with(daemon.state_dir / "corral.db", "filed") == {}
    assert files_with(daemon.state_dir, "filed") == []
