"""The memory behind the pool: many clients at once, its server killed in between, and nothing acknowledged is lost."""

import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.long

CLIENTS = 8
STORES = 100
KILLS = 3

CONFIG = """
[recovery]
restart_backoff_base = 0.05
max_restart_attempts = 100
[mcp]
cortex_args = ["mcp", "stdio", "--db", "{db}"]
request_timeout = "60s"
"""


def store_at_once(daemon: DaemonProcess, client: int, acknowledged: dict[str, str], heard: threading.Condition) -> None:
    """Sends all stores of one client before it reads an answer; keeps those that were acknowledged."""
    contents = {f"{client}-{n}": f"client {client} store {n}" for n in range(STORES)}
    lines = [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "mcp.call",
            "params": {"name": "cortex__cortex_store", "arguments": {"content": content, "idempotency_key": number}},
        }
        for number, content in contents.items()
    ]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(BOUND_S * 2)
        connection.connect(str(daemon.socket))
        connection.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        with connection.makefile("rb") as answers:
            for _ in lines:
                answer = json.loads(answers.readline())
                result: Any = answer.get("result") or {}  # Any: MCP's result object
                if not result or result.get("isError"):
                    continue  # refused, or lost with its server: nobody was told that it is stored
                with heard:
                    acknowledged[result["structuredContent"]["id"]] = contents[answer["id"]]
                    heard.notify_all()


def test_every_store_that_was_acknowledged_survives_kill_9_of_the_server(tmp_path: Path) -> None:
    db = tmp_path / "cortex.db"
    acknowledged: dict[str, str] = {}
    heard = threading.Condition()
    with DaemonProcess(tmp_path, CONFIG.format(db=db)) as daemon:
        clients = [
            threading.Thread(target=store_at_once, args=(daemon, number, acknowledged, heard))
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        killed: set[int] = set()
        for number in range(KILLS):
            enough = (number + 1) * CLIENTS * STORES // (KILLS + 2)
            with heard:
                while len(acknowledged) < enough:
                    assert heard.wait(BOUND_S), f"{len(acknowledged)} of {enough}"
            worker = daemon.await_worker("cortex-0", lambda each: each["pid"] not in (None, *killed))
            killed.add(worker["pid"])
            os.kill(worker["pid"], signal.SIGKILL)
        for client in clients:
            client.join(BOUND_S * 2)
            assert not client.is_alive()
        print(f"{len(acknowledged)} of {CLIENTS * STORES} were acknowledged")
        with daemon.client() as connection:
            for item_id, content in acknowledged.items():
                asked = {"name": "cortex__cortex_retrieve", "arguments": {"id": item_id}}
                found: Any = connection.call("mcp.call", asked, timeout_s=BOUND_S)  # MCP's result
                assert found["structuredContent"]["content"] == content
        assert len(killed) == KILLS
