"""The usage of an answer that streams, cut at any byte."""

import json
import random

import pytest

from corral.supervisor.config.declared.models import Kind
from corral.supervisor.models.gateway.shapes import edited, usage_in
from corral.supervisor.models.gateway.stream import StreamReader
from corral.supervisor.models.gateway.usage import Usage

pytestmark = pytest.mark.core


def event(data: object, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chat(words: int, *, usage: bool = True, ends: bool = True) -> bytes:
    chunk = {"choices": [{"delta": {"content": 'w "usage": 1 \n\n'}}], "usage": None}
    told: object = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": words}}
    body = event(chunk) * words
    body += event(told) if usage else b""
    return body + (event("[DONE]") if ends else b"")


def message(words: int, *, ends: bool = True) -> bytes:
    begun = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}
    delta = {"type": "content_block_delta", "delta": {"text": "w"}}
    body = event(begun, "message_start") + event(delta, "content_block_delta") * words
    if ends:
        body += event({"type": "message_delta", "usage": {"output_tokens": words}}, "message_delta")
        body += event({"type": "message_stop"}, "message_stop")
    return body


def read(kind: Kind, body: bytes, dice: random.Random, *, hides: bool = False) -> tuple[bytes, StreamReader]:
    """Feeds a body in random parts."""
    reader = StreamReader(kind, hides_usage=hides)
    passed = bytearray()
    while body:
        size = dice.choice([1, 2, 7, 100, 5000])
        passed += reader.feed(body[:size])
        body = body[size:]
    passed += reader.end()
    return bytes(passed), reader


def contents(words: int, *, ends: bool = True) -> bytes:
    body = b""
    for number in range(words):
        part = {"candidates": [{"content": {"parts": [{"text": "w"}]}}]}
        if ends and number == words - 1:
            part["candidates"][0]["finishReason"] = "STOP"  # type: ignore[assignment]  # of another type
        figures = {"promptTokenCount": 9, "candidatesTokenCount": number + 1}
        body += event({**part, "usageMetadata": figures})
    return body


def response(words: int) -> bytes:
    delta = "response.output_text.delta"
    body = event({"type": delta, "delta": 'w "choices" .delta'}, delta) * words
    used = {"input_tokens": 9, "output_tokens": words}
    done = {"type": "response.completed", "response": {"usage": used}}
    return body + event(done, "response.completed")


@pytest.mark.parametrize("seed", range(20))
def test_the_usage_is_found_wherever_the_parts_are_cut(seed: int) -> None:
    dice = random.Random(seed)
    words = dice.randrange(1, 80)
    expected = Usage(input=9, output=words), False
    for kind, body in (
        ("openai", chat(words)),
        ("openai", response(words)),
        ("anthropic", message(words)),
        ("gemini", contents(words)),
    ):
        passed, reader = read(kind, body, dice)  # type: ignore[arg-type]  # both are kinds
        assert passed == body
        assert reader.usage(400) == expected


def test_the_event_with_the_usage_alone_is_taken_out_where_nobody_has_asked() -> None:
    passed, reader = read("openai", chat(5), random.Random(1), hides=True)
    assert passed == chat(5, usage=False)
    assert reader.usage(400) == (Usage(input=9, output=5), False)


def test_a_stream_that_was_cut_is_estimated() -> None:
    dice = random.Random(1)
    for body, expected in ((chat(5, usage=False, ends=False), Usage(input=100, output=5)), (b"", Usage())):
        assert read("openai", body, dice)[1].usage(400) == (expected, True)
    cut = read("openai", response(5)[:-160], dice)[1]
    assert cut.usage(400) == (Usage(input=100, output=5), True)
    cut = read("gemini", contents(5, ends=False), dice)[1]
    assert cut.usage(400) == (Usage(input=9, output=5), True)
    cut = read("anthropic", message(5, ends=False), dice)[1]
    assert cut.usage(400) == (Usage(input=9, output=5), True)


def test_an_endless_event_is_passed_on_unread() -> None:
    reader = StreamReader("openai", hides_usage=True)
    part = b"data: " + b"x" * (1 << 20)
    assert sum(len(reader.feed(part)) for _ in range(20)) >= 19 * len(part) - (9 << 20)


def test_a_request_is_changed_only_where_it_has_to_be() -> None:
    plain = b'{ "model" : "a", "x": [1] }'
    assert edited("openai", "/v1/chat/completions", plain, "") == (plain, False)
    body, hides = edited("openai", "/v1/chat/completions", b'{"model":"a","stream":true}', "b")
    assert json.loads(body) == {"model": "b", "stream": True, "stream_options": {"include_usage": True}}
    assert hides
    asked = b'{"stream": true, "stream_options": {"include_usage": true, "more": 1}}'
    body, hides = edited("openai", "/v1/chat/completions", asked, "")
    assert json.loads(body) == json.loads(asked)
    assert not hides
    assert edited("anthropic", "/v1/messages", b'{"stream": true}', "") == (b'{"stream": true}', False)


def test_an_answer_without_a_usage_is_estimated_from_what_the_model_has_written() -> None:
    call = {"function": {"name": "f", "arguments": "{}" * 4}}
    message = {"role": "assistant", "content": "four" * 3, "tool_calls": [call]}
    body = json.dumps({"model": "m" * 99, "choices": [{"message": message}]}).encode()
    found = usage_in("openai", "/v1/chat/completions", body, 9)
    assert found == (Usage(input=9, output=5), True)
    body = json.dumps({"content": [{"type": "text", "text": "four"}]}).encode()
    assert usage_in("anthropic", "/v1/messages", body, 9) == (Usage(input=9, output=1), True)
    vector = json.dumps({"data": [{"embedding": "x" * 99}]}).encode()
    assert usage_in("openai", "/v1/embeddings", vector, 9) == (Usage(input=9), True)


def test_what_costs_no_tokens_or_is_no_answer_is_not_estimated() -> None:
    counted = b'{"input_tokens": 11}'
    nothing = (Usage(), False)
    assert usage_in("anthropic", "/v1/messages/count_tokens", counted, 9) == nothing
    assert usage_in("openai", "/v1/models", b"{}", 9) == nothing
    assert usage_in("openai", "/v1/chat/completions", b"<html>", 9) == nothing
    told = b'{"usage": {"prompt_tokens": 5, "completion_tokens": 1}}'
    assert usage_in("openai", "/v1/chat/completions", told, 9) == (Usage(input=5, output=1), False)
