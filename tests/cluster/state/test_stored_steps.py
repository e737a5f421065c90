"""The steps of a task are made of its pages: the first end counts, failures are counted, results beyond a message are left out."""

import msgspec

from corral.supervisor.cluster.state.stored_steps import StepFold
from corral.worker.contract.records import TaskStep


def step(number: int, state: str = "done", result: object = None, size: int = 1) -> TaskStep:
    facts = {"number": number, "name": f"s{number}", "state": state, "kind": "step", "at": "", "duration_s": 0.0}
    more = {"delivery": 1, "tries": int(state == "failed"), "size_bytes": size if state == "done" else 0}
    return msgspec.convert({**facts, **more, "result": result}, TaskStep)


def page(*steps: TaskStep) -> bytes:
    return msgspec.json.encode({"delivery": 1, "by": "one", "steps": steps})


def test_the_first_end_of_a_step_counts_and_its_failures_before_are_counted() -> None:
    fold = StepFold(0, 100)
    fold.add(page(step(1, "failed"), step(1, "failed")))
    fold.add(page(step(1, "done", "first"), step(1, "done", "second"), step(1, "failed")))
    ((found,), rest) = fold.steps()
    assert (found.state, found.result, found.tries, rest) == ("done", "first", 2, [])


def test_results_beyond_the_room_are_left_out_from_the_last_step_on() -> None:
    fold = StepFold(1, 10)
    fold.add(page(*(step(number, result=number, size=4) for number in (5, 1, 4, 2, 3))))
    whole, rest = fold.steps()
    assert [(each.number, each.result) for each in whole] == [(2, 2), (3, 3)]
    assert [(each.number, each.result) for each in rest] == [(4, None), (5, None)]


def test_one_result_is_given_however_large_it_is() -> None:
    fold = StepFold(0, 10)
    fold.add(page(step(1, result="large", size=1000), step(2, result=2)))
    whole, rest = fold.steps()
    assert ([each.result for each in whole], [each.result for each in rest]) == (["large"], [None])
