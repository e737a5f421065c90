"""The wire against anything: every split, random bytes, broken messages, and long random conversations."""

import json
import pickle
import random
import tracemalloc
from collections.abc import Iterable
from itertools import combinations, pairwise
from types import ModuleType
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from both_codecs import WIRES
from corral.worker.contract.errors import Conflict, CorralError

pytestmark = pytest.mark.contract

FUZZ = settings(deadline=None, max_examples=150, print_blob=True)
LIMIT_BYTES = 160
LAST = b'{"jsonrpc":"2.0","id":"last","method":"last"}\n'

CORPUS = {
    "request": b'{"jsonrpc":"2.0","id":7,"method":"a","params":{"b":"\xc3\xbc\xf0\x9f\x98\x80"}}\n',
    "request with an id in use": b'{"jsonrpc":"2.0","id":"open","method":"a"}\n',
    "two requests": b'{"jsonrpc":"2.0","id":"x","method":"a"}\n{"jsonrpc":"2.0","id":"y","method":"b"}\n',
    "notification": b'{"jsonrpc":"2.0","method":"heartbeat","params":{"busy":true}}\n',
    "cancelled": b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"open"}}\n',
    "cancelled too late": b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}\n',
    "result": b'{"jsonrpc":"2.0","id":1,"result":{"c":[1,2.5,null]}}\n',
    "the same result twice": b'{"jsonrpc":"2.0","id":2,"result":0}\n' * 2,
    "error": b'{"jsonrpc":"2.0","id":2,"error":{"code":-33001,"message":"m","data":{"d":1}}}\n',
    "result for nobody": b'{"jsonrpc":"2.0","id":99,"result":{}}\n',
    "escaped newline": b'{"jsonrpc":"2.0","method":"\\n\\"}{"}\n',
    "carriage returns and blank lines": b'\r\n\n  \r\n{"jsonrpc":"2.0","method":"a"}\r\n\n',
    "log line": b"12:00 INFO started {}\n",
    "broken UTF-8": b'{"jsonrpc":"2.0","method":"\xff\xc3"}\n',
    "no JSON": b'{"jsonrpc":"2.0","id":1,"result":}\n',
    "batch": b'[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","method":"a"}]\n',
    "version 1": b'{"id":1,"result":1}\n',
    "params of another type": b'{"jsonrpc":"2.0","id":8,"method":"a","params":[1]}\n',
    "as long as allowed": b'{"jsonrpc":"2.0","method":"' + b"m" * (LIMIT_BYTES - 29) + b'"}\n',
    "too long by one": b'{"jsonrpc":"2.0","method":"' + b"m" * (LIMIT_BYTES - 28) + b'"}\n',
    "result too long": b'{"jsonrpc":"2.0","id":1,"result":"' + b"r" * LIMIT_BYTES + b'"}\n',
    "result too long, id at the cut": b'{"jsonrpc":"2.0","r":"' + b"r" * 130 + b'","id":1234567890}\n',
    "result too long without id": b'{"result":"' + b"r" * LIMIT_BYTES + b'","id":1}\n',
    "log line too long": b"x" * (2 * LIMIT_BYTES) + b"\n",
    "request too long": b'{"jsonrpc":"2.0","id":6,"method":"a","params":"' + b"p" * LIMIT_BYTES + b'"}\n',
}  # fmt: skip


def _shape(value: object) -> object:
    """What must be equal of an event: everything but the text of errors."""
    if isinstance(value, CorralError):
        return (value.code, repr(value.data))
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)  # an event of either wire
        name = type(cast("object", value)).__name__
        return (name, *map(_shape, parts[:1] if name == "Foreign" else parts))
    return repr(value)


def _replies(data: bytes) -> list[object]:
    replies: list[object] = []
    for line in data.splitlines():
        message = json.loads(line)
        error = message.get("error")
        replies.append((message.get("id"), message.get("method"), error and error["code"]))
    return replies


def observed(wire: ModuleType, pieces: Iterable[bytes]) -> tuple[object, ...]:
    """Everything that can be seen of a Peer that reads these pieces."""
    peer = wire.Peer(answer_foreign=True, max_message_bytes=LIMIT_BYTES)
    peer.request("one", deadline=None, context="c1")
    peer.request("two", deadline=None, context="c2")
    events = list(peer.receive(b'{"jsonrpc":"2.0","id":"open","method":"serve"}\n'))
    for piece in pieces:
        events += peer.receive(piece)
        assert len(pickle.dumps(vars(peer)["_partial"])) < LIMIT_BYTES + 200
    events += peer.finish()
    return ([_shape(event) for event in events], _replies(peer.take()), peer.dropped, peer.in_flight)


def _cut(data: bytes, *at: int) -> list[bytes]:
    return [data[a:b] for a, b in pairwise((0, *sorted(at), len(data)))]


@pytest.fixture(params=list(WIRES))
def wire(request: pytest.FixtureRequest) -> ModuleType:
    return WIRES[str(request.param)]


@pytest.mark.parametrize("data", CORPUS.values(), ids=CORPUS.keys())
def test_one_cut_or_many_change_no_event(wire: ModuleType, data: bytes) -> None:
    data += LAST
    whole = observed(wire, [data])
    assert "last" in repr(whole)
    for at in range(len(data) + 1):
        assert observed(wire, _cut(data, at)) == whole, f"cut at {at}"
    for width in (1, 2, 3, 7):
        pieces = [data[i : i + width] for i in range(0, len(data), width)]
        assert observed(wire, pieces) == whole, f"pieces of {width}"


@pytest.mark.parametrize("data", CORPUS.values(), ids=CORPUS.keys())
def test_two_cuts_anywhere_change_no_event(data: bytes) -> None:
    wire = WIRES["msgspec"]  # the framing is the same code in both
    whole = observed(wire, [data])
    for cuts in combinations(range(0, len(data) + 1, max(1, len(data) // 60)), 2):
        assert observed(wire, _cut(data, *cuts)) == whole, f"cut at {cuts}"


def test_a_message_without_its_newline_is_read_at_the_end(wire: ModuleType) -> None:
    for data in CORPUS.values():
        body = data.rstrip(b"\r\n")
        assert observed(wire, [body]) == observed(wire, [body + b"\n"])


def test_both_codecs_make_the_same_of_the_corpus() -> None:
    stream = b"".join(CORPUS.values()) + LAST
    assert observed(WIRES["msgspec"], [stream]) == observed(WIRES["json"], [stream])


def test_bytes_without_a_newline_take_no_more_memory_than_a_message() -> None:
    limit_bytes = 1024 * 1024
    peer = WIRES["msgspec"].Peer(max_message_bytes=limit_bytes)
    chunk = b"x" * 65536
    tracemalloc.start()
    try:
        for _ in range(limit_bytes // 2 // 4):
            peer.receive(b"wxyz")  # a list of pieces would take ten times as much
        assert tracemalloc.get_traced_memory()[1] < 2 * limit_bytes
        for _ in range(64 * limit_bytes // len(chunk)):
            peer.receive(chunk)
        assert tracemalloc.get_traced_memory()[0] < limit_bytes
        assert tracemalloc.get_traced_memory()[1] < 4 * limit_bytes
    finally:
        tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
IDS = st.sampled_from([1, 2, "open", 3, "1", None, True, 1.0, -1, "", 2**70]) | JSON
ERRORS = st.fixed_dictionaries({}, optional={"code": st.integers() | JSON, "message": JSON, "data": JSON})
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | st.just("2.0") | JSON,
        "id": IDS,
        "method": st.sampled_from(["a", "notifications/cancelled"]) | JSON,
        "params": st.dictionaries(st.sampled_from(["requestId", "reason"]), IDS) | JSON,
        "result": JSON,
        "error": ERRORS | JSON,
    },
)


def _encoded(message: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message} if isinstance(message, dict) else message).encode()  # fmt: skip


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A message with a few wrong bytes."""
    line = bytearray(draw(st.sampled_from(list(CORPUS.values()))).rstrip(b"\n"))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line)))
        line[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(line)


LINES = st.binary(max_size=2 * LIMIT_BYTES) | broken() | MESSAGES.map(_encoded) | JSON.map(_encoded)


@FUZZ
@given(st.lists(LINES, max_size=8), st.data())
def test_nothing_that_a_peer_sends_raises_or_costs_the_next_message(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join([*lines, LAST])
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5))
    seen = {name: observed(wire, _cut(stream, *cuts)) for name, wire in WIRES.items()}
    assert seen["msgspec"] == seen["json"]
    assert seen["msgspec"] == observed(WIRES["msgspec"], [stream])
    events = seen["msgspec"][0]
    assert isinstance(events, list)
    assert events[-1] == ("Request", "'last'", "'last'", "{}")


@pytest.mark.parametrize("depth", [100, 900, 940, 960, 980, 990, 1000, 100_000])
def test_deep_nesting_anywhere_in_a_message_raises_nothing(wire: ModuleType, depth: int) -> None:
    for deep in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        for message in (
            b'"id":%s,"method":"a"',
            b'"id":3,"method":%s',
            b'"id":3,"method":"a","params":%s',
            b'"id":3,"method":"a","params":{"a":%s}',
            b'"method":"notifications/cancelled","params":{"requestId":"open","reason":%s}',
            b'"id":1,"result":%s',
            b'"id":1,"error":%s',
            b'"id":1,"error":{"code":1,"message":%s,"data":%s}',
            b'"id":%s,"error":{"code":%s}',
        ):
            line = b'{"jsonrpc":"2.0",' + message.replace(b"%s", deep) + b"}\n"
            peer = wire.Peer(answer_foreign=True)
            peer.request("one", deadline=None)
            peer.receive(b'{"jsonrpc":"2.0","id":"open","method":"serve"}\n')
            events = peer.receive(line + LAST)
            assert events[-1] == wire.Request("last", "last", {})
            _replies(peer.take())


class Conversation:
    """Two peers, random acts on both sides, bytes delivered in random pieces."""

    def __init__(self, wire: ModuleType, seed: int) -> None:
        self.random = random.Random(seed)
        self.wire = wire
        self.sides = [wire.Peer("L", max_requests=20), wire.Peer("", max_requests=20)]
        self.pipes = [b"", b""]
        self.now = 0.0
        self.serving: list[list[object]] = [[], []]
        self.waiting: list[dict[object, object]] = [{}, {}]
        self.ended = 0

    def act(self) -> None:
        side = self.random.randrange(2)
        peer = self.sides[side]
        match self.random.randrange(10):
            case 0 if peer.in_flight < 20:
                context = object()
                deadline = self.random.choice([None, self.now + self.random.uniform(0, 30)])
                request_id = peer.request("m", {"x": 1}, deadline=deadline, context=context)
                assert request_id not in self.waiting[side]
                self.waiting[side][request_id] = context
            case 1 if self.serving[side]:
                request_id = self.serving[side].pop(self.random.randrange(len(self.serving[side])))
                if self.random.random() < 0.5:
                    peer.respond(request_id, {"y": float("nan")})
                else:
                    peer.fail(request_id, Conflict("cannot", why=object()))
                peer.respond(request_id, "a second answer is dropped")
            case 2 if self.waiting[side] and self.random.random() < 0.3:
                request_id = self.random.choice(list(self.waiting[side]))
                peer.cancel(request_id, "changed my mind")
                del self.waiting[side][request_id]
            case 3:
                self.now += self.random.uniform(0, 3)
                self.settle(side, peer.expire(self.now))
                assert peer.deadline is None or peer.deadline > self.now
            case 4:
                peer.notify("n")
            case _:
                self.deliver(side, self.random.randrange(600))
        assert peer.in_flight == len(self.waiting[side])

    def deliver(self, side: int, count: int) -> None:
        """Gives this side the next bytes of the other one."""
        self.pipes[side] += self.sides[1 - side].take()
        piece, self.pipes[side] = self.pipes[side][:count], self.pipes[side][count:]
        for event in self.sides[side].receive(piece):
            if isinstance(event, self.wire.Request):
                self.serving[side].append(event.id)
            elif isinstance(event, self.wire.Withdrawn):
                assert event.id in self.serving[side]
            else:
                assert not isinstance(event, self.wire.Foreign)
                if isinstance(event, self.wire.Response):
                    self.settle(side, [event])

    def settle(self, side: int, responses: Iterable[Any]) -> None:
        for response in responses:
            assert isinstance(response, self.wire.Response)
            assert self.waiting[side].pop(response.id) is response.context
            self.ended += 1


@pytest.mark.parametrize("seed", range(20))
def test_in_a_long_conversation_each_request_ends_once(wire: ModuleType, seed: int) -> None:
    talk = Conversation(wire, seed)
    for _ in range(600):
        talk.act()
    for side in (0, 1, 0, 1):
        for request_id in talk.serving[side]:
            talk.sides[side].respond(request_id, None)
        talk.serving[side].clear()
        talk.deliver(side, 1_000_000)
    for side in (1, 0, 1, 0):
        for request_id in talk.serving[side]:
            talk.sides[side].respond(request_id, None)
        talk.serving[side].clear()
        talk.deliver(side, 1_000_000)
    assert [peer.in_flight for peer in talk.sides] == [0, 0]
    assert talk.waiting == [{}, {}]
    assert talk.ended > 20
