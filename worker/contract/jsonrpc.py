"""Implements JSON-RPC 2.0 on lines, without I/O: bytes in, events out; calls in, bytes out.

One `Peer` represents this side of one connection. Either side may call the other. The same class serves the pipes
of a worker, those of an MCP server, and the control socket. It owns the framing (one UTF-8 object a line,
https://www.jsonrpc.org/specification, no batches), the ids, the requests in flight with their deadlines, and every
limit; it must not know a clock, a socket or a method.

A peer's mistake never raises: it becomes an event or an error response, and reading continues with the next line.
Memory is bounded while bytes arrive: a line is dropped as soon as it is too long, and only its first 4 KiB are kept
to find the request that it concerned. Where lines that are not messages belong to a log, they are returned as they
arrive, however long they are.
"""

import heapq
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from . import codec
from .errors import (
    CorralError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    Overloaded,
    ParseError,
    ResourceLimitExceeded,
    Timeout,
    from_wire,
)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Bytes of the longest line, newline excluded, that is sent or accepted."""

HEAD_BYTES = 4096
"""Bytes that are kept of a line that is too long."""

PIECE_BYTES = 64 * 1024
"""Bytes of a line that cannot be a message after which it is returned in pieces, with `log_foreign`."""

MESSAGE_CHARS = 1000
"""Characters that are kept of an error's message when the whole error cannot be sent."""

MAX_REQUESTS = 10_000
"""Number of requests in flight in one direction of one connection."""

CANCELLED = "notifications/cancelled"

NO_MESSAGE = "cannot read the line as a request: it does not begin like one"

Id = str | int


class Request(NamedTuple):
    """Represents a request of the peer; respond with `Peer.respond` or `Peer.fail`."""

    id: Id
    method: str
    params: dict[str, object]


class Notification(NamedTuple):
    """Represents a notification of the peer."""

    method: str
    params: dict[str, object]


class Response(NamedTuple):
    """Represents the end of an own request: with `result`, or with `error` if that is not None."""

    id: Id
    context: object
    result: object
    error: CorralError | None


class Withdrawn(NamedTuple):
    """Represents the cancellation of a request that is being served."""

    id: Id
    reason: str


class Foreign(NamedTuple):
    """Represents a line that is not a JSON-RPC message; `reason` names the error.

    Of a line that is too long, `line` holds the first 4 KiB (or the size limit of a message, if smaller). With
    `log_foreign` it may be a piece of a line, where `ended` marks the last one; `cut_bytes` of the line were dropped
    before its end, because it began like a message and was too long for one.
    """

    line: bytes
    reason: str
    ended: bool = True
    cut_bytes: int = 0


class PeerHandover(NamedTuple):
    """Holds the state of a peer for another program that goes on with the connection.

    `partial` is the beginning of a line; `asked` has the own requests in flight by their ids, each with its method and
    deadline; `serving` the ids of those of the other side.
    """

    last_number: int
    partial: bytes
    is_skipping: bool
    skipped_bytes: int
    is_in_pieces: bool
    accepts_batches: bool
    dropped: int
    asked: dict[Id, tuple[str, float | None]]
    serving: tuple[Id, ...]


Event = Request | Notification | Response | Withdrawn | Foreign


_BEGINNINGS = (b"", b"{", b"[", b'"', codec.BYTE_ORDER_MARK[:1])
"""First characters of a line that may have a message in it; "" of a blank one."""

UNREADABLE_BYTES = 256 * 1024
"""Bytes of a line that is no JSON which are searched for its id."""

_InFlight = tuple[str, float | None, object]
"""Method, deadline and context of a request in flight; a plain tuple, because each request makes one."""


class Peer:
    """Represents this side of one JSON-RPC connection.

    Args:
        prefix: makes ids of the form `PREFIX-N`, so that a response to an earlier incarnation of the sender
            is never taken for one to the present one; without it ids are integers.
        answer_foreign: respond to lines that are not messages with ParseError or InvalidRequest (as the
            control socket does), besides returning them as Foreign events.
        log_foreign: treat lines that are not messages as a log: blank ones count, a line that does not begin
            like a message is returned in pieces as it arrives, and dropped bytes are counted.
        mends_text: decode a line that is invalid only because of lone surrogates (half a pair, as JavaScript
            writes it) with U+FFFD in their place.
        max_message_bytes: bytes of the longest line, in both directions.
        max_requests: number of requests in flight, in each direction.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        answer_foreign: bool = False,
        log_foreign: bool = False,
        mends_text: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._prefix = prefix
        self._answer_foreign = answer_foreign
        self._log_foreign = log_foreign
        self._mends_text = mends_text
        self._max_message_bytes = max_message_bytes
        self._head_bytes = min(HEAD_BYTES, max_message_bytes)  # the same however the line is split
        self._max_requests = max_requests
        self._last_number = 0
        self._in_flight: dict[Id, _InFlight] = {}
        self._deadlines: list[tuple[float, int, Id]] = []
        self._serving: set[Id] = set()
        self._partial = bytearray()
        self._skipping = False
        self._skipped_bytes = 0
        self._in_pieces = False
        self._outgoing: list[bytes] = []
        self.dropped = 0
        """Number of responses without a request in flight: late, repeated or invented ones."""
        self._accepts_batches = False

    # -- from one program to another

    def hand_over(self) -> PeerHandover:
        """Returns the state with which another program goes on; for one that has nothing unsent."""
        return PeerHandover(
            last_number=self._last_number,
            partial=bytes(self._partial),
            is_skipping=self._skipping,
            skipped_bytes=self._skipped_bytes,
            is_in_pieces=self._in_pieces,
            accepts_batches=self._accepts_batches,
            dropped=self.dropped,
            asked={each: (method, deadline) for each, (method, deadline, _) in self._in_flight.items()},
            serving=tuple(self._serving),
        )

    def take_up(self, left: PeerHandover, contexts: Mapping[Id, object]) -> None:
        """Goes on from the state of another program, before the first byte; requests without a context are forgotten."""
        self._last_number, self.dropped = left.last_number, left.dropped
        self._partial += left.partial
        self._skipping, self._skipped_bytes = left.is_skipping, left.skipped_bytes
        self._in_pieces, self._accepts_batches = left.is_in_pieces, left.accepts_batches
        self._serving.update(left.serving)
        for number, (request_id, context) in enumerate(contexts.items()):
            method, deadline = left.asked[request_id]
            self._in_flight[request_id] = (method, deadline, context)
            if deadline is not None:
                heapq.heappush(self._deadlines, (deadline, -number, request_id))

    # -- receiving

    def accept_batches(self) -> None:
        """Accepts lines that are lists of messages, as in MCP's revision 2025-03-26; none is ever sent."""
        self._accepts_batches = True

    def receive(self, data: bytes) -> list[Event]:
        """Returns the events in the next bytes of the peer, in order, however the bytes are split."""
        events: list[Event] = []
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and (self._partial or self._skipping or self._in_pieces):
            first = lines.pop(0)
            if self._skipping or self._in_pieces:
                self._continue_line(first, events)
                self._end_line(events)
            else:
                self._partial += first
                lines.insert(0, bytes(self._partial))
                self._partial.clear()
        for line in lines:
            if len(line) > self._max_message_bytes:
                self._drop_line(line, events)
                self._end_line(events)
            else:
                self._read_line(line, events)
        if rest:
            if self._skipping or self._in_pieces:
                self._continue_line(rest, events)
            else:
                self._keep(rest, events)
        return events

    def _keep(self, piece: bytes, events: list[Event]) -> None:
        self._partial += piece
        is_long = len(self._partial) > PIECE_BYTES
        if len(self._partial) > self._max_message_bytes or (
            self._log_foreign and not self._is_like_message(self._partial) and (is_long or self._is_text(self._partial))
        ):
            self._drop_line(self._partial, events)
            self._partial.clear()

    def _is_like_message(self, line: bytes | bytearray) -> bool:
        return line[: self._head_bytes].lstrip().startswith(b"{")

    def _is_text(self, line: bytes | bytearray) -> bool:
        """Returns whether a line has begun as no message does, in a batch or on several lines either: it is not waited for."""
        return line[: self._head_bytes].lstrip()[:1] not in _BEGINNINGS

    def _continue_line(self, piece: bytes, events: list[Event]) -> None:
        """Takes the next bytes of a line that is dropped or returned in pieces."""
        if self._in_pieces:
            events.append(Foreign(piece, NO_MESSAGE, ended=False))
        else:
            self._skipped_bytes += len(piece)

    def _end_line(self, events: list[Event]) -> None:
        """Ends a line that was dropped or returned in pieces."""
        if self._log_foreign:
            events.append(Foreign(b"", NO_MESSAGE, cut_bytes=self._skipped_bytes))
        self._skipping = self._in_pieces = False
        self._skipped_bytes = 0

    def finish(self) -> list[Event]:
        """Returns the events in a last line without its newline, after the peer has closed."""
        events: list[Event] = []
        if self._skipping or self._in_pieces:
            self._end_line(events)
        elif self._partial:
            line = bytes(self._partial)
            self._partial.clear()
            self._read_line(line, events)
        return events

    def _read_line(self, line: bytes, events: list[Event]) -> None:
        try:
            value = codec.decode(line)
        except ValueError as error:
            if not line or line.isspace():
                if self._log_foreign:
                    events.append(Foreign(line, NO_MESSAGE))
                return
            mended = codec.without_lone_surrogates(line) if self._mends_text else line
            if mended != line:
                self._read_line(mended, events)
                return
            self._read_unreadable(line, ParseError(f"cannot read the line as JSON: {error}"), events)
            return
        message: dict[str, object] | None = value if type(value) is dict else None
        if message is not None and message.get("jsonrpc") == "2.0":
            if "method" in message:
                self._read_call(line, message, events)
            else:
                self._read_response(line, message, events)
        elif message is None and self._accepts_batches and isinstance(value, list):
            for part in codec.as_array(value) or []:
                if isinstance(part, dict):
                    self._read_line(codec.encode(part), events)
        else:
            reason = 'cannot read the line as a request: no object with "jsonrpc": "2.0"'
            self._refuse(line, InvalidRequest(reason), events)

    def _read_unreadable(self, line: bytes, error: CorralError, events: list[Event]) -> None:
        """Answers the request, or ends the one, that a line concerns which is no JSON, as far as its id can be read."""
        keys = _top_level(line[:UNREADABLE_BYTES]) if self._is_like_message(line) else {}
        request_id = _id(keys.get("id"))
        if "method" in keys:
            self._refuse(line, error, events, request_id)
            return
        lost = [request_id] if request_id is not None and request_id in self._in_flight else []
        if line.lstrip().startswith(b'"jsonrpc"'):  # a message on several lines, whichever it is about
            error, lost = ParseError("cannot read the message: it is on several lines"), list(self._in_flight)
        events += self._end(lost, error)
        self._refuse(line, error, events)

    def _read_call(self, line: bytes, message: dict[str, object], events: list[Event]) -> None:
        method = message["method"]
        raw = message.get("params")
        params: dict[str, object] | None = raw if type(raw) is dict else {} if raw is None else None
        request_id = _id(message.get("id"))
        error: CorralError
        if not isinstance(method, str):
            error = InvalidRequest("cannot read the request: its method is not a string")
            self._refuse(line, error, events, request_id)
        elif "id" in message and request_id is None:
            error = InvalidRequest("cannot read the request: its id is neither a string nor an integer")
            self._refuse(line, error, events)
        elif params is None:
            error = InvalidParams(f'cannot call "{method}": its params are not an object')
            self._refuse(line, error, events, request_id)
        elif request_id is None:
            self._read_notification(method, params, events)
        elif request_id in self._serving:
            error = InvalidRequest(f"cannot take request {request_id!r}: its id is in use")
            self._send_error(request_id, error)
        elif len(self._serving) >= self._max_requests:
            message_text = f"cannot take a request beyond {self._max_requests} in flight"
            self._send_error(request_id, Overloaded(message_text, limit=self._max_requests, retry_after_s=1))
        else:
            self._serving.add(request_id)
            events.append(Request(request_id, method, params))

    def _read_notification(self, method: str, params: dict[str, object], events: list[Event]) -> None:
        if method != CANCELLED:
            events.append(Notification(method, params))
            return
        request_id = _id(params.get("requestId"))
        if request_id in self._serving:  # else it has been answered already: the usual race
            events.append(Withdrawn(request_id, str(params.get("reason") or "")))
        elif request_id in self._in_flight:  # an MCP server ends a subscription this way
            events.append(Notification(method, params))

    def _read_response(self, line: bytes, message: dict[str, object], events: list[Event]) -> None:
        refusal = message.get("error")
        if refusal is None and "result" not in message:
            self._refuse(line, InvalidRequest("cannot read the message: no method, no result and no error"), events)
            return
        request_id = _id(message.get("id"))
        entry = None if request_id is None else self._in_flight.pop(request_id, None)
        if entry is None or request_id is None:
            self.dropped += 1
            return
        error = None if refusal is None else from_wire(refusal)
        events.append(Response(request_id, entry[2], message.get("result"), error))

    def _refuse(self, line: bytes, error: CorralError, events: list[Event], request_id: Id | None = None) -> None:
        if self._answer_foreign or request_id is not None:
            self._send_error(request_id, error)
        events.append(Foreign(line, error.message, ended=not (self._skipping and self._log_foreign)))

    def _drop_line(self, line: bytes | bytearray, events: list[Event]) -> None:
        """Ends the request that a line which is too long concerned, if its first 4 KiB name it; its end has not arrived yet."""
        if self._log_foreign and not self._is_like_message(line):
            self._in_pieces = True
            events.append(Foreign(bytes(line), NO_MESSAGE, ended=False))
            return
        self._skipping = True
        head = bytes(line[: self._head_bytes])
        self._skipped_bytes = len(line) - len(head)
        limit = self._max_message_bytes
        error = ResourceLimitExceeded(f"cannot take a message of more than {limit} bytes", limit="message", value=limit)
        if not self._is_like_message(head):
            self._refuse(head, error, events)  # a log line, which concerns no request
            return
        keys = _top_level(head)
        request_id = _id(keys.get("id"))
        if "method" in keys:
            self._refuse(head, error, events, request_id)
            return
        lost = [request_id] if request_id in self._in_flight else list(self._in_flight)
        if request_id is not None and request_id not in self._in_flight:
            lost = []  # a response to a request that has ended
            self.dropped += 1
        events += self._end(lost, error)
        events.append(Foreign(head, error.message, ended=not self._log_foreign))

    def _end(self, ids: Iterable[Id], error: CorralError) -> list[Response]:
        """Ends requests in flight with an error."""
        return [Response(each, self._in_flight.pop(each)[2], None, error) for each in ids]

    # -- sending

    def request(
        self, method: str, params: Mapping[str, object] | None = None, *, deadline: float | None, context: object = None
    ) -> Id:
        """Queues a request and returns its id; it ends with a Response that has `context`.

        Raises:
            Overloaded: too many requests are in flight.
            InvalidParams: JSON cannot express the params.
            ResourceLimitExceeded: the message is too long.
        """
        if len(self._in_flight) >= self._max_requests:
            text = f'cannot send "{method}": {self._max_requests} requests are in flight'
            raise Overloaded(text, limit=self._max_requests, retry_after_s=1)
        self._last_number += 1
        number = self._last_number
        request_id: Id = f"{self._prefix}-{number}" if self._prefix else number
        message: dict[str, object] = {"jsonrpc": "2.0", "id": request_id, "method": method}
        if params is not None:
            message["params"] = params
        self._send(self._encode(message))
        self._in_flight[request_id] = (method, deadline, context)
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, number, request_id))
            if len(self._deadlines) > 2 * len(self._in_flight) + 64:  # most are of answered requests
                self._deadlines = [each for each in self._deadlines if each[2] in self._in_flight]
                heapq.heapify(self._deadlines)
        return request_id

    def notify(self, method: str, params: Mapping[str, object] | None = None) -> None:
        """Queues a notification.

        Raises:
            InvalidParams: JSON cannot express the params.
            ResourceLimitExceeded: the message is too long.
        """
        message: dict[str, object] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        self._send(self._encode(message))

    def respond(self, request_id: Id, result: object) -> None:
        """Queues the response to a Request; a second one to the same request is dropped.

        A result that cannot be sent becomes an error response with the reason.
        """
        if request_id not in self._serving:
            return
        try:
            line = self._encode({"jsonrpc": "2.0", "id": request_id, "result": result})
        except InvalidParams as error:  # not an error of the caller
            self.fail(request_id, InternalError(f"cannot send the result: {error}"))
            return
        except CorralError as error:
            self.fail(request_id, error)
            return
        self._serving.discard(request_id)
        self._outgoing.append(line)

    def fail(self, request_id: Id, error: CorralError) -> None:
        """Queues an error response to a Request; a second response is dropped."""
        if request_id in self._serving:
            self._serving.discard(request_id)
            self._send_error(request_id, error)

    def cancel(self, request_id: Id, reason: str) -> None:
        """Cancels a request at the peer, and forgets it."""
        if self._in_flight.pop(request_id, None) is not None:
            self.notify(CANCELLED, {"requestId": request_id, "reason": reason})

    def withdraw(self, request_id: Id, reason: str) -> None:
        """Cancels a request at the peer, and still waits for its response."""
        if request_id in self._in_flight:
            self.notify(CANCELLED, {"requestId": request_id, "reason": reason})

    def reschedule(self, request_id: Id, deadline: float) -> None:
        """Changes the deadline of a request in flight that has one."""
        method, before, context = self._in_flight.get(request_id, ("", None, None))
        if before is None:
            return
        self._in_flight[request_id] = (method, deadline, context)
        if deadline < before:  # a later one is detected when the earlier one expires
            heapq.heappush(self._deadlines, (deadline, 0, request_id))

    def expire(self, now: float) -> list[Response]:
        """Ends the requests whose deadline has passed, each with Timeout, and cancels them at the peer."""
        ended: list[Response] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, request_id = heapq.heappop(self._deadlines)
            entry = self._in_flight.get(request_id)
            if entry is None:
                continue
            method, deadline, context = entry
            if deadline is not None and deadline > now:
                heapq.heappush(self._deadlines, (deadline, number, request_id))
            else:
                self.cancel(request_id, "timeout")
                error = Timeout(f'cannot wait longer for the answer to "{method}"')
                ended.append(Response(request_id, context, None, error))
        return ended

    def close(self, error: CorralError) -> list[Response]:
        """Ends every request in flight with `error`, after the peer is gone."""
        ended = self._end(list(self._in_flight), error)
        self._deadlines.clear()
        self._serving.clear()
        return ended

    def take(self) -> bytes:
        """Returns the queued bytes, and empties the queue."""
        if not self._outgoing:
            return b""
        self._outgoing.append(b"")
        data = b"\n".join(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def deadline(self) -> float | None:
        """Returns the earliest deadline of a request in flight, on the clock of the given deadlines."""
        while self._deadlines and self._deadlines[0][2] not in self._in_flight:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def has_unsent(self) -> bool:
        """Returns True if bytes are queued for `take`."""
        return bool(self._outgoing)

    @property
    def asked(self) -> list[str]:
        """Returns the methods of the own requests without a response."""
        return [method for method, _, _ in self._in_flight.values()]

    @property
    def in_flight(self) -> int:
        """Returns the number of own requests without a response."""
        return len(self._in_flight)

    def _encode(self, message: dict[str, object]) -> bytes:
        try:
            line = codec.encode(message)
        except ValueError as error:
            raise InvalidParams(f"cannot encode the message as JSON: {error}") from error
        if len(line) > self._max_message_bytes:
            text = f"cannot send a message of {len(line)} bytes: the limit is {self._max_message_bytes}"
            raise ResourceLimitExceeded(text, limit=self._max_message_bytes, value=len(line))
        return line

    def _send_error(self, request_id: Id | None, error: CorralError) -> None:
        try:
            line = self._encode({"jsonrpc": "2.0", "id": request_id, "error": error.to_wire()})
        except CorralError:  # data that JSON cannot express, or too much of it, must not prevent the response
            bare: dict[str, object] = {"code": error.code, "message": ascii(error.message[:MESSAGE_CHARS]), "data": {}}
            line = codec.encode({"jsonrpc": "2.0", "id": request_id, "error": bare})
        self._send(line)

    def _send(self, line: bytes) -> None:
        self._outgoing.append(line)


def _id(value: object) -> Id | None:
    """Returns a JSON-RPC id: a string or an integer; None for all other values, null and fractions included."""
    return value if type(value) is int or type(value) is str else None


# The last string of a truncated line has no closing quote; its content is no structure nevertheless.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[{}\[\],:]|[^\s"{}\[\],:]+')


def request_id_in(head: bytes) -> Id | None:
    """Returns the id of the request that a truncated line begins; None if it is not a request, or the id comes later."""
    keys = _top_level(head[:HEAD_BYTES])
    return _id(keys.get("id")) if "method" in keys else None


def _top_level(head: bytes) -> dict[str, object]:
    """Returns the keys of the outermost object in a truncated line; scalars with their value, others with None."""
    found: dict[str, object] = {}
    depth = 0
    key: str | None = None
    expect_value = False
    for match in _TOKEN.finditer(head):
        token = match.group()
        if depth == 1 and expect_value:
            whole = match.end() < len(head)  # else part of a number may be missing
            found[key or ""] = _scalar(token) if whole else None
            expect_value = False
        elif depth == 1 and token == b":":
            expect_value = True
        elif depth == 1 and token.startswith(b'"'):
            value = _scalar(token)
            key = value if isinstance(value, str) else None
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
    return found


def _scalar(token: bytes) -> object:
    try:
        return codec.decode(token)
    except ValueError:
        return None
