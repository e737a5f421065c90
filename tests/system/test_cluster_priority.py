"""Tasks of a placed agent are taken in the order of their priorities, from whichever node they come."""

from pathlib import Path

import pytest

from cluster_of_daemons import began, cluster_of, home_of, placed

pytestmark = pytest.mark.shell

GIVEN = (("low", 1), ("usual", None), ("urgent", 10), ("five", 5), ("three", 3), ("also urgent", 10))
WANTED = ["urgent", "also urgent", "usual", "five", "three", "low"]


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_the_most_urgent_task_is_taken_first(tmp_path: Path, kind: str) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind, ["one", "two"], placed(folder)) as cluster:
        first = home_of(cluster)
        here = cluster.nodes[first]
        other = next(node for name, node in cluster.nodes.items() if name != first)
        running = here.call("task.submit", agent="single", objective="wait")
        began(cluster, folder, running)
        tasks = [
            (here, other)[index % 2].call(
                "task.submit",
                agent="single",
                objective="note",
                input=name,
                **({} if priority is None else {"priority": priority}),
            )
            for index, (name, priority) in enumerate(GIVEN)
        ]
        assert [each["priority"] for each in tasks] == [each or 5 for _, each in GIVEN]
        listed = {each["id"] for each in other.call("task.list")["tasks"]}
        assert listed >= {each["id"] for each in tasks}
        (folder / "go").touch()
        for each in tasks:
            assert other.call("task.wait", task=each["id"])["state"] == "succeeded"
        assert (folder / "order").read_text().splitlines() == WANTED


def test_the_priority_without_a_word_is_that_of_the_agent(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    table = f"{placed(folder)}[agents.single.tasks]\ndefault_priority = 7\n"
    with cluster_of(tmp_path, "nats", ["one"], table) as cluster:
        node = cluster.nodes["one"]
        home_of(cluster)
        running = node.call("task.submit", agent="single", objective="wait")
        began(cluster, folder, running)
        assert running["priority"] == 7
        for name, priority in (("six", 6), ("usual", None), ("seven", 7), ("eight", 8)):
            params = {} if priority is None else {"priority": priority}
            node.call("task.submit", agent="single", objective="note", input=name, **params)
        last = node.call("task.submit", agent="single", objective="note", input="last", priority=1)
        (folder / "go").touch()
        assert node.call("task.wait", task=last["id"])["priority"] == 1
        assert (folder / "order").read_text().split() == ["eight", "usual", "seven", "six", "last"]
