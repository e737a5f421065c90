"""Workflows and teams: what their tables may say, and what follows from how far the steps have come."""

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from corral.supervisor.config.loader import check_groups, decode, decode_group, group_table
from corral.supervisor.config.spec import Config, kind_of_group
from corral.supervisor.config.team import TEAM_KEYS, Candidate, chosen, circle
from corral.supervisor.config.workflow import (
    STEP_KEYS,
    WORKFLOW_KEYS,
    Branch,
    Decision,
    Workflow,
    decide,
    in_order,
)
from corral.worker.contract.errors import Conflict, InvalidParams, TaskFailed
from corral.worker.contract.records import Error, Task

pytestmark = pytest.mark.core

AGENTS = """
[agents.reader]
command = ["true"]
[agents.writer]
command = ["true"]
[agents.chief]
command = ["true"]
[agents.plain]
command = ["true"]
protocol = "none"
"""

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


def config(text: str) -> Config:
    return decode(AGENTS + text, source="corral.toml", directory="/")


def workflow(steps: str, head: str = "") -> Workflow:
    tables = steps.replace("[[", "[[workflows.flow.").replace("flow.step]]", "flow.steps]]")
    found = config(f"[workflows.flow]\n{head}\n{tables}").groups["flow"]
    assert isinstance(found, Workflow)
    return found


def step(name: str, *more: str, agent: str = "reader") -> str:
    return "\n".join(["[[step]]", f'name = "{name}"', f'agent = "{agent}"', *more, ""])


def task(**fields: Any) -> Task:
    return replace(Task(id="t", agent="flow", objective="do it"), **fields)


def done(output: object = None, name: str = "c") -> Branch:
    return Branch(name, "succeeded", output)


def failed(code: int = -33013, name: str = "TaskFailed") -> Branch:
    return Branch("c", "failed", error=Error(code, name, "cannot do it", {"why": "so"}))


OPEN = Branch("c", "open")


# --- tables ---------------------------------------------------------------------------------------


def test_tables_of_teams_and_workflows_are_read_and_written_alike() -> None:
    for each in config(REPORT + TEAM).groups.values():
        again = decode_group(
            each.name, group_table(each), kind=kind_of_group(each), source=each.source
        )
        assert again == each


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('agent = "reader"', 'agent = "nobody"', "workflows.report.steps.gather.agent"),
        ('agent = "reader"', 'agent = "plain"', "workflows.report.steps.gather.agent"),
        ('agent = "reader"', 'agent = "report"', "workflows.report"),
        ('agent = "reader"', "", "workflows.report.steps.gather.agent"),
        (
            'agent = "reader"',
            'agent = "reader"\ncapability = "x"',
            "workflows.report.steps.gather.agent",
        ),
        ('name = "gather"', "", "workflows.report.steps.1.name"),
        ('name = "gather"', 'name = "publish"', "workflows.report.steps.publish"),
        ('name = "gather"', 'name = "gather"\nnmae = 1', "workflows.report.steps.gather.nmae"),
        (
            'name = "gather"',
            'name = "gather"\nafter = ["nobody"]',
            "workflows.report.steps.gather.after",
        ),
        (
            'name = "gather"',
            'name = "gather"\nafter = ["publish"]',
            "workflows.report.steps.gather.after",
        ),
        ("read ${input.url}", "read ${input.url", "workflows.report.steps.gather.objective"),
        ("read ${input.url}", "read ${item}", "workflows.report.steps.gather.objective"),
        (
            "read ${input.url}",
            "read ${steps.publish.output}",
            "workflows.report.steps.gather.after",
        ),
        (
            "gather.output.count > 0",
            "gahter.output.count > 0",
            "workflows.report.steps.publish.when",
        ),
        ("gather.output.count > 0", "gather.count > 0", "workflows.report.steps.publish.when"),
        ("gather.output.count > 0", "gather.output.count >", "workflows.report.steps.publish.when"),
        ("steps.gather.output.count > 0", "item > 0", "workflows.report.steps.publish.when"),
        ('"${steps.gather.output.items}"', '"x"', "workflows.report.steps.publish.for_each"),
        ("${steps.publish.output}", "${steps}", "workflows.report.output"),
        ("${steps.publish.output}", "${steps.nobody.output}", "workflows.report.output"),
        ('"30s"', '"soon"', "workflows.report.steps.publish.timeout"),
        ('"any"', '"sometimes"', "workflows.report.steps.publish.retry"),
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
def test_a_wrong_table_is_refused_by_the_name_of_the_step_and_key(
    old: str, new: str, key: str
) -> None:
    text = REPORT + TEAM
    assert old in text
    with pytest.raises(InvalidParams) as caught:
        config(
            text.replace(old, new).replace("[[workflows.report.", f"[[workflows.{name_in(new)}.")
        )
    assert caught.value.data["key"] == key


def name_in(header: str) -> str:
    return header[11:-1] if header.startswith("[workflows.") else "report"


def test_what_needs_each_other_in_a_circle_is_refused() -> None:
    ring = (
        '[teams.a]\nmode = "route"\nmembers = ["b"]\n[teams.b]\nmode = "route"\nmembers = ["c"]\n'
    )
    ring += "[workflows.c]\n[[workflows.c.steps]]\nname = 'x'\nagent = 'a'\n"
    with pytest.raises(InvalidParams) as caught:
        config(ring)
    cycle: Any = caught.value.data["cycle"]
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"a", "b", "c"}
    assert not circle({"a": ["b", "c"], "b": ["c"], "c": []})


def test_a_reference_is_a_dependency_without_a_word() -> None:
    flow = workflow(
        step("b", 'input = "${steps.a.output}"') + step("a") + step("c", 'after = ["b"]')
    )
    assert [each.name for each in in_order(flow)] == ["a", "b", "c"]


def test_a_member_may_be_a_team_or_a_workflow() -> None:
    text = '[teams.all]\nmode = "broadcast"\nmembers = ["editors", "report", "reader"]\n'
    found = config(REPORT + TEAM + text)
    with pytest.raises(InvalidParams):
        check_groups({"all": found.groups["all"]}, found.agents)


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("## `[teams.NAME]`", TEAM_KEYS),
        ("## `[workflows.NAME]`", WORKFLOW_KEYS),
        ("## `[[workflows.NAME.steps]]`", STEP_KEYS),
    ],
)
def test_the_manual_has_every_key_in_order(heading: str, keys: Any) -> None:
    text = (DOCS / "reference" / "configuration.md").read_text("utf-8")
    part = text.split(f"\n{heading}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", part, re.M) == list(keys)


def test_what_the_page_on_crews_shows_is_valid() -> None:
    blocks = re.findall(
        r"```toml\n(.*?)```",
        (DOCS / "reference" / "teams-and-workflows.md").read_text("utf-8"),
        re.S,
    )
    assert blocks
    for block in blocks:
        assert decode(block, source="teams-and-workflows.md", directory="/").groups


# --- deciding -------------------------------------------------------------------------------------


def submitted(decision: Decision) -> list[str]:
    return [each.label for each in decision.submit]


def test_steps_begin_when_those_before_have_ended() -> None:
    flow = workflow(
        step("a") + step("b", 'after = ["a"]', 'input = "${steps.a.output.x}"') + step("c")
    )
    assert submitted(decide(flow, task(), {})) == ["a", "c"]
    assert submitted(decide(flow, task(), {"a": OPEN, "c": OPEN})) == []
    decision = decide(flow, task(), {"a": done({"x": 5}), "c": OPEN})
    assert submitted(decision) == ["b"]
    assert decision.submit[0].params.input == 5
    decision = decide(flow, task(), {"a": done({"x": 5}), "c": done(1), "b": done(2)})
    assert decision.is_done
    assert decision.output == {"b": 2, "c": 1}


def test_the_words_of_a_step_are_those_of_the_workflow_where_it_has_none() -> None:
    given = task(context={"k": 1}, priority=9, session="s", sticky_key="y", durable=False)
    flow = workflow(
        step("a") + step("b", 'objective = "${objective}!"', "priority = 2", "context = 7")
    )
    first, second = (each.params for each in decide(flow, given, {}).submit)
    assert (first.objective, first.input, first.context) == ("do it", None, {"k": 1})
    assert (first.priority, first.session, first.sticky_key, first.durable) == (9, "s", "y", False)
    assert (second.objective, second.context, second.priority) == ("do it!", 7, 2)


def test_a_step_whose_condition_is_not_met_is_skipped_with_what_hangs_on_it() -> None:
    steps = step("a") + step("b", 'when = "steps.a.output > 1"') + step("c", 'after = ["b"]')
    steps += step("d", 'after = ["a", "c"]', 'join = "any"')
    steps += step("e", 'after = ["b", "c"]', 'join = "any"') + step("f", 'after = ["a", "c"]')
    flow = workflow(steps)
    decision = decide(flow, task(), {"a": done(1)})
    assert submitted(decision) == ["d"]
    states = {name: stage.state for name, stage in decision.stages.items()}
    assert states == {"a": "succeeded", "d": "open"} | dict.fromkeys("bcef", "skipped")
    assert decide(flow, task(), {"a": done(1), "d": done(3)}).output == {"d": 3}
    assert submitted(decide(flow, task(), {"a": done(2)})) == ["b"]


def test_a_step_that_fails_ends_the_workflow_with_its_error() -> None:
    flow = workflow(step("a") + step("b", 'after = ["a"]') + step("c"))
    error = decide(flow, task(), {"a": failed(-33002, "Conflict"), "c": OPEN}).error
    assert isinstance(error, Conflict)
    assert error.data == {"why": "so", "workflow": "flow", "step": "a", "task": "c"}
    cancelled = Branch("c", "cancelled", error=Error(-33010, "Cancelled", "cannot", {}))
    assert isinstance(decide(flow, task(), {"a": cancelled}).error, TaskFailed)


def test_a_step_that_may_fail_is_what_later_steps_can_ask_about() -> None:
    steps = step("a", 'on_failure = "continue"')
    steps += step(
        "b", "when = \"steps.a.state == 'failed'\"", 'input = "${steps.a.error.data.why}"'
    )
    decision = decide(workflow(steps), task(), {"a": failed()})
    assert decision.error is None
    assert decision.submit[0].params.input == "so"
    assert submitted(decide(workflow(steps), task(), {"a": done()})) == []
    assert decide(workflow(steps), task(), {"a": done()}).is_done


@pytest.mark.parametrize("key", ["objective", "input", "context", "when", "for_each"])
def test_an_expression_without_a_value_fails_its_step_by_the_key(key: str) -> None:
    text = "input.missing" if key == "when" else "${input.missing}"
    error = decide(workflow(step("a", f'{key} = "{text}"')), task(input={}), {}).error
    assert isinstance(error, TaskFailed)
    assert (error.data["step"], error.data["key"]) == ("a", key)
    lenient = workflow(step("a", f'{key} = "{text}"', 'on_failure = "continue"'))
    assert decide(lenient, task(input={}), {}).is_done


def test_an_output_without_a_value_fails_the_workflow() -> None:
    flow = workflow(step("a"), 'output = "${steps.a.output.x}"')
    assert decide(flow, task(), {"a": done({"x": 1})}).output == 1
    error = decide(flow, task(), {"a": done(1)}).error
    assert isinstance(error, TaskFailed)
    assert error.data["key"] == "output"


def test_for_each_makes_one_task_per_item_in_order_and_no_more_at_once_than_may_be() -> None:
    flow = workflow(
        step("a", 'for_each = "${input}"', "max_parallel = 2", 'input = "${index}=${item}"')
    )
    given = task(input=["x", "y", "z"])
    decision = decide(flow, given, {})
    assert [each.params.input for each in decision.submit] == ["0=x", "1=y"]
    assert submitted(decide(flow, given, {"a/0": OPEN, "a/1": done("Y")})) == ["a/2"]
    every = {"a/0": done("X"), "a/1": done("Y"), "a/2": done("Z")}
    assert decide(flow, given, every).output == {"a": ["X", "Y", "Z"]}
    assert decide(flow, task(input=[]), {}).output == {"a": []}
    error = decide(flow, task(input="text"), {}).error
    assert error is not None
    assert error.data["key"] == "for_each"


def test_one_of_many_branches_that_fails_ends_the_step_or_leaves_a_gap() -> None:
    given = task(input=[1, 2])
    strict = workflow(step("a", 'for_each = "${input}"'))
    assert decide(strict, given, {"a/0": OPEN, "a/1": failed()}).error is not None
    lenient = workflow(step("a", 'for_each = "${input}"', 'on_failure = "continue"'))
    decision = decide(lenient, given, {"a/0": done("X"), "a/1": failed()})
    assert decision.output == {"a": ["X", None]}
    assert decision.stages["a"].state == "failed"


# --- long random lives ----------------------------------------------------------------------------


def random_workflow(rng: random.Random) -> Workflow:
    count = rng.randint(1, 12)
    steps: list[str] = []
    for number in range(count):
        before = rng.sample(range(number), rng.randint(0, min(3, number)))
        more = [f"after = {[f's{each}' for each in before]}"]
        if before and rng.random() < 0.3:
            more.append(f"when = 'steps.s{before[0]}.state == \"succeeded\"'")
        if rng.random() < 0.3:
            more += [f"for_each = {list(range(rng.randint(0, 4)))}"]
            more += [f"max_parallel = {rng.randint(1, 3)}"] if rng.random() < 0.5 else []
        if rng.random() < 0.5:
            more.append('on_failure = "continue"')
        if rng.random() < 0.3:
            more.append('join = "any"')
        steps.append(step(f"s{number}", *more))
    rng.shuffle(steps)
    return workflow("".join(steps), f"max_parallel = {rng.randint(1, 5)}")


def lived(flow: Workflow, fates: dict[str, Branch], rng: random.Random) -> Decision:
    """The end of one life: tasks end in any order, and what decides knows nothing but their records."""
    branches: dict[str, Branch] = {}
    submissions = Counter[str]()
    while True:
        decision = decide(flow, task(), dict(branches))
        again = decide(flow, task(), dict(reversed(branches.items())))
        assert decision._replace(error=None) == again._replace(error=None), "the order matters"
        assert str(decision.error) == str(again.error)
        if decision.is_done or decision.error is not None:
            assert not decision.submit
            assert submissions.keys() == branches.keys()
            assert set(submissions.values()) <= {1}, "a step was queued twice"
            return decision
        # A crash: of what was to be queued only some is in the store, the rest is decided anew.
        kept = decision.submit if rng.random() < 0.7 else decision.submit[: rng.randint(0, 2)]
        for each in kept:
            needs = next(s.needs for s in flow.steps if s.name == each.step)
            assert all(decision.stages[need].has_ended for need in needs), "too early"
            submissions[each.label] += 1
            branches[each.label] = OPEN
        running = [label for label, branch in branches.items() if branch.is_open]
        assert len(running) <= flow.max_parallel
        for single in flow.steps:
            mine = sum(label.partition("/")[0] == single.name for label in running)
            assert mine <= (single.max_parallel or flow.max_parallel)
        if running:
            label = rng.choice(running)
            branches[label] = fates.setdefault(label, fate(label, rng))
        else:
            assert kept != decision.submit, "nothing goes on"


def fate(label: str, rng: random.Random) -> Branch:
    return failed() if rng.random() < 0.15 else done(f"output of {label}")


@pytest.mark.parametrize("seed", range(60))
def test_every_order_and_every_crash_lead_to_the_same_end(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(5):
        flow = random_workflow(rng)
        fates: dict[str, Branch] = {}
        ends = [lived(flow, fates, rng) for _ in range(4)]
        assert len({end.error is None for end in ends}) == 1
        if ends[0].error is None:
            assert all(end.output == ends[0].output for end in ends)
            states = [{k: v.state for k, v in end.stages.items()} for end in ends]
            assert all(each == states[0] for each in states)


# --- who of a team --------------------------------------------------------------------------------


def test_routing_takes_the_least_loaded_member() -> None:
    crew = [Candidate("a", 0, 1), Candidate("b", 1, 0), Candidate("c", 2, 0)]
    assert chosen("least-load", crew, turn=0, sticky_key="") == "c"
    assert (
        chosen("least-load", [Candidate("a", 0, 3), Candidate("b", 0, 1)], turn=0, sticky_key="")
        == "b"
    )
    assert chosen("least-load", [], turn=0, sticky_key="") is None


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
