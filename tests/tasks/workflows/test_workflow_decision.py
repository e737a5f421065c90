"""The decision of a workflow: from the states of its steps, the next tasks or the end; also over long random lives."""

import random
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from corral.supervisor.config.spec.workflow import Workflow
from corral.supervisor.tasks.workflows.workflow_decision import Branch, Decision, decide
from corral.worker.contract.errors import Conflict, TaskFailed
from corral.worker.contract.records import Error, Task
from seeds import seeds
from workflow_config import step, workflow

pytestmark = pytest.mark.core


def task(**fields: Any) -> Task:
    return replace(Task(id="t", agent="flow", objective="do it"), **fields)


def done(output: object = None, name: str = "c") -> Branch:
    return Branch(name, "succeeded", output)


def failed(code: int = -33013, name: str = "TaskFailed") -> Branch:
    return Branch("c", "failed", error=Error(code, name, "cannot do it", {"why": "so"}))


OPEN = Branch("c", "open")


def submitted(decision: Decision) -> list[str]:
    return [each.label for each in decision.submit]


def test_steps_begin_when_those_before_have_ended() -> None:
    flow = workflow(step("a") + step("b", 'after = ["a"]', 'input = "${steps.a.output.x}"') + step("c"))
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
    flow = workflow(step("a") + step("b", 'objective = "${objective}!"', "priority = 2", "context = 7"))
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
    steps += step("b", "when = \"steps.a.state == 'failed'\"", 'input = "${steps.a.error.data.why}"')
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
    flow = workflow(step("a", 'for_each = "${input}"', "max_parallel = 2", 'input = "${index}=${item}"'))
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


@pytest.mark.parametrize("seed", seeds(60))
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
