"""How a task becomes a prompt, and how the end of a turn becomes an output or an error."""

import pytest

from corral.worker.acp import messages
from corral.worker.acp.messages import info_of
from corral.worker.contract.errors import CorralError, ResourceLimitExceeded, SpawnFailed, TaskFailed
from corral.worker.sdk.session import Memory
from corral.worker.sdk.task import Start, TaskRequest

pytestmark = pytest.mark.core

JSON = {"schema": {"type": "object"}}


def request(**params: object) -> TaskRequest:
    start = Start("coder", "coder-0", 1, 5.0, {}, {}, None)
    return TaskRequest(start, {"task": "t1", **params}, Memory({}, lambda _: b""))


def test_a_task_is_reported_with_all_that_it_has() -> None:
    task = request(objective="Mend it", input={"a": 1}, context="why", output_format=JSON)
    texts = [str(block["text"]) for block in messages.blocks_of(task, embeds=False)]
    assert texts[0] == "Mend it"
    assert texts[1].endswith('{"a":1}')
    assert texts[2].endswith("why")
    assert '{"type":"object"}' in texts[3]


def test_an_input_is_a_resource_where_the_agent_takes_one() -> None:
    blocks = messages.blocks_of(request(objective="x", input=[1]), embeds=True)
    assert blocks[1] == {
        "type": "resource",
        "resource": {"uri": "corral:///tasks/t1/input", "mimeType": "application/json", "text": "[1]"},
    }


def test_a_task_without_words_has_a_prompt_all_the_same() -> None:
    assert len(messages.blocks_of(request(), embeds=False)) == 1


def test_the_latest_of_a_long_conversation_is_sent() -> None:
    earlier = [{"role": "user", "content": f"{number} " * 1000} for number in range(1000)]
    blocks = messages.blocks_of(request(objective="x"), embeds=False, earlier=earlier)
    told = str(blocks[0]["text"])
    assert "999 " in told
    assert len(told) < messages.EARLIER_CHARS + 1000


@pytest.mark.parametrize(
    ("text", "output_format", "output"),
    [
        ("plain", None, "plain"),
        ('{"a":1}', None, '{"a":1}'),
        ('{"a":1}', JSON, {"a": 1}),
        ('```json\n{"a":1}\n```\n', JSON, {"a": 1}),
        ("no json", JSON, "no json"),
        ("7", {"schema": {"type": "string"}}, "7"),
    ],
)
def test_the_last_message_is_the_output(text: str, output_format: object, output: object) -> None:
    assert messages.output_of(text, [], output_format) == output


def test_an_output_with_a_picture_has_both() -> None:
    picture = {"type": "image", "data": "", "mimeType": "image/png"}
    assert messages.output_of("see", [picture], None) == {"text": "see", "content": [picture]}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"stopReason": "end_turn"}, None),
        ({"stopReason": "max_tokens"}, ResourceLimitExceeded),
        ({"stopReason": "max_turn_requests"}, ResourceLimitExceeded),
        ({"stopReason": "refusal"}, TaskFailed),
        ({"stopReason": "cancelled"}, TaskFailed),
        ({"stopReason": "tired"}, TaskFailed),
        ({}, TaskFailed),
        (None, TaskFailed),
        ("end_turn", TaskFailed),
    ],
)
def test_a_reason_to_stop_is_a_typed_end(answer: object, kind: type[CorralError] | None) -> None:
    error = messages.error_of(answer, "so far")
    assert type(error) is (kind or type(None))
    if error is not None:
        assert error.data["output"] == "so far"


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"usage": {"totalTokens": 5, "inputTokens": 1}}, 5),
        ({"usage": {"inputTokens": 1, "outputTokens": 2}}, 3),
        ({"usage": {"totalTokens": -5}}, 0),
        ({"usage": {"totalTokens": "5"}}, 0),
        ({"usage": None}, 0),
        (None, 0),
    ],
)
def test_tokens_are_read_where_the_provider_reports_them(answer: object, tokens: int) -> None:
    assert messages.tokens_of(answer) == tokens


@pytest.mark.parametrize(
    ("cost", "cents"),
    [
        ({"amount": 0.5, "currency": "USD"}, 50.0),
        ({"amount": 0.5, "currency": "EUR"}, None),
        ({"amount": -1}, None),
        ({"amount": True}, None),
        (None, None),
    ],
)
def test_a_cost_is_read_in_cents(cost: object, cents: float | None) -> None:
    assert messages.cost_cents_of({"cost": cost}) == cents


@pytest.mark.parametrize("answer", [None, [], {}, {"protocolVersion": 2}, {"protocolVersion": "1"}])
def test_another_version_of_the_protocol_is_refused(answer: object) -> None:
    with pytest.raises(SpawnFailed) as refused:
        info_of(answer)
    assert refused.value.data["reason"] == "protocol"


def test_capabilities_of_another_shape_are_none() -> None:
    odd = {"protocolVersion": 1, "agentCapabilities": [], "authMethods": [1, {"id": "a"}]}
    info = info_of({**odd, "agentInfo": "x"})
    assert (info.loads, info.resumes, info.closes, info.embeds) == (False, False, False, False)
    assert [method.id for method in info.methods] == ["a"]
