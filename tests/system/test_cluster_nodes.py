"""Daemons join a cluster, show in it, leave it, and go on with their local agents when the engine is away."""

import asyncio
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import LOOK_S, Cluster, cluster_of, cluster_table, engine_or_skip, names, until_all_answer
from corral.supervisor.cluster.engine.local_servers import LocalServers
from corral.worker.contract.errors import NotFound, Timeout
from daemon_process import AGENTS, BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

ECHO = f"""
[agents.echo]
command = ["{sys.executable}", "{AGENTS / "sdk_sync.py"}"]
"""

PLACED = f"""
[agents.single]
command = ["{sys.executable}", "{AGENTS / "sdk_sync.py"}"]
placement = {{}}
"""

ROOMS = ("cluster_calls", "cluster_node", "engine", "nodes", "cluster.lease", "cluster.placement")


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_daemons_show_as_nodes_drain_and_leave(tmp_path: Path, kind: str) -> None:
    with cluster_of(tmp_path, kind) as cluster:
        one = cluster.add("one", capacity=7)
        two = cluster.add("two")
        found = {each["name"]: each for each in one.call("node.list")["nodes"]}
        assert [(each, found[each]["here"]) for each in found] == [("one", True), ("two", False)]
        assert (found["one"]["capacity"], found["one"]["state"]) == (7, "ready")
        drained = two.corral("node", "drain", "one")
        assert (drained.returncode, drained.stdout) == (0, "one: draining\n")
        cluster.until(lambda: one.call("node.list")["nodes"][0]["state"] == "draining")
        assert two.call("node.resume", name="one")["state"] == "ready"
        cluster.until(lambda: two.call("node.list")["nodes"][0]["state"] == "ready")
        with pytest.raises(NotFound) as unknown:
            one.call("node.drain", name="three")
        assert unknown.value.data["known"] == ["one", "two"]
        assert "two" in one.corral("nodes").stdout
        assert two.stop() == 0
        assert names(one) == ["one"]  # it gave its lease back


WEAK: dict[tuple[Any, Any], tuple[str, ...]] = {
    ("nats", "usual"): ("1 replica", "sync_interval"),
    ("redis", "usual"): ("appendfsync everysec", "one server"),
    ("redis", "always"): ("one server",),
}


@pytest.mark.parametrize(("kind", "fsync"), WEAK)
def test_doctor_and_the_log_report_what_the_engine_cannot_promise(tmp_path: Path, kind: Any, fsync: Any) -> None:
    engine_or_skip(kind)
    (tmp_path / "engine").mkdir()
    with LocalServers(kind, 1, tmp_path / "engine", fsync=fsync) as servers, ExitStack() as stack:
        cluster = Cluster(tmp_path, servers, stack)
        node = cluster.add("one")
        said = about_the_cluster(node)
        assert said.pop("ok") == [f"{kind} at {servers.url}, as node one"]
        found = " ".join(said.pop("warning"))
        assert not said
        for words in WEAK[(kind, fsync)]:
            assert words in found
            assert words in node.log.read_text()
        assert ("appendfsync" in found) == ((kind, fsync) == ("redis", "usual"))
        servers.kill(0)
        cluster.until(lambda: "broken" in about_the_cluster(node))


def test_doctor_sees_a_redis_that_has_no_file_any_more(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "redis", ["one"]) as cluster:

        async def without_file() -> None:
            client = importlib.import_module("redis.asyncio").from_url(cluster.servers.url)
            await client.config_set("appendonly", "no")
            await client.aclose()

        asyncio.run(without_file())
        found = about_the_cluster(cluster.nodes["one"])["warning"]
        assert any("no append-only file" in each for each in found)


def test_doctor_says_that_a_server_of_nats_is_too_old(tmp_path: Path) -> None:
    engine_or_skip("nats")
    with OldServer(tmp_path) as server:
        table = f'[cluster]\nengine = "nats"\nurl = "{server.url}"\nnode = "one"\n'
        with DaemonProcess(tmp_path, table) as node:
            server.asked.wait(BOUND_S)
            end = time.monotonic() + BOUND_S
            while "cannot use" not in (found := str(about_the_cluster(node)["broken"])):
                assert time.monotonic() < end, found
                time.sleep(LOOK_S)
            assert "cannot use NATS server 2.10: keys with an end need 2.11" in found


class OldServer:
    """Says that it is a server of NATS 2.10, or runs the one that CORRAL_OLD_NATS names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.asked = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self._program: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "OldServer":
        if program := os.environ.get("CORRAL_OLD_NATS"):
            self._listener.close()
            port = self.url.rpartition(":")[2]
            command = [program, "-a", "127.0.0.1", "-p", port, "-js", "-sd", str(self._folder / "old")]
            self._program = subprocess.Popen(command)
            self.asked.set()
        else:
            threading.Thread(target=self._serve).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._program is not None:
            self._program.terminate()
            self._program.wait(BOUND_S)
        else:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _serve(self) -> None:
        info = {"server_id": "x", "version": "2.10.26", "headers": True, "max_payload": 1 << 20}
        while True:
            try:
                peer = self._listener.accept()[0]
            except OSError:
                return
            with peer, peer.makefile("rb") as said:
                peer.sendall(f"INFO {json.dumps(info)}\r\n".encode())
                for line in said:
                    if line.startswith(b"PING"):
                        peer.sendall(b"PONG\r\n")
                        self.asked.set()


def about_the_cluster(node: DaemonProcess) -> dict[str, list[str]]:
    """Returns what doctor says about the cluster, by verdict."""
    found: dict[str, list[str]] = {}
    for each in node.call("daemon.doctor")["findings"]:
        if each["topic"] == "cluster":
            found.setdefault(each["verdict"], []).append(each["found"])
    return found


def test_a_node_without_its_engine_says_so_goes_on_locally_and_joins_again(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "nats") as cluster:
        one = cluster.add("one", ECHO + PLACED)
        cluster.add("two")
        until_all_answer(cluster)
        with one.client() as client:
            wanted = {"types": ["node.*", "daemon.*"], "node": "one"}
            client.call("event.follow", wanted, timeout_s=BOUND_S)
            cluster.servers.kill(0)
            seen: dict[str, object] = {}
            batches: Any = client.notifications()  # of shapes that the test knows
            batches = (batch for batch in batches if batch.method == "event")
            events = (each for batch in batches for each in batch.params["events"])
            for event in events:
                seen[event["type"]] = event
                if event["type"] == "node.stopped":
                    break
            assert {"node.cordoned", "node.stopped", "daemon.degraded"} <= seen.keys()
            status = one.call("daemon.status")
            assert status["daemon"]["degraded"] == ["cluster"]
            assert status["missing_nodes"] == ["two"]
            told = {each["name"]: each["state"] for each in one.call("node.list")["nodes"]}
            assert told == {"one": "away", "two": "unknown"}
            with pytest.raises(Timeout):
                one.call("task.run", agent="single", objective="x")
            done = one.call("task.run", agent="echo", objective="echo")
            assert done["state"] == "succeeded"
            cluster.servers.start(0)
            assert any(event["type"] == "daemon.recovered" for event in events)
        assert one.call("daemon.status")["daemon"]["degraded"] == []
        cluster.until(lambda: names(one) == ["one", "two"])


@pytest.mark.long
def test_a_daemon_starts_without_the_engine_and_joins_when_it_is_there(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "nats") as cluster:
        cluster.servers.kill(0)
        (folder := tmp_path / "one").mkdir()
        table = cluster_table(cluster.servers, "one")
        with DaemonProcess(folder, f"{table}\n{ECHO}") as one:
            assert one.call("task.run", agent="echo", objective="echo")["state"] == "succeeded"
            cluster.until(lambda: one.call("daemon.status")["daemon"]["degraded"] == ["cluster"])
            cluster.servers.start(0)
            cluster.until(lambda: names(one) == ["one"])


def test_a_daemon_without_a_cluster_imports_nothing_of_it(tmp_path: Path) -> None:
    config = tmp_path / "corral.toml"
    config.write_text(ECHO)
    program = (
        "import sys\n"
        "import corral.supervisor.daemon, corral.supervisor.daemon.composition.groups\n"
        "from corral.supervisor.daemon.host.installation import read_config\n"
        "from pathlib import Path\n"
        "read_config(Path(sys.argv[1]))\n"
        "print(*sorted(sys.modules))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program, str(config)], capture_output=True, text=True, timeout=BOUND_S, check=True
    )
    loaded = ended.stdout.split()
    assert "corral.supervisor.daemon.composition.groups" in loaded
    rooms = tuple(f"corral.supervisor.{room}" for room in ROOMS)
    assert [name for name in loaded if name.startswith((*rooms, "nats", "redis"))] == []
    with DaemonProcess(tmp_path, ECHO) as here, pytest.raises(NotFound) as alone:
        here.call("node.list")
    assert alone.value.data["key"] == "cluster"
