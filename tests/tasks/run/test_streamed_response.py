"""How the body of a webhook is cut into parts, however it is cut into packets."""

import json
import random
from typing import Any

import pytest

from corral.worker.contract.errors import ResourceLimitExceeded, TaskFailed
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from corral.worker.webhook.delivery import EVENTS, LINES, TEXT, StreamedResponse

BODIES: list[tuple[str, str, object, object]] = [
    (EVENTS, 'data: {"a": 1}\r\n\r\nevent: part\ndata: é\n\n', [{"a": 1}, "é"], [{"a": 1}, "é"]),
    (EVENTS, ": hi\n\nid: 3\ndata:  x\ndata: y\n\ndata: [DONE]\n\n", [" x\ny"], " x\ny"),
    (EVENTS, 'event: result\ndata: {"output": 3, "tokens_used": 7}\n\n', [], 3),
    (EVENTS, "event: ping\ndata: 1\n\n", [], None),
    (EVENTS, "data: last", ["last"], "last"),
    (LINES, "1\n\n[2]\n3", [1, [2], 3], [1, [2], 3]),
    (LINES, "", [], []),
    (TEXT, "grüße und\nZeilen", None, "grüße und\nZeilen"),
    (TEXT, '  {"output": 5}', [], 5),
    (TEXT, "", [], None),
]


@pytest.mark.parametrize(("kind", "body", "parts", "output"), BODIES)
def test_a_body_has_the_same_parts_however_it_is_cut(kind: str, body: str, parts: object, output: object) -> None:
    data = body.encode()
    for seed in range(20):
        chance = random.Random(seed)
        reader, found, at = StreamedResponse(kind, "http://x"), list[Any](), 0
        while at < len(data):
            end = at + chance.randint(1, 7)
            found += reader.feed(data[at:end])
            at = end
        found += reader.finish()
        assert reader.answer().output == output
        assert "".join(found) == output if parts is None else found == parts


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (LINES, "no json\n"),
        (EVENTS, "event: error\ndata: " + json.dumps({"message": "out of paper"}) + "\n\n"),
        (EVENTS, "event: result\ndata: no json\n\n"),
    ],
)
def test_an_error_of_the_service_fails_the_task(kind: str, body: str) -> None:
    with pytest.raises(TaskFailed):
        StreamedResponse(kind, "http://x").feed(body.encode())


def test_a_line_without_end_is_not_kept() -> None:
    reader = StreamedResponse(EVENTS, "http://x")
    reader.feed(b"data: " + b"x" * (MAX_MESSAGE_BYTES - 6))
    with pytest.raises(ResourceLimitExceeded):
        reader.feed(b"x")
