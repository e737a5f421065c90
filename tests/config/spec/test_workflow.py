"""The tables of workflows and teams: what they may hold, and every refusal with its key; and the routing of a team."""

import re
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.config.spec.loader import decode, decode_group, group_table
from corral.supervisor.config.spec.references import check_groups
from corral.supervisor.config.spec.spec import kind_of_group
from corral.supervisor.config.spec.team import Candidate, chosen, circle
from corral.supervisor.config.spec.workflow import in_order
from corral.worker.contract.errors import InvalidParams
from workflow_config import config, step, workflow

pytestmark = pytest.mark.core

REPORT = """
[workflows.report]
timeout = "10m"
output = "${steps.publish.output}"
[[workflows.report.steps]]
name = "gather"
agent = "reader"
objective = "read ${input.url}"
input = { url = "${input.url}" }
[[workflows.report.steps]]
name = "publish"
agent = "writer"
when = "steps.gather.output.count > 0"
for_each = "${steps.gather.output.items}"
input = "${item} of ${index}"
retry = { max_attempts = 3, retry_on = "any", retry_backoff_base = "10ms" }
timeout = "30s"
output_format = { schema = { type = "string" } }
"""

TEAM = """
[teams.editors]
lead = "chief"
members = ["writer", "reader"]
"""


# --- tables ---------------------------------------------------------------------------------------


def test_tables_of_teams_and_workflows_are_read_and_written_alike() -> None:
    for each in config(REPORT + TEAM).groups.values():
        again = decode_group(each.name, group_table(each), kind=kind_of_group(each), source=each.source)
        assert again == each


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('agent = "reader"', 'agent = "nobody"', "workflows.report.steps.gather.agent"),
        ('agent = "reader"', 'agent = "plain"', "workflows.report.steps.gather.agent"),
        ('agent = "reader"', 'agent = "report"', "workflows.report"),
        ('agent = "reader"', "", "workflows.report.steps.gather.agent"),
        ('agent = "reader"', 'agent = "reader"\ncapability = "x"', "workflows.report.steps.gather.agent"),
        ('name = "gather"', "", "workflows.report.steps.1.name"),
        ('name = "gather"', 'name = "publish"', "workflows.report.steps.publish"),
        ('name = "gather"', 'name = "gather"\nnmae = 1', "workflows.report.steps.gather.nmae"),
        ('name = "gather"', 'name = "gather"\nafter = ["nobody"]', "workflows.report.steps.gather.after"),
        ('name = "gather"', 'name = "gather"\nafter = ["publish"]', "workflows.report.steps.gather.after"),
        ("read ${input.url}", "read ${input.url", "workflows.report.steps.gather.objective"),
        ("read ${input.url}", "read ${item}", "workflows.report.steps.gather.objective"),
        ("read ${input.url}", "read ${steps.publish.output}", "workflows.report.steps.gather.after"),
        ("gather.output.count > 0", "gahter.output.count > 0", "workflows.report.steps.publish.when"),
        ("gather.output.count > 0", "gather.count > 0", "workflows.report.steps.publish.when"),
        ("gather.output.count > 0", "gather.output.count >", "workflows.report.steps.publish.when"),
        ("steps.gather.output.count > 0", "item > 0", "workflows.report.steps.publish.when"),
        ('"${steps.gather.output.items}"', '"x"', "workflows.report.steps.publish.for_each"),
        ("${steps.publish.output}", "${steps}", "workflows.report.output"),
        ("${steps.publish.output}", "${steps.nobody.output}", "workflows.report.output"),
        ('"30s"', '"soon"', "workflows.report.steps.publish.timeout"),
        ('"any"', '"sometimes"', "workflows.report.steps.publish.retry.retry_on"),
        ('"10m"', "0", "workflows.report.timeout"),
        ("[workflows.report]", "[workflows.reader]", "workflows.reader"),
        ("[workflows.report]", "[workflows.cortex]", "workflows.cortex"),
        ('"writer", "reader"', '"writer", "nobody"', "teams.editors.members"),
        ('"writer", "reader"', '"writer", "writer"', "teams.editors.members"),
        ('"writer", "reader"', '"writer", "chief"', "teams.editors.members"),
        ('"writer", "reader"', '"editors"', "teams.editors"),
        ('"writer", "reader"', "", "teams.editors.members"),
        ('lead = "chief"', "", "teams.editors.lead"),
        ('lead = "chief"', 'lead = "report"', "teams.editors.lead"),
        ('lead = "chief"', 'lead = "chief"\nmode = "broadcast"', "teams.editors.lead"),
        ('lead = "chief"', 'lead = "chief"\nrouting = "sticky"', "teams.editors.routing"),
        ('lead = "chief"', 'mode = "vote"', "teams.editors.mode"),
    ],
)
def test_a_wrong_table_is_refused_by_the_name_of_the_step_and_key(old: str, new: str, key: str) -> None:
    text = REPORT + TEAM
    assert old in text
    with pytest.raises(InvalidParams) as caught:
        config(text.replace(old, new).replace("[[workflows.report.", f"[[workflows.{name_in(new)}."))
    assert caught.value.data["key"] == key


def name_in(header: str) -> str:
    return header[11:-1] if header.startswith("[workflows.") else "report"


def test_what_needs_each_other_in_a_circle_is_refused() -> None:
    ring = '[teams.a]\nmode = "route"\nmembers = ["b"]\n[teams.b]\nmode = "route"\nmembers = ["c"]\n'
    ring += "[workflows.c]\n[[workflows.c.steps]]\nname = 'x'\nagent = 'a'\n"
    with pytest.raises(InvalidParams) as caught:
        config(ring)
    cycle: Any = caught.value.data["cycle"]
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"a", "b", "c"}
    assert not circle({"a": ["b", "c"], "b": ["c"], "c": []})


def test_a_reference_is_a_dependency_without_a_word() -> None:
    flow = workflow(step("b", 'input = "${steps.a.output}"') + step("a") + step("c", 'after = ["b"]'))
    assert [each.name for each in in_order(flow)] == ["a", "b", "c"]


def test_a_member_may_be_a_team_or_a_workflow() -> None:
    text = '[teams.all]\nmode = "broadcast"\nmembers = ["editors", "report", "reader"]\n'
    found = config(REPORT + TEAM + text)
    with pytest.raises(InvalidParams):
        check_groups({"all": found.groups["all"]}, found.agents)


DOCS = Path(__file__).parents[3] / "docs"


def test_what_the_page_on_crews_shows_is_valid() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "reference" / "teams-and-workflows.md").read_text("utf-8"), re.S)
    assert blocks
    for block in blocks:
        assert decode(block, source="teams-and-workflows.md", directory="/").groups


# --- who of a team --------------------------------------------------------------------------------


def test_routing_takes_the_least_loaded_member() -> None:
    crew = [Candidate("a", 0, 1), Candidate("b", 1, 0), Candidate("c", 2, 0)]
    assert chosen("least-load", crew, turn=0, sticky_key="") == "c"
    assert chosen("least-load", [Candidate("a", 0, 3), Candidate("b", 0, 1)], turn=0, sticky_key="") == "b"
    assert chosen("least-load", [], turn=0, sticky_key="") is None


@pytest.mark.parametrize(
    ("candidates", "name"),
    [
        ({"a": (0.0, 0.9), "b": (0.5, 1.0), "c": (0.0, 0.5)}, "b"),  # the highest success rate
        ({"a": (0.5, 1.0), "b": (0.0, 1.0)}, "b"),  # of equal ones the least loaded
        ({"a": (2.0, 1.0), "b": (0.5, 0.9)}, "b"),  # an overloaded one comes later
        ({"a": (2.0, 1.0), "b": (0.0, 0.7)}, "a"),  # and before one that mostly fails
        ({"a": (3.0, 1.0), "b": (2.0, 0.9)}, "b"),  # of overloaded ones the least loaded
        ({"a": (0.0, 0.1), "b": (0.0, 0.5)}, "b"),  # where all fail, the one that fails least
        ({"a": (0.0, 0.99), "b": (0.0, None)}, "b"),  # one that has ended none is tried
        ({"b": (0.0, None), "a": (0.0, 1.0)}, "a"),  # equals by name
        ({}, None),
    ],
)
def test_best_takes_success_before_load(candidates: dict[str, tuple[float, float | None]], name: str | None) -> None:
    crew = [Candidate(each, 1, 0, load=load, success_rate=rate) for each, (load, rate) in candidates.items()]
    assert chosen("best", crew, turn=0, sticky_key="") == name


def test_round_robin_takes_one_after_the_other() -> None:
    crew = [Candidate(name, 1, 0) for name in "abc"]
    assert [chosen("round-robin", crew, turn=n, sticky_key="") for n in range(5)] == list("abcab")


def test_a_key_sticks_to_its_member_and_moves_only_when_that_is_gone() -> None:
    crew = [Candidate(name, n, 0) for n, name in enumerate(("a", "b", "c", "d"))]
    keys = [f"key {n}" for n in range(200)]
    before = {key: chosen("sticky", crew, turn=n, sticky_key=key) for n, key in enumerate(keys)}
    assert {"a", "b", "c", "d"} == set(before.values())
    fewer = [each for each in crew if each.name != "b"]
    after = {key: chosen("sticky", fewer, turn=0, sticky_key=key) for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != "b")
