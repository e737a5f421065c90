"""The spans of a task, decided from its record alone."""

import pytest
from msgspec.structs import replace

from corral.supervisor.records.telemetry.tracing import (
    ModelCall,
    Span,
    Tracer,
    attempt_context,
    failed_attempt,
    task_context,
    task_spans,
    wait_span,
)
from corral.worker.contract.records import Error, Task
from corral.worker.contract.trace_context import of_environment, parse, valid

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

TASK = Task(
    id="0123456789ab",
    agent="echo",
    worker="echo-0",
    state="succeeded",
    attempt=1,
    delivery=1,
    created_at="2026-01-01T00:00:00.000Z",
    started_at="2026-01-01T00:00:01.500Z",
    finished_at="2026-01-01T00:00:02.000Z",
    traceparent=GIVEN,
)


def test_a_context_is_read_and_written_as_its_specification_says() -> None:
    found = parse(GIVEN)
    assert found is not None
    assert (found.span, found.is_sampled, str(found)) == ("00f067aa0ba902b7", True, GIVEN)
    assert of_environment({"TRACEPARENT": GIVEN}) == GIVEN
    assert of_environment({}) is None


@pytest.mark.parametrize(
    "text",
    [
        *(None, 1, "", "x", GIVEN + "\n", GIVEN.upper(), "01" + GIVEN[2:], GIVEN[:-2] + "0g"),
        *(f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01"),
    ],
)
def test_what_is_no_context_is_none(text: object) -> None:
    assert valid(text) is None


def test_the_spans_of_a_task_fit_together_and_are_the_same_each_time() -> None:
    own, attempt = task_spans(TASK)
    wait = wait_span(TASK)
    assert isinstance(wait, Span)
    assert (own.parent, own.kind) == (GIVEN.split("-")[2], "server")
    assert {attempt.parent, wait.parent} == {own.context.span}
    assert {each.context.trace for each in (own, attempt, wait)} == {GIVEN.split("-")[1]}
    assert len({each.context.span for each in (own, attempt, wait)}) == 3
    seconds = [(each.end_ns - each.start_ns) / 1e9 for each in (own, wait, attempt)]
    assert seconds == [2.0, 1.5, 0.5]
    assert task_spans(TASK) == [own, attempt]
    assert attempt.context == attempt_context(TASK)


def test_a_task_that_never_began_has_waited_until_its_end() -> None:
    error = Error(code=-33010, name="Cancelled", message="stopped", data={})
    never = replace(TASK, state="cancelled", started_at=None, delivery=0, attempt=0, error=error)
    own, wait = task_spans(never)
    assert (own.error, wait.name, wait.parent) == ("Cancelled", "queue", own.context.span)
    assert (wait.start_ns, wait.end_ns) == (own.start_ns, own.end_ns)


def test_each_attempt_has_a_span_of_its_own_and_only_the_first_has_a_wait() -> None:
    second = replace(TASK, delivery=2, attempt=2)
    failed = failed_attempt(TASK, 10**19, "WorkerFailed", "it died")
    assert failed is not None
    assert (failed.error, failed.context) == ("WorkerFailed", attempt_context(TASK))
    assert attempt_context(second) != attempt_context(TASK)
    assert wait_span(second) is None


def test_what_a_team_begins_is_a_child_of_its_task() -> None:
    team = replace(TASK, kind="team")
    assert attempt_context(team) == task_context(team)
    assert [each.name for each in task_spans(team)] == ["invoke_agent echo"]
    workflow = replace(TASK, kind="workflow")
    assert [each.name for each in task_spans(workflow)] == ["invoke_workflow echo"]


def test_a_trace_that_its_caller_does_not_record_has_no_spans() -> None:
    unrecorded = replace(TASK, traceparent=GIVEN[:-2] + "00")
    assert task_spans(unrecorded) == []
    assert wait_span(unrecorded) is None
    assert failed_attempt(unrecorded, 0, "", "") is None


def test_no_more_traces_begin_in_a_second_than_are_wanted() -> None:
    now_s = 0.0
    tracer = Tracer(lambda _: None, 10, lambda: now_s)

    def recorded(count: int) -> int:
        contexts = [tracer.of_root() for _ in range(count)]
        assert all(found is None or found.endswith("-00") for found in contexts)
        return contexts.count(None)

    assert recorded(50) == 10
    now_s = 0.5
    assert recorded(50) == 5
    now_s = 100.0
    assert recorded(50) == 10
    call = tracer.of_call(None)
    assert call is not None
    assert call.endswith("-00")
    assert str(tracer.of_call(GIVEN)).endswith("-01")  # what callers began is not counted


def test_a_call_of_a_model_is_a_child_of_what_made_it() -> None:
    found: list[Span] = []
    call = ModelCall("gpt-5", "openai", "echo", TASK.id, 2.0, (40, 12), "cut")
    tracer = Tracer(found.append)
    tracer.modelled(GIVEN, call)
    tracer.modelled(None, call)
    tracer.modelled(f"{GIVEN[:-2]}00", call)
    below, alone = found
    assert (below.name, below.kind, below.error) == ("chat gpt-5", "client", "cut")
    assert (below.context.trace, below.parent) == tuple(GIVEN.split("-")[1:3])
    assert below.end_ns - below.start_ns == 2_000_000_000
    assert below.attributes["gen_ai.usage.input_tokens"] == 40
    assert below.attributes["gen_ai.usage.output_tokens"] == 12
    assert alone.parent == ""
    assert alone.context.trace != below.context.trace
