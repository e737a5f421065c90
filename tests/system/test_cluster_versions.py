"""Nodes of two versions read each other's messages: a field that one of them does not know loses nothing."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from cluster_of_daemons import cluster_of, home_of
from corral.supervisor.cluster.calls.forwarding import Call, Question, Reply
from corral.supervisor.cluster.calls.remote_caller import CallerFacts
from corral.supervisor.cluster.engine.connection import open_engine
from corral.supervisor.cluster.engine.interface import Engine
from corral.supervisor.cluster.engine.local_servers import LocalServers
from corral.supervisor.cluster.lease.record import NodeRecord
from corral.supervisor.cluster.state.state import Assignment, CancelledTask, Drained, PlacedSpec, spec_key
from corral.supervisor.cluster.state.stored_task import StoredEnd, StoredTask, encoded_task, queue_of
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.records import Task, TaskParams
from daemon_process import AGENTS
from system.test_cluster_placement import placed

STORED = StoredTask(id="x1", params=TaskParams(agent="single", objective="brief"), created_at="now", origin="one")
TASK = Task(id="x1", agent="single", priority=5, objective="brief", created_at="now")

MESSAGES = (
    NodeRecord(name="one", incarnation="i"),
    CancelledTask(by="one"),
    Drained(by="me", at="now"),
    PlacedSpec(table={}, directory="/"),
    Assignment(node="one"),
    StoredEnd(task=TASK, node="one", token=1),
    Question(names=["a"]),
    Reply(),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: type(each).__name__)
def test_a_message_with_a_newer_field_is_read(message: Struct) -> None:
    plain = {**json.loads(msgspec.json.encode(message)), "newer": {"of": "another version"}}
    assert msgspec.json.decode(json.dumps(plain), type=type(message)) == message


def test_a_call_with_newer_fields_is_read() -> None:
    facts = CallerFacts.__struct_fields__
    assert "newer" not in facts
    assert not Call.__struct_config__.forbid_unknown_fields
    assert not CallerFacts.__struct_config__.forbid_unknown_fields


def test_a_stored_task_names_only_the_params_that_were_given() -> None:
    found = json.loads(encoded_task(STORED))
    assert found["params"] == {"objective": "brief", "agent": "single"}
    assert msgspec.json.decode(encoded_task(STORED), type=StoredTask) == STORED


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_a_task_with_a_param_of_a_newer_version_is_kept_for_a_node_that_knows_it(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "journal").mkdir()
    newer = json.loads(encoded_task(STORED))
    newer["params"]["newer"] = True
    with cluster_of(tmp_path, kind, ["one"], placed(folder)) as cluster:
        node = cluster.nodes["one"]
        cluster.until(lambda: (folder / "journal").exists())
        queue = queue_of("single")
        on(cluster.servers, lambda engine: engine.append(queue, "x1", json.dumps(newer).encode()))
        cluster.until(lambda: "x1" in node.log.read_text())
        task = node.call("task.run", agent="single", objective="brief")
        assert task["state"] == "succeeded"
        node.stop()
        (kept,) = on(cluster.servers, lambda engine: engine.take(queue, 10.0))
        assert (kept.id, kept.payload) == ("x1", json.dumps(newer).encode())
        assert kept.delivery > 1


@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.long)])
def test_an_agent_with_a_key_of_a_newer_version_runs_on_a_node_that_knows_it(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "journal").mkdir()
    with cluster_of(tmp_path, kind, ["old"], placed(folder)) as cluster:
        old = cluster.nodes["old"]
        assert home_of(cluster) == "old"
        program = [sys.executable, "-P", str(AGENTS / "corrald_newer.py")]
        cluster.add("newer", prefix=program)
        publish(cluster.servers, {"newer": True})
        cluster.until(lambda: home_of(cluster) == "newer")
        told = old.call("event.list", types=["config.refused"])["events"]
        assert [(each["agent"], "newer" in each["reason"]) for each in told] == [("single", True)]
        cluster.nodes.pop("newer").stop()
        cluster.until(lambda: old.call("event.list", types=["agent.unplaced"])["events"])
        assert old.call("daemon.status")["agents"] == []  # it takes nothing that it cannot run
        publish(cluster.servers, {})
        assert home_of(cluster) == "old"
        assert (folder / "journal").read_text().count("twice") == 0


def publish(servers: LocalServers, more: dict[str, object]) -> None:
    """Publishes the table of the agent with more keys, in place of those that were published before."""

    async def put(engine: Engine) -> None:
        entry = await engine.get(spec_key("single"))
        assert entry is not None
        known = msgspec.json.decode(entry.value, type=PlacedSpec)
        table = {key: value for key, value in known.table.items() if key != "newer"}
        changed = msgspec.structs.replace(known, table={**table, **more})
        await engine.put(entry.key, msgspec.json.encode(changed), revision=entry.revision)

    on(servers, put)


def on(servers: LocalServers, work: Callable[[Engine], Awaitable[Any]]) -> Any:
    """Returns what an operation of a new connection to the engine returns."""

    async def done() -> Any:
        engine = await open_engine(ClusterSettings(engine=servers.kind, url=servers.url))
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(done())
