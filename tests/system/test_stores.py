"""Declared stores under a whole daemon: workers get their addresses, they are probed, listed, and shown without a secret."""

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from corral.worker.contract.errors import InvalidParams
from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

PASSWORD = "hunter2-store"

AGENT = """\
import os
from corral.worker import Agent, Task
agent = Agent("reader")
@agent.task
async def run(task: Task) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.startswith("CORRAL_STORE_")}
"""

CONFIG = """
[stores.main-db]
kind = "postgres"
url = "postgresql://app:${{secret:DB}}@127.0.0.1:{port}/app"
[stores.facts]
kind = "sqlite"
url = "facts.db"
[stores.nobody]
kind = "files"
url = "/nowhere"
[agents.reader]
entrypoint = "reading:agent"
stores = ["main-db", "facts"]
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def config_of(listener: socket.socket) -> str:
    return CONFIG.format(port=listener.getsockname()[1])


def states(daemon: DaemonProcess) -> dict[str, tuple[str, str]]:
    found = daemon.call("store.list")["stores"]
    return {each["name"]: (each["state"], each["reason"]) for each in found}


def folder_with(tmp_path: Path, listener: socket.socket) -> str:
    (tmp_path / "reading.py").write_text(AGENT)
    (tmp_path / "secrets").write_text(f"DB={PASSWORD}\n")
    (tmp_path / "secrets").chmod(0o600)
    with closing(sqlite3.connect(tmp_path / "facts.db")) as database:
        database.execute("create table fact (text)")
    return f'[daemon]\nsecrets_file = "secrets"\n{config_of(listener)}'


def test_workers_get_stores_and_these_are_probed_listed_and_changed(tmp_path: Path, listener: socket.socket) -> None:
    text = folder_with(tmp_path, listener)
    port = listener.getsockname()[1]
    with DaemonProcess(tmp_path, text) as daemon:
        daemon.call("agent.start", names=["reader"])
        has = daemon.call("task.run", agent="reader", objective="look")["output"]
        assert has == {
            "CORRAL_STORE_MAIN_DB": f"postgresql://app:{PASSWORD}@127.0.0.1:{port}/app",
            "CORRAL_STORE_FACTS": f"{tmp_path}/facts.db",
        }
        assert states(daemon) == {"facts": ("up", ""), "main-db": ("up", ""), "nobody": ("unused", "")}
        assert daemon.call("runtime.stats")["databases"]["ids"] == ["main-db", "facts"]

        listener.close()
        (tmp_path / "facts.db").unlink()
        found = daemon.corral("--json", "stores")
        listed = {each["name"]: each for each in json.loads(found.stdout)}
        assert listed["main-db"] == {
            "name": "main-db",
            "kind": "postgres",
            "url": f"postgresql://127.0.0.1:{port}/app",
            "state": "down",
            "reason": "connection refused",
            "used_by": ["reader"],
        }
        assert listed["facts"]["reason"] == "no such file or directory"
        (tmp_path / "facts.db").touch()
        assert states(daemon)["facts"] == ("up", "")
        events = daemon.call("event.list", types=["store.*"])["events"]
        told = {(each["type"], each["name"], each["reason"]) for each in events}
        assert told == {
            ("store.down", "main-db", "connection refused"),
            ("store.down", "facts", "no such file or directory"),
            ("store.up", "facts", "no such file or directory"),
        }
        assert PASSWORD not in found.stdout + found.stderr + json.dumps(events)
        assert PASSWORD not in json.dumps(daemon.call("agent.show", name="reader"))

        with pytest.raises(InvalidParams) as caught:
            daemon.call("agent.add", name="b", spec={"command": ["sleep", "9"], "stores": ["fact"]})
        assert 'did you mean "facts"?' in caught.value.message


def test_a_reload_rolls_the_workers_of_a_store_whose_address_has_changed(
    tmp_path: Path, listener: socket.socket
) -> None:
    text = folder_with(tmp_path, listener)
    with DaemonProcess(tmp_path, text) as daemon:
        daemon.call("agent.start", names=["reader"])
        daemon.config.write_text(text.replace("facts.db", "other.db"))
        with daemon.client() as client:
            client.call("event.follow", {"types": ["agent.rolled"]}, timeout_s=BOUND_S)
            assert daemon.call("daemon.reload")["changed"] == {"reader": "restart"}
            next(client.notifications())
        has = daemon.call("task.run", agent="reader", objective="look")["output"]
        assert has["CORRAL_STORE_FACTS"] == f"{tmp_path}/other.db"
        assert states(daemon)["facts"] == ("down", "no such file or directory")
