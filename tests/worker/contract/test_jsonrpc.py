"""JSON-RPC on lines: what each message becomes, what each mistake is answered with, and every limit."""

import json
import tracemalloc
from collections.abc import Iterable
from types import ModuleType
from typing import cast

import pytest

from both_codecs import WIRES
from corral.worker.contract.errors import (
    Conflict,
    InternalError,
    InvalidParams,
    NotFound,
    Overloaded,
    ParseError,
    ResourceLimitExceeded,
    Timeout,
    WorkerFailed,
)
from corral.worker.contract.jsonrpc import PIECE_BYTES, Foreign, Notification, Peer, Request, Response, Withdrawn

pytestmark = pytest.mark.contract

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32602, -32603
TOO_LONG, OVERLOADED = -33005, -33011


@pytest.fixture(params=list(WIRES))
def wire(request: pytest.FixtureRequest) -> ModuleType:
    return WIRES[str(request.param)]


def sent(peer: Peer) -> list[dict[str, object]]:
    """The messages that the peer has queued."""
    return [json.loads(line) for line in peer.take().splitlines()]


def code_of(message: dict[str, object]) -> int:
    error = message["error"]
    return cast("dict[str, int]", error)["code"]


def line(**fields: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}).encode() + b"\n"


# -- what a message becomes


@pytest.mark.parametrize("request_id", [0, 1, -1, 2**70, "", "g-1", "\u00fc", "null"])
def test_a_request_is_answered_once_under_its_own_id(wire: ModuleType, request_id: int | str) -> None:
    peer = wire.Peer()
    events = peer.receive(line(id=request_id, method="a/b", params={"c": [1]}))
    assert events == [wire.Request(request_id, "a/b", {"c": [1]})]
    assert peer.take() == b""
    peer.respond(request_id, {"d": 1})
    peer.respond(request_id, 2)
    peer.fail(request_id, Conflict("cannot"))
    assert sent(peer) == [{"jsonrpc": "2.0", "id": request_id, "result": {"d": 1}}]


def test_an_answer_without_a_request_is_never_sent() -> None:
    peer = Peer()
    peer.respond(1, {})
    peer.fail("x", Conflict("cannot"))
    assert peer.take() == b""


def test_a_result_of_null_is_a_result() -> None:
    left, right = Peer(), Peer()
    request_id = left.request("a", deadline=None, context="c")
    right.receive(left.take())
    right.respond(request_id, None)
    assert left.receive(right.take()) == [Response(request_id, "c", None, None)]


@pytest.mark.parametrize("params", [None, {}])
def test_missing_null_and_empty_params_are_empty(params: object) -> None:
    peer = Peer()
    assert peer.receive(line(id=1, method="a", params=params)) == [Request(1, "a", {})]
    assert peer.receive(line(method="a", params=params)) == [Notification("a", {})]
    assert peer.receive(line(id=2, method="a")) == [Request(2, "a", {})]
    assert peer.take() == b""


def test_ids_of_ours_are_numbers_or_carry_the_prefix_and_never_repeat() -> None:
    for prefix, ids in (("", [1, 2, 3]), ("7", ["7-1", "7-2", "7-3"])):
        peer = Peer(prefix)
        assert peer.request("a", deadline=None) == ids[0]
        peer.cancel(ids[0], "")
        assert [peer.request("a", deadline=None) for _ in range(2)] == ids[1:]


def test_an_error_arrives_as_its_class_with_its_facts() -> None:
    left, right = Peer(), Peer()
    request_id = left.request("a", deadline=None)
    right.receive(left.take())
    right.fail(request_id, NotFound("cannot find it", agent="x"))
    (event,) = left.receive(right.take())
    assert isinstance(event, Response)
    assert type(event.error) is NotFound
    assert event.error.data == {"agent": "x"}


def test_an_error_beside_a_result_is_an_error() -> None:
    peer = Peer()
    peer.request("a", deadline=None)
    (event,) = peer.receive(line(id=1, result=1, error={"code": -33001, "message": "m"}))
    assert isinstance(event, Response)
    assert type(event.error) is NotFound


def test_an_error_of_null_beside_a_result_is_a_result() -> None:
    peer = Peer()
    peer.request("a", deadline=None)
    assert peer.receive(line(id=1, result=5, error=None)) == [Response(1, None, 5, None)]


@pytest.mark.parametrize("error", [1, "x", [], True, {"code": "x"}, {"message": 3}])
def test_an_error_of_any_shape_ends_the_request(error: object) -> None:
    peer = Peer()
    peer.request("a", deadline=None)
    (event,) = peer.receive(line(id=1, error=error))
    assert isinstance(event, Response)
    assert type(event.error) is InternalError


# -- ids that are wrong, late, repeated or invented


@pytest.mark.parametrize("request_id", [None, True, False, 1.0, 1.5, [1], {"a": 1}, "1", 2, "x-1"])
def test_an_answer_that_belongs_to_no_request_is_counted_and_dropped(request_id: object) -> None:
    peer = Peer(answer_foreign=True)
    peer.request("a", deadline=None)
    assert peer.receive(line(id=request_id, result={})) == []
    assert peer.receive(line(id=request_id, error={"code": 1, "message": ""})) == []
    assert (peer.dropped, peer.in_flight, len(sent(peer))) == (2, 1, 1)


def test_late_and_repeated_answers_are_dropped() -> None:
    peer = Peer()
    one, two, three = (peer.request("a", deadline=1.0 if i == 2 else None) for i in range(3))
    peer.cancel(two, "enough")
    assert len(peer.expire(1.0)) == 1
    assert len(peer.receive(line(id=one, result=1))) == 1
    for late in (one, two, three):
        assert peer.receive(line(id=late, result=2)) == []
    assert (peer.dropped, peer.in_flight) == (3, 0)


def test_an_answer_to_an_earlier_life_is_not_taken_for_one_to_this() -> None:
    old, new = Peer("1"), Peer("2")
    stale = old.request("a", deadline=None)
    new.request("a", deadline=None)
    assert new.receive(line(id=stale, result=1)) == []
    assert new.in_flight == 1


@pytest.mark.parametrize("request_id", [None, True, 1.0, [1], {}])
@pytest.mark.parametrize("answer_foreign", [False, True])
def test_a_request_with_an_id_of_another_type_is_refused(request_id: object, answer_foreign: bool) -> None:
    peer = Peer(answer_foreign=answer_foreign)
    data = line(id=request_id, method="a")
    (event,) = peer.receive(data)
    assert isinstance(event, Foreign)
    assert event.line + b"\n" == data
    replies = sent(peer)
    assert [(reply["id"], code_of(reply)) for reply in replies] == ([(None, INVALID_REQUEST)] if answer_foreign else [])


def test_an_id_in_use_is_refused_and_free_after_the_answer() -> None:
    peer = Peer()
    assert len(peer.receive(line(id=5, method="a") * 2)) == 1
    assert [(m["id"], code_of(m)) for m in sent(peer)] == [(5, INVALID_REQUEST)]
    peer.respond(5, "first")
    assert sent(peer)[0]["result"] == "first"
    assert peer.receive(line(id=5, method="b")) == [Request(5, "b", {})]


# -- cancel and expire


def test_a_cancelled_request_is_forgotten_and_the_peer_notified_once() -> None:
    left, right = Peer(), Peer()
    request_id = left.request("a", deadline=None)
    right.receive(left.take())
    left.cancel(request_id, "no longer wanted")
    left.cancel(request_id, "again")
    assert left.in_flight == 0
    assert right.receive(left.take()) == [Withdrawn(request_id, "no longer wanted")]
    right.fail(request_id, Conflict("cannot"))
    assert left.receive(right.take()) == []


@pytest.mark.parametrize("request_id", [1, "x", None, True, 5.0, [5], {}])
def test_a_cancel_of_what_is_not_being_served_is_no_event(request_id: object) -> None:
    peer = Peer(answer_foreign=True)
    peer.receive(line(id=5, method="a"))
    assert peer.receive(line(method="notifications/cancelled", params={"requestId": request_id})) == []  # fmt: skip
    assert peer.receive(line(method="notifications/cancelled")) == []
    assert peer.take() == b""


def test_a_peer_that_gives_up_a_request_of_ours_is_read_and_the_request_is_still_in_flight() -> None:
    peer = Peer()
    request_id = peer.request("a", deadline=None)
    params: dict[str, object] = {"requestId": request_id}
    assert peer.receive(line(method="notifications/cancelled", params=params)) == [
        Notification("notifications/cancelled", params)
    ]
    assert peer.in_flight == 1


def test_a_list_of_messages_is_none_unless_batches_are_taken() -> None:
    peer = Peer()
    one, two = (peer.request("a", deadline=None, context=name) for name in ("one", "two"))
    answers: list[dict[str, object]] = [{"jsonrpc": "2.0", "id": each, "result": {}} for each in (two, one)]
    batch = json.dumps([*answers, 3, [answers[0]], {}]).encode() + b"\n"
    (foreign,) = peer.receive(batch)
    assert isinstance(foreign, Foreign)
    peer.accept_batches()
    first, second, third = peer.receive(batch)
    assert (first, second) == (Response(two, "two", {}, None), Response(one, "one", {}, None))
    assert isinstance(third, Foreign)


def test_a_deadline_may_be_moved_either_way() -> None:
    peer = Peer()
    one, two = (peer.request("a", deadline=5.0, context=name) for name in ("one", "two"))
    peer.reschedule(one, 9.0)
    peer.reschedule(two, 3.0)
    assert peer.deadline == 3.0
    assert [response.context for response in peer.expire(3.0)] == ["two"]
    assert peer.expire(8.0) == []
    assert peer.deadline == 9.0
    peer.reschedule(one, 7.0)
    peer.reschedule(one, 8.5)
    assert peer.expire(8.0) == []
    assert [response.context for response in peer.expire(8.5)] == ["one"]
    assert peer.expire(99.0) == []
    assert peer.deadline is None


def test_a_deadline_is_given_neither_to_what_is_over_nor_to_what_had_none() -> None:
    peer = Peer()
    request_id = peer.request("a", deadline=None)
    peer.reschedule(request_id, 1.0)
    peer.reschedule(99, 1.0)
    assert peer.deadline is None
    assert peer.expire(2.0) == []


def test_a_cancel_after_the_answer_is_no_event() -> None:
    peer = Peer()
    peer.receive(line(id=5, method="a"))
    peer.respond(5, 1)
    assert peer.receive(line(method="notifications/cancelled", params={"requestId": 5})) == []


def test_a_cancelled_request_is_in_service_until_it_is_answered() -> None:
    peer = Peer()
    cancelled = line(method="notifications/cancelled", params={"requestId": 5, "reason": None})
    assert peer.receive(line(id=5, method="a") + cancelled) == [Request(5, "a", {}), Withdrawn(5, "")]
    assert peer.receive(line(id=5, method="b")) == []
    peer.take()
    peer.respond(5, 1)
    assert len(sent(peer)) == 1


def test_requests_end_with_timeout_in_the_order_of_their_deadlines() -> None:
    peer = Peer()
    late, early, never = (peer.request("a", deadline=d, context=d) for d in (3.0, 2.0, None))
    assert peer.deadline == 2.0
    assert peer.expire(1.999) == []
    peer.take()
    ended = peer.expire(3.0)
    assert [(r.id, r.context) for r in ended] == [(early, 2.0), (late, 3.0)]
    assert {type(r.error) for r in ended} == {Timeout}
    assert [m["params"] for m in sent(peer)] == [
        {"requestId": early, "reason": "timeout"},
        {"requestId": late, "reason": "timeout"},
    ]
    assert (peer.in_flight, never) == (1, 3)
    assert peer.deadline is None
    assert peer.expire(99.0) == []


def test_an_answer_or_a_cancel_before_the_deadline_takes_the_deadline_away() -> None:
    peer = Peer()
    one, two = (peer.request("a", deadline=d) for d in (1.0, 2.0))
    peer.receive(line(id=one, result=1))
    assert peer.deadline == 2.0
    peer.cancel(two, "")
    assert peer.deadline is None
    assert peer.expire(9.0) == []


def test_deadlines_of_answered_requests_take_no_memory_behind_an_open_one() -> None:
    peer = Peer()
    peer.request("hangs", deadline=1.0)
    tracemalloc.start()
    try:
        for number in range(2, 10_000):
            peer.request("a", deadline=2.0)
            peer.receive(b'{"jsonrpc":"2.0","id":%d,"result":1}\n' % number)
            peer.take()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert peer.deadline == 1.0


def test_closing_ends_every_request_once() -> None:
    peer = Peer()
    ids = [peer.request("a", deadline=1.0, context=n) for n in range(3)]
    peer.receive(line(id="open", method="b"))
    peer.take()
    error = WorkerFailed("cannot")
    assert peer.close(error) == [
        Response(i, n, None, error) for n, i in enumerate(ids)
    ]  # fmt: skip
    assert peer.close(error) == []
    assert (peer.in_flight, peer.deadline) == (0, None)
    peer.respond("open", 1)
    assert peer.take() == b""


# -- lines that are no messages

FOREIGN = {
    "text": (b"hello", PARSE_ERROR),
    "half a message": (b'{"jsonrpc":"2.0","id":1,', PARSE_ERROR),
    "broken UTF-8": (b'{"jsonrpc":"2.0","method":"\xff"}', PARSE_ERROR),
    "NUL": (b"\x00", PARSE_ERROR),
    "NaN": (b'{"jsonrpc":"2.0","method":"a","params":{"x":NaN}}', PARSE_ERROR),
    "lone surrogate": (b'{"jsonrpc":"2.0","id":"\\ud800","method":"a"}', PARSE_ERROR),
    "deep nesting": (b"[" * 100_000, PARSE_ERROR),
    "number": (b"1", INVALID_REQUEST),
    "null": (b"null", INVALID_REQUEST),
    "batch": (b'[{"jsonrpc":"2.0","id":1,"method":"a"}]', INVALID_REQUEST),
    "empty batch": (b"[]", INVALID_REQUEST),
    "empty object": (b"{}", INVALID_REQUEST),
    "no version": (b'{"id":1,"method":"a"}', INVALID_REQUEST),
    "version 1.0": (b'{"jsonrpc":"1.0","id":1,"method":"a"}', INVALID_REQUEST),
    "version of another type": (b'{"jsonrpc":2.0,"id":1,"method":"a"}', INVALID_REQUEST),
    "neither call nor answer": (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST),
    "error of null alone": (b'{"jsonrpc":"2.0","id":1,"error":null}', INVALID_REQUEST),
    "method of another type": (b'{"jsonrpc":"2.0","method":1}', INVALID_REQUEST),
    "id of null": (b'{"jsonrpc":"2.0","id":null,"method":"a"}', INVALID_REQUEST),
    "list of params": (b'{"jsonrpc":"2.0","method":"a","params":[1]}', INVALID_PARAMS),
}


@pytest.mark.parametrize(("data", "code"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_line_that_is_no_message_is_handed_out_and_the_connection_lives_on(
    wire: ModuleType, data: bytes, code: int
) -> None:
    for answer in (False, True):
        peer = wire.Peer(answer_foreign=answer)
        foreign, last = peer.receive(data + b"\n" + line(method="last"))
        assert isinstance(foreign, wire.Foreign)
        assert foreign.line == data
        assert foreign.reason
        assert last == wire.Notification("last", {})
        replies = sent(peer)
        assert [(r["id"], code_of(r)) for r in replies] == ([(None, code)] if answer else [])


@pytest.mark.parametrize("params", [1, "x", [1], [], True, False, 0, ""])
def test_params_of_another_type_are_answered_with_invalid_params(params: object) -> None:
    for answer in (False, True):
        peer = Peer(answer_foreign=answer)
        (event,) = peer.receive(line(id=4, method="a", params=params))
        assert isinstance(event, Foreign)
        assert [(r["id"], code_of(r)) for r in sent(peer)] == [(4, INVALID_PARAMS)]
        assert peer.receive(line(id=4, method="a")) == [Request(4, "a", {})]


def test_a_request_whose_method_is_no_string_is_answered_under_its_id() -> None:
    peer = Peer()
    peer.receive(line(id=4, method=["a"]))
    assert [(r["id"], code_of(r)) for r in sent(peer)] == [(4, INVALID_REQUEST)]


def test_blank_lines_are_nothing_but_where_they_belong_to_a_log() -> None:
    peer = Peer(answer_foreign=True)
    assert peer.receive(b"\n\r\n \t \n\n") == []
    assert peer.take() == b""
    logging = Peer(log_foreign=True)
    assert [foreign[0] for foreign in logging.receive(b"\n\r\n \t \n\n")] == [b"", b"\r", b" \t ", b""]
    assert logging.take() == b""


def test_what_is_left_at_the_end_is_read_once() -> None:
    peer = Peer()
    assert peer.receive(line(method="a")[:-1]) == []
    assert peer.finish() == [Notification("a", {})]
    assert peer.finish() == []
    peer.receive(b"half")
    (event,) = peer.finish()
    assert isinstance(event, Foreign)
    assert event.line == b"half"
    small = Peer(max_message_bytes=10)
    assert len(small.receive(b"x" * 20)) == 1
    assert small.finish() == []


# -- limits

LIMIT_BYTES = 8192
LONG = "x" * LIMIT_BYTES


def limited(wire: ModuleType) -> Peer:
    """A peer with the requests 1 and 2 in flight."""
    peer: Peer = wire.Peer(max_message_bytes=LIMIT_BYTES, answer_foreign=True)
    for context in ("one", "two"):
        peer.request("a", deadline=None, context=context)
    peer.take()
    return peer


def ended(peer: Peer, data: bytes) -> list[object]:
    """The contexts of the requests that end with ResourceLimitExceeded; the next line is whole."""
    *events, last = peer.receive(data + line(method="last"))
    assert type(last).__name__ == "Notification"
    contexts: list[object] = []
    for event in events:
        if type(event).__name__ == "Response":  # of either wire
            response = cast("Response", event)
            assert type(response.error) is ResourceLimitExceeded
            assert response.error.data == {"limit": "message", "value": LIMIT_BYTES}
            contexts.append(response.context)
        else:
            assert len(cast("Foreign", event).line) == 4096
    return contexts


def test_a_message_of_the_limit_is_read_and_one_byte_more_is_not(wire: ModuleType) -> None:
    peer = limited(wire)
    frame = len(line(id=1, result="")) - 1
    fits = line(id=1, result="x" * (LIMIT_BYTES - frame))
    assert len(fits) == LIMIT_BYTES + 1
    assert peer.receive(fits)[0] == wire.Response(1, "one", "x" * (LIMIT_BYTES - frame), None)
    assert ended(peer, line(id=2, result="x" * (LIMIT_BYTES - frame + 1))) == ["two"]


def test_an_answer_that_is_too_long_ends_its_own_request(wire: ModuleType) -> None:
    for data in (
        line(id=2, result=LONG),
        line(id=2, error={"code": 1, "message": LONG}),
        b' {"id" :\t2 , "jsonrpc":"2.0","result":"' + LONG.encode() + b'"}\n',
        line(result={"id": 1, "a": [{"id": 1}]}, id=2, more=LONG),
        line(a='"id":1', b='\\"id":1,', id=2, result=LONG),
        line(**{"i\\d": 1, "id ": 1, "id": 2, "result": LONG}),
        b'{"\\u0069d":2,"result":"' + LONG.encode() + b'"}\n',
        line(id=2, result={"id": 1, "b": LONG}),
        line(id=2, result='","id":1,"' + LONG),
        line(id=2, result='\\","id":1,' * 1000),
    ):
        peer = limited(wire)
        assert ended(peer, data) == ["two"], data[:80]
        assert (peer.in_flight, peer.dropped, peer.take()) == (1, 0, b"")


def test_an_answer_that_is_too_long_and_names_nobody_ends_all_requests(wire: ModuleType) -> None:
    for data in (
        line(result=LONG, id=2),
        line(result={"id": 1, "b": LONG}),
        line(result=[{"id": 1}, {"id": 2}, LONG]),
        b'{"id":"1 ' + LONG.encode() + b'"}\n',
        b'{"a":"' + b"x" * 4081 + b'","id":1234567' + b" " * LIMIT_BYTES + b"}\n",
        line(id=None, result=LONG),
        line(id=True, result=LONG),
        line(id=1.0, result=LONG),
        b"{" * (2 * LIMIT_BYTES) + b"\n",
        b'{"' * (2 * LIMIT_BYTES) + b"\n",
        b"{]}[" * LIMIT_BYTES + b"\n",
    ):
        peer = limited(wire)
        assert ended(peer, data) == ["one", "two"], data[:80]
        assert peer.in_flight == 0


def test_an_answer_that_is_too_long_and_late_ends_nothing(wire: ModuleType) -> None:
    peer = limited(wire)
    assert ended(peer, line(id=7, result=LONG)) == []
    assert ended(peer, line(id="1", result=LONG)) == []
    assert (peer.in_flight, peer.dropped) == (2, 2)


def test_a_call_that_is_too_long_is_answered_and_ends_nothing(wire: ModuleType) -> None:
    for data, request_id in (
        (line(id=1, method="a", params={"x": LONG}), 1),
        (line(method="a", id="r", params={"x": LONG}), "r"),
        (line(method="a", params={"x": LONG}, id=1), None),
        (line(method="log", params={"id": 1, "x": LONG}), None),
        (line(id=1, method=LONG), 1),
    ):
        peer = limited(wire)
        assert ended(peer, data) == []
        assert [(r["id"], code_of(r)) for r in sent(peer)] == [(request_id, TOO_LONG)]
        assert peer.in_flight == 2


def test_a_line_that_is_too_long_and_no_object_concerns_nobody(wire: ModuleType) -> None:
    for data in ("x" + LONG, '"id":1' + LONG, '[{"id":1},' + LONG, "\ufeff{" + LONG):
        peer = limited(wire)
        assert ended(peer, data.encode() + b"\n") == []
        assert [(r["id"], code_of(r)) for r in sent(peer)] == [(None, TOO_LONG)]
        assert peer.in_flight == 2
        quiet = wire.Peer(max_message_bytes=LIMIT_BYTES)
        assert len(quiet.receive(data.encode() + b"\n")) == 1
        assert quiet.take() == b""


def test_a_line_is_given_up_as_soon_as_it_is_too_long(wire: ModuleType) -> None:
    peer = limited(wire)
    start = line(id=1, result=3 * LONG)
    assert peer.receive(start[:LIMIT_BYTES]) == []
    assert [type(e).__name__ for e in peer.receive(start[LIMIT_BYTES : LIMIT_BYTES + 1])] == ["Response", "Foreign"]
    assert peer.receive(start[LIMIT_BYTES + 1 :]) == []
    assert peer.dropped == 0
    assert len(peer.receive(line(id=2, result=1))) == 1


def logged(pieces: Iterable[bytes]) -> list[tuple[bytes, int]]:
    """The lines that a peer hands out for a log, put together, each with how much of it was cut."""
    peer = Peer(log_foreign=True, max_message_bytes=LIMIT_BYTES)
    events = [event for piece in pieces for event in peer.receive(piece)] + peer.finish()
    lines: list[tuple[bytes, int]] = []
    text = b""
    for event in events:
        assert isinstance(event, Foreign)
        text += event.line
        if event.ended:
            lines.append((text, event.cut_bytes))
            text = b""
    assert not text
    assert peer.take() == b""
    return lines


LOGGED = {
    "longer than a message": (b"x" * 3 * LIMIT_BYTES, 0),
    "of blanks": (b" " * 2 * LIMIT_BYTES, 0),
    "JSON, but no object": (b"[" + b"1" * 2 * LIMIT_BYTES, 0),
    "begins late": (b" " * 5000 + b"{" * LIMIT_BYTES, 0),
    "short": (b"x", 0),
    "like a message": (b'{"level": "' + b"x" * LIMIT_BYTES, LIMIT_BYTES + 11 - 4096),
    "blank, then like a message": (b" {" + b"x" * 2 * LIMIT_BYTES, 2 * LIMIT_BYTES + 2 - 4096),
}


@pytest.mark.parametrize(("text", "cut_bytes"), LOGGED.values(), ids=LOGGED.keys())
def test_a_log_line_is_passed_on_whole_or_with_the_number_of_bytes_cut(text: bytes, cut_bytes: int) -> None:
    data = b"before\n\n%s\nafter\n" % text
    expected = [(b"before", 0), (b"", 0), (text[: len(text) - cut_bytes], cut_bytes), (b"after", 0)]
    for size in (1, 100, 4096, 4097, LIMIT_BYTES, len(data)):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert logged(pieces) == expected, size
    assert logged([data[: -len(b"\nafter\n")]]) == expected[:3]


def foreign_of(peer: Peer, data: bytes) -> list[tuple[bytes, bool]]:
    events = peer.receive(data)
    return [(event.line, event.ended) for event in events if isinstance(event, Foreign)]


def test_a_line_for_a_log_is_handed_out_before_it_ends_and_not_kept() -> None:
    peer = Peer(log_foreign=True)
    assert foreign_of(peer, b"Pass") == [(b"Pass", False)]
    assert foreign_of(peer, b"word: ") == [(b"word: ", False)]
    assert foreign_of(peer, b"end\nnext\n  ") == [(b"end", False), (b"", True), (b"next", True)]
    assert foreign_of(peer, b"> ") == [(b"  > ", False)]


@pytest.mark.parametrize("beginning", ['{"x"', "[", ' "jsonrpc": ', "\ufeff", " "])
def test_a_line_that_may_have_a_message_in_it_is_kept_until_it_is_too_long_for_one(beginning: str) -> None:
    peer = Peer(log_foreign=True)
    begun = beginning.encode()
    assert foreign_of(peer, begun) == []
    if not begun.startswith(b"{"):
        long = b"x" * PIECE_BYTES
        assert foreign_of(peer, long) == [(begun + long, False)]


def test_a_message_of_ours_that_is_too_long_is_refused_and_nothing_sent(wire: ModuleType) -> None:
    peer = wire.Peer(max_message_bytes=LIMIT_BYTES)
    with pytest.raises(ResourceLimitExceeded):
        peer.request("a", {"x": LONG}, deadline=1.0)
    with pytest.raises(ResourceLimitExceeded):
        peer.notify("a", {"x": LONG})
    assert (peer.take(), peer.in_flight, peer.deadline) == (b"", 0, None)


def test_params_that_json_cannot_say_are_refused_and_nothing_sent(wire: ModuleType) -> None:
    peer = wire.Peer()
    for value in (object(), "\ud800", {(1,): 2}, 10**10_000):
        with pytest.raises(InvalidParams):
            peer.request("a", {"x": value}, deadline=1.0)
        with pytest.raises(InvalidParams):
            peer.notify("a", {"x": value})
    assert (peer.take(), peer.in_flight, peer.deadline) == (b"", 0, None)


def test_a_result_that_cannot_be_sent_becomes_an_error_that_blames_nobody_else(wire: ModuleType) -> None:
    for result, code in ((object(), INTERNAL_ERROR), ("\ud800", INTERNAL_ERROR), (LONG, TOO_LONG)):
        peer = wire.Peer(max_message_bytes=LIMIT_BYTES)
        peer.receive(line(id=3, method="a"))
        peer.respond(3, result)
        assert [(r["id"], code_of(r)) for r in sent(peer)] == [(3, code)]
        assert peer.receive(line(id=3, method="a")) == [wire.Request(3, "a", {})]


def test_an_error_that_cannot_be_sent_whole_keeps_its_code_and_fits(wire: ModuleType) -> None:
    for error in (
        Conflict("cannot", why=object()),
        Conflict("cannot \ud800"),
        Conflict("cannot", why=LONG),
        Conflict("\U0001f600" * LIMIT_BYTES),
    ):
        peer = wire.Peer(max_message_bytes=2 * LIMIT_BYTES if error.data else LIMIT_BYTES)
        peer.receive(line(id=3, method="a"))
        peer.fail(3, error)
        data = peer.take()
        assert len(data) <= 2 * LIMIT_BYTES
        assert code_of(json.loads(data)) == Conflict.code


def test_an_error_reply_to_a_long_call_is_within_the_limit(wire: ModuleType) -> None:
    peer = limited(wire)
    method = "\u00fc" * (LIMIT_BYTES // 2 - 30)
    peer.receive(json.dumps({"jsonrpc": "2.0", "id": 3, "method": method, "params": 1}, ensure_ascii=False).encode() + b"\n")  # fmt: skip
    data = peer.take()
    assert len(data) <= LIMIT_BYTES
    assert code_of(json.loads(data)) == INVALID_PARAMS


def test_requests_of_ours_beyond_the_limit_are_refused_until_one_ends() -> None:
    peer = Peer(max_requests=2)
    one, _ = (peer.request("a", deadline=None) for _ in range(2))
    with pytest.raises(Overloaded) as caught:
        peer.request("a", deadline=None)
    assert caught.value.data == {"limit": 2, "retry_after_s": 1}
    peer.cancel(one, "")
    peer.request("a", deadline=None)
    assert peer.in_flight == 2


def test_requests_of_the_peer_beyond_the_limit_are_answered_with_overloaded() -> None:
    peer = Peer(max_requests=2)
    assert len(peer.receive(b"".join(line(id=i, method="a") for i in range(4)))) == 2
    assert [(r["id"], code_of(r)) for r in sent(peer)] == [(2, OVERLOADED), (3, OVERLOADED)]
    assert peer.receive(line(method="n")) == [Notification("n", {})]
    peer.respond(0, 1)
    assert len(peer.receive(line(id=2, method="a"))) == 1


def test_what_is_sent_is_one_line_a_message_in_order() -> None:
    peer = Peer()
    peer.notify("a", {"text": "one\ntwo\r\u2028"})
    peer.request("b", deadline=None)
    data = peer.take()
    assert data.count(b"\n") == 2
    assert data.endswith(b"\n")
    assert [json.loads(each)["method"] for each in data.split(b"\n")[:-1]] == ["a", "b"]
    assert peer.take() == b""


def test_an_answer_with_half_a_character_is_an_answer_where_text_is_mended() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":{"text":"cut \\ud83d"}}\n'
    strict, mending = Peer(log_foreign=True), Peer(log_foreign=True, mends_text=True)
    for peer in (strict, mending):
        peer.request("tools/call", deadline=None)
    (failed, refused), (answer,) = strict.receive(line), mending.receive(line)
    assert isinstance(refused, Foreign)
    assert isinstance(failed, Response)
    assert isinstance(failed.error, ParseError)
    assert isinstance(answer, Response)
    assert answer.result == {"text": "cut \ufffd"}


def test_a_byte_order_mark_before_the_first_message_is_passed_over(wire: ModuleType) -> None:
    (event,) = wire.Peer(log_foreign=True).receive(b"\xef\xbb\xbf" + line(id=1, method="a"))
    assert (event.id, event.method) == (1, "a")


@pytest.mark.parametrize("value", [b'"\\ud83d"', b'"\xff"', b"NaN", b"Infinity", b"[1,]"])
@pytest.mark.parametrize(
    "form",
    [
        b'{"jsonrpc":"2.0","id":5,"method":"a","params":{"x":%b}}',
        b'{"method":"a","params":{"x":%b},"jsonrpc":"2.0","id":5}',
    ],
)
def test_a_request_that_is_no_json_is_answered_under_its_id(wire: ModuleType, form: bytes, value: bytes) -> None:
    peer = wire.Peer(answer_foreign=True)
    peer.receive(form % value + b"\n")
    (answer,) = sent(peer)
    assert answer["id"] == 5
    assert code_of(answer) == ParseError.code


@pytest.mark.parametrize("value", [b"NaN", b'"\xff"', b"-Infinity"])
def test_an_answer_that_is_no_json_ends_its_request_at_once(wire: ModuleType, value: bytes) -> None:
    peer = wire.Peer(log_foreign=True)
    mine, other = (peer.request("tools/call", deadline=None) for _ in range(2))
    events = peer.receive(b'{"result":{"x":%b},"jsonrpc":"2.0","id":%d}\n' % (value, mine))
    assert [(each.id, type(each.error)) for each in events if isinstance(each, wire.Response)] == [(mine, ParseError)]
    (answer,) = peer.receive(line(id=other, result={}))
    assert answer.id == other


def test_an_answer_on_several_lines_is_reported_at_once(wire: ModuleType) -> None:
    peer = wire.Peer(log_foreign=True)
    mine = peer.request("tools/call", deadline=None)
    events = peer.receive(b'{\n  "jsonrpc": "2.0",\n  "id": %d,\n  "result": {}\n}\n' % mine)
    (ended,) = (each for each in events if isinstance(each, wire.Response))
    assert (ended.id, type(ended.error)) == (mine, ParseError)


def test_a_log_line_that_looks_like_json_ends_no_request(wire: ModuleType) -> None:
    peer = wire.Peer(log_foreign=True)
    mine = peer.request("tools/call", deadline=None)
    assert not [each for each in peer.receive(b"{ id: 1, a: [Object] }\n{\n}\n") if isinstance(each, wire.Response)]
    (answer,) = peer.receive(line(id=mine, result={}))
    assert answer.id == mine
