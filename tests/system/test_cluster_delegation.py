"""Agents, workflows and schedules of one node give tasks to agents that the cluster has placed on another."""

import sys
from pathlib import Path

import pytest

from cluster_of_daemons import began, cluster_of, home_of, placed
from corral.worker.contract.errors import Conflict, NotFound, TaskFailed
from daemon_process import AGENTS

pytestmark = pytest.mark.shell

LOCAL = f"""
[agents.local]
command = ["{sys.executable}", "{AGENTS / "delegating_agent.py"}"]

[[workflows.flow.steps]]
name = "first"
agent = "single"
objective = "spend"
input = 1

[[workflows.flow.steps]]
name = "second"
agent = "single"
objective = "x"
input = "${{steps.first.output.input}}"
after = ["first"]
"""

TICKING = """
[schedules.tick]
every = "1s"
agent = "single"
objective = "x"
"""


@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.long)])
def test_agents_and_workflows_give_tasks_to_an_agent_on_another_node(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind) as cluster:
        table = f"{placed(folder)}[agents.single.tasks]\ndefault_priority = 7\n"
        cluster.add("one", table)
        home_of(cluster)
        two = cluster.add("two", table + LOCAL)
        cluster.until(lambda: len(two.call("node.list")["nodes"]) == 2)
        done = two.call("task.run", agent="local", objective="spend", input=5, context={"to": "single"})
        child = done["output"]
        assert (child["state"], child["output"]["input"]) == ("succeeded", 5)
        assert (child["worker"], child["priority"]) == ("single-0@one", 7)
        assert (child["tokens_used"], child["cost_cents"]) == (10, 2.0)
        tree = two.call("task.tree", task=done["id"])
        assert [each["task"]["id"] for each in tree["children"]] == [child["id"]]
        given = {"to": "single", "priority": 9}
        urgent = two.call("task.run", agent="local", objective="spend", context=given)
        assert urgent["output"]["priority"] == 9
        flow = two.call("task.run", agent="flow", objective="go")
        assert flow["state"] == "succeeded"

        def counted(**where: object) -> int:
            return int(two.call("daemon.status", **where)["tasks"]["succeeded"])

        # A task that was delegated counts once: three that delegate or have steps, and the four on the other node.
        cluster.until(lambda: counted() == 7)
        assert (counted(node="one"), counted(node="two")) == (4, 3)
        two.stop()
        two.start()
        cluster.until(lambda: counted() == 7)

        dear = two.call(
            "task.run", agent="local", objective="spend", context={"to": "single"}, boundaries={"max_cost_cents": 1.0}
        )
        assert dear["error"]["name"] == "ResourceLimitExceeded"  # counted with who delegated it
        failed = two.call("task.run", agent="local", objective="fail", context={"to": "single"})
        assert failed["error"]["name"] == TaskFailed.__name__

        waits = two.call("task.submit", agent="local", objective="wait", context={"to": "single"})
        cluster.until(lambda: list(folder.glob("began-*")))
        two.call("task.cancel", task=waits["id"])  # and the part of it on the other node
        after = two.call("task.run", agent="single", objective="x", input=3)
        assert after["output"]["input"] == 3

        first = two.call("task.submit", agent="single", objective="wait", input=1)
        began(cluster, folder, first)
        last = two.call("task.submit", agent="single", objective="x", input=2, after=[first["id"]])
        assert two.call("task.show", task=last["id"])["state"] != "succeeded"
        (folder / "go").touch()
        assert two.call("task.wait", task=last["id"])["output"]["input"] == 2
        with pytest.raises(NotFound):
            two.call("task.submit", agent="single", objective="x", after=["x0123456789abcdef"])


def test_one_node_submits_each_run_of_a_schedule_and_another_goes_on_when_it_dies(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, "nats", ["one", "two"], placed(folder) + TICKING) as cluster:

        def runs(name: str) -> list[dict[str, object]]:
            return list(cluster.nodes[name].call("task.list", schedule="tick", node=name)["tasks"])

        cluster.until(lambda: len(runs("one")) + len(runs("two")) >= 4)
        keys = [str(each["idempotency_key"]) for name in ("one", "two") for each in runs(name)]
        assert len(keys) == len(set(keys))
        cluster.nodes.pop("one").kill()
        before = len(runs("two"))
        cluster.until(lambda: len(runs("two")) >= before + 2)


def test_a_schedule_that_is_added_to_a_placed_agent_lives_with_the_cluster(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, "nats", ["one", "two"], placed(folder)) as cluster:
        one, two = cluster.nodes["one"], cluster.nodes["two"]
        cluster.until(lambda: len(two.call("node.list")["nodes"]) == 2)
        home_of(cluster)
        task = {"agent": "single", "objective": "x"}
        made = one.call("schedule.add", name="tick", every_s=1.0, task=task)
        assert made["source"] == "cluster"
        with pytest.raises(Conflict):
            two.call("schedule.add", name="tick", every_s=1.0, task=task)

        def runs() -> list[dict[str, object]]:
            found = cluster.nodes["two"].call("task.list", schedule="tick")["tasks"]
            return [each for each in found if not str(each["id"]).startswith("x")]

        cluster.until(lambda: len(runs()) >= 4)
        keys = [str(each["idempotency_key"]) for each in runs()]
        assert len(keys) == len(set(keys)), "one node submits each"
        [listed] = two.call("schedule.list")["schedules"]
        assert (listed["name"], listed["node"]) == ("tick", None), "it is shown once"
        assert two.corral("schedule", "pause", "tick").returncode == 0
        cluster.until(lambda: one.call("schedule.show", name="tick")["paused"])
        one.call("schedule.resume", name="tick")
        cluster.until(lambda: not two.call("schedule.show", name="tick")["paused"])
        one.kill()  # where it was added
        before = len(runs())
        cluster.until(lambda: len(runs()) >= before + 2)
        one.start()  # it has what an earlier life of it had
        cluster.until(lambda: one.call("schedule.show", name="tick")["source"] == "cluster")
        cluster.until(lambda: len(one.call("node.list")["nodes"]) == 2)
        assert two.corral("schedule", "rm", "tick").returncode == 0
        cluster.until(lambda: one.call("schedule.list")["schedules"] == [])
