"""A caller of a tenant, or with a token for some agents, sees on any node what it may see of all nodes, and nothing else."""

import sys
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import cluster_of, placed, until_all_answer
from corral.worker.client.sync import Client
from corral.worker.contract.errors import NotFound
from daemon_process import AGENTS, BOUND_S

pytestmark = pytest.mark.shell


def table(name: str) -> str:
    return f"""
[agents."{name}"]
command = ["{sys.executable}", "{AGENTS / "sdk_sync.py"}"]
"""


TENANTS = "[tenants.acme]\n[tenants.globex]\n"


def seen(client: Client, **where: object) -> dict[str, set[str]]:
    """Returns the names of the agents that some lists have, and those of the agents of events and tasks."""

    def call(method: str, **params: object) -> Any:
        return client.call(method, {**params, **where}, timeout_s=BOUND_S)

    status, events = call("daemon.status"), call("event.list", types=["agent.added"])
    return {
        "status": {each["name"] for each in status["agents"]},
        "agents": {each["name"] for each in call("agent.list")["agents"]},
        "events": {each["agent"] for each in events["events"]},
        "tasks": {each["agent"] for each in call("task.list")["tasks"]},
    }


def test_a_restricted_caller_sees_what_it_may_of_all_nodes_and_nothing_else(tmp_path: Path) -> None:
    nowhere = placed(tmp_path).replace("placement = {}", "placement = { replicas = 0 }")
    first, second = map(table, ("red-one", "blue-one")), map(table, ("red-two", "green-two"))
    with cluster_of(tmp_path, "nats") as cluster:
        one = cluster.add("one", nowhere + "".join(first) + TENANTS)
        two = cluster.add("two", "".join(second) + TENANTS)
        until_all_answer(cluster)
        for node, name in ((one, "acme/a"), (two, "acme/b"), (two, "globex/c")):
            spec = {"command": ["sleep", "1000"], "protocol": "none"}
            node.call("agent.add", name=name, spec=spec)
        for name in ("red-two", "green-two", "single"):  # the last one waits on the engine
            one.call("task.submit", agent=name, objective="echo", input=1)
        cluster.until(lambda: len(one.call("task.list")["tasks"]) == 3)
        token = one.call("token.add", name="reds", rights="read", agents=["red-*"])["token"]
        with one.client() as client:
            client.call("auth.login", {"token": token}, timeout_s=BOUND_S)
            reds = {"red-one", "red-two"}
            wanted = {"status": reds, "agents": reds, "events": reds, "tasks": {"red-two"}}
            assert seen(client) == seen(client, node="*") == wanted
            assert seen(client, node="one")["agents"] == {"red-one"}
            with pytest.raises(NotFound):
                client.call("agent.show", {"name": "green-two"}, timeout_s=BOUND_S)
        for node in (one, two):
            with node.client() as client:
                client.call("auth.login", {"tenant": "acme"}, timeout_s=BOUND_S)
                own = {"acme/a", "acme/b"}
                none: set[str] = set()
                wanted = {"status": own, "agents": own, "events": own, "tasks": none}
                assert seen(client) == seen(client, node="*") == wanted
