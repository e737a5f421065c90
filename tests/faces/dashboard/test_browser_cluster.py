"""The dashboard of one node shows all nodes of the cluster, in a real Chromium: one run of `cluster.mjs`."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import cluster_of, until_all_answer
from daemon_process import AGENTS, BOUND_S
from http_api_client import Api
from node_packages import MODULES, NODE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.shell,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
    pytest.mark.skipif(
        not (MODULES / "playwright-core").is_dir() or not (MODULES / "axe-core").is_dir(),
        reason="no npm packages: make test could not reach a registry",
    ),
]

SAME = f"""
[daemon]
http = "127.0.0.1:0"

[agents.same]
command = ["python", "{AGENTS / "http_agent.py"}"]
"""

SECOND = f"""
[agents.second]
entrypoint = "questions_agent:agent"
process.working_directory = "{AGENTS}"
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with cluster_of(tmp_path_factory.mktemp("browser"), "nats") as cluster:
        one = cluster.add("one", 'labels = { zone = "a" }' + SAME)
        two = cluster.add("two", SAME + SECOND, capacity=7)
        until_all_answer(cluster)
        for node, worker in ((one, "same-0"), (two, "same-0"), (two, "second-0")):
            node.await_worker(worker, lambda found: found["state"] in ("Ready", "Idle"))
        api = Api(one)
        script = Path(__file__).parent / "cluster.mjs"
        running = subprocess.Popen(
            [NODE, str(script), str(CHROMIUM), f"http://{api.address}"],
            env={**os.environ, "ADMIN_TOKEN": api.token, "MODULES": str(MODULES)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stdout is not None
        last = ""
        for line in running.stdout:
            last = line
            if line == "KILL\n":
                two.kill()
            elif line == "START\n":
                two.start()
        _, errors = running.communicate(timeout=BOUND_S)
        assert running.returncode == 0, errors
        yield json.loads(last)


def test_the_nodes_are_shown_and_drained(found: dict[str, Any]) -> None:
    assert found["errors"] == []
    assert found["axe"] == {"nodes": []}
    one, two = found["nodes"]
    assert (one[:3], one[7]) == (["one (this page)", "ready", "0/100"], "zone=a")
    assert two[:4] == ["two", "ready", "0/7", "2/2"]


def test_the_agents_of_all_nodes_are_shown_and_operated(found: dict[str, Any]) -> None:
    assert found["agents"] == [["same", "one"], ["same", "two"], ["second", "two"]]
    assert found["stopped"] == {"one": True, "two": False}
    assert found["logs"] == ["same-0@two"]
    assert found["tasks"] == [["same", "two"]]


def test_a_question_of_another_node_is_answered(found: dict[str, Any]) -> None:
    assert (found["question"], found["answer"]) == ("second@two", "yes")


def test_a_node_that_dies_is_a_problem_until_it_is_back(found: dict[str, Any]) -> None:
    assert found["problem"].startswith("missingtwothe node does not answer")
