"""Serves /api/v1: each request is one call of the method table, answered with JSON or as a stream of events.

A client that hangs up ends its call, and not what the call has begun: a task goes on. Headers that HTTP has for it stand
for keys of the params: `Idempotency-Key` for `idempotency_key`, `If-Match` for `expected`, `Last-Event-ID` for the
key that takes a stream up again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from urllib.parse import quote

from aiohttp import web

from corral.supervisor.api.table.table import Control
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InternalError, InvalidParams, InvalidRequest, PermissionDenied
from corral.worker.contract.trace_context import KEY, valid
from corral.worker.control.nodes import places_of, places_text
from corral.worker.methods.faces import Resumption
from corral.worker.methods.method import AnyMethod

from ..http.answers import JSON, Refused, answer, check_type, read_body
from ..http.event_sender import Outbox, event, send_call
from ..http.face import HttpClient, OneAnswer
from .routes import KEY_HEADERS, PREFIX, Match, Router, VerbRefused, fields_of, params_of, success, text_value

RECORDS = {"event": "events"}
"""The key of a notification's records; each is an event of its own."""

logger = logging.getLogger(__name__)


class StreamCaller(OneAnswer):
    """Represents a caller that gets its notifications as events."""

    def __init__(self, client: HttpClient, resumption: Resumption | None) -> None:
        super().__init__(client)
        self.following: Awaitable[None] | None = None
        self.outbox = Outbox()
        self._is_valid = client.is_valid
        self._resumption = resumption

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Queues a notification as an event, or as one for each of its records; of a token that has ended, none."""
        if not self._is_valid():
            self.outbox.refuse(PermissionDenied("cannot go on with the stream: its token is over", reason="token"))
            return
        if self._resumption is None:
            self.outbox.put(event(method, params))
            return
        if self._resumption.of_all:
            self.outbox.put(event(method, params, params.get(self._resumption.field)))
            return
        records = codec.as_array(params.get(RECORDS.get(method, "")))
        if records is None:
            self.outbox.put(event(method, params))
            return
        place = params.get("position")
        places = places_of(place) if isinstance(place, str) else None
        for record in records:
            fields = codec.as_object(record) or {}
            number = fields.get(self._resumption.field)
            if places is not None and isinstance(number, int):
                places[str(fields.get("node"))] = str(number)
                self.outbox.put(event(method, record, places_text(places)))
            else:
                self.outbox.put(event(method, record, number))

    async def drain(self) -> None:
        """Waits while the client reads too slowly."""
        await self.outbox.drain()

    def follow(self, following: Awaitable[None]) -> None:
        """Keeps `following` for after the call: it goes on until the client hangs up."""
        self.following = following
        self.outbox.is_patient = True


async def serve_stream(
    request: web.BaseRequest, control: Control, method: AnyMethod, params: Mapping[str, object], client: HttpClient
) -> web.StreamResponse:
    """Answers a request with the events of a call."""
    caller = StreamCaller(client, method.faces.resumption)
    if method.faces.parts:
        params = {"stream": True, **params}
    call = _performed(control, method, params, caller)
    return await send_call(request, caller.outbox, call, _ending)


async def _performed(control: Control, method: AnyMethod, params: Mapping[str, object], caller: StreamCaller) -> object:
    """Calls the method, and does what follows the call; returns the result of the call."""
    result = await control.call(method.name, params, caller)
    if caller.following is not None:
        position = getattr(result, "position", None)
        # An id without an event: a reader that loses its stream before the first one has a place, too.
        caller.outbox.put(b": corral\n\n" if position is None else f"id: {position}\n\n".encode())
        await caller.following
    return result


def _ending(call: "asyncio.Future[object]") -> bytes:
    try:
        return event("result", call.result())
    except CorralError as error:
        return event("error", error.to_record())
    except Exception as error:  # a defect of ours: the status is sent already
        logger.exception("cannot go on with a stream")
        return event("error", InternalError(f"cannot go on: {type(error).__name__}").to_record())


EVENTS = "text/event-stream"

NODE_HEADER = "Corral-Node"
NODE_KEY = "node"
"""Key of a query that stands for the header: the node of the cluster that is to answer, `*` for all."""


class ApiFace:
    """Serves the method table below /api/v1."""

    prefix = PREFIX
    open = False

    def __init__(self, control: Control) -> None:
        self._control = control
        self._router = Router(control.methods)

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers one request."""
        streams = accepts(request, EVENTS)
        path = request.rel_url.raw_path.removeprefix(PREFIX)
        try:
            match = self._router.match(request.method, path, streams=streams)
        except VerbRefused as refused:
            raise Refused(405, refused, Allow=", ".join(refused.allowed)) from refused
        method = match.method
        params = await _params(request, match)
        if streams and method.faces.streams:
            return await serve_stream(request, self._control, method, params, client)
        if not accepts(request, JSON):
            raise Refused(406, InvalidRequest(f"cannot answer: the client does not take {JSON}"))
        return _answered(request, match, await self._control.call(method.name, params, OneAnswer(client)))

    async def close(self) -> None:
        """Returns at once: a request that is under way ends with its connection."""


def accepts(request: web.BaseRequest, wanted: str) -> bool:
    """Returns whether a client takes an answer of this type; a stream has to be named."""
    given = ",".join(request.headers.getall("Accept", []))
    if not given.strip():
        return wanted != EVENTS
    for each in given.split(","):
        name, _, parameters = each.partition(";")
        weight = parameters.replace(" ", "").lower()
        if weight.startswith("q=") and weight[2:].strip("0.") == "":
            continue
        name = name.strip().lower()
        if name == wanted or (wanted != EVENTS and name in ("*/*", "application/*")):
            return True
    return False


async def _params(request: web.BaseRequest, match: Match) -> dict[str, object]:
    body = await read_body(request)
    check_type(request, body)
    fields = fields_of(match.method.params)
    query, node = _node_of(request, match, fields)
    params = params_of(request.method, match, query, body)
    if node is not None:
        params[NODE_KEY] = node
    for header, key in KEY_HEADERS.items():
        text = request.headers.get(header)
        if text is None or key not in fields:
            continue
        value = text_value(_unquoted(text) if header == "If-Match" else text, fields[key])
        if params.setdefault(key, value) != value:
            words = f'cannot call "{match.method.name}": {header} and "{key}" differ'
            raise InvalidParams(words, key=key, header=header, method=match.method.name)
    if KEY in fields and (above := valid(request.headers.get(KEY))) is not None:
        params.setdefault(KEY, above)  # one that is not valid is ignored, as its specification asks for
    last, resumption = request.headers.get("Last-Event-ID"), match.method.faces.resumption
    if last and resumption is not None:
        params[resumption.key] = text_value(last, fields[resumption.key])
        params.pop("n", None)  # all that came since, and not the last of it
    return params


def _node_of(request: web.BaseRequest, match: Match, fields: Mapping[str, object]) -> tuple[str, str | None]:
    """Returns the query without the node that is to answer, and that node; None where the request names none."""
    query = request.rel_url.raw_query_string
    named = request.headers.getall(NODE_HEADER, [])
    if NODE_KEY not in fields and NODE_KEY in query:
        named += request.query.getall(NODE_KEY, [])
        query = "&".join(each for each in query.split("&") if each.partition("=")[0] != NODE_KEY)
    if len(set(named)) > 1:
        words = f'cannot call "{match.method.name}": it names the nodes {", ".join(named)}'
        raise InvalidParams(words, key=NODE_KEY, method=match.method.name)
    return query, named[0] if named else None


def _unquoted(tag: str) -> str:
    """Returns the value of an entity tag (RFC 9110, 8.8.3)."""
    return tag.strip().removeprefix("W/").strip('"')


def field_of(result: object, key: str) -> object:
    """Returns a key of the result of a method, a Struct or an object; None where it has none."""
    fields = codec.as_object(result)
    return getattr(result, key, None) if fields is None else fields.get(key)


def _answered(request: web.BaseRequest, match: Match, result: object) -> web.Response:
    status = success(match.method, match.route)
    headers: dict[str, str] = {}
    if status == 202:
        headers["Location"] = f"{PREFIX}/tasks/{quote(str(field_of(result, 'id')), safe='')}"
    if isinstance(tag := field_of(result, "etag"), str):
        headers["ETag"] = f'"{tag}"'
        given = request.headers.get("If-None-Match")
        tags = [] if given is None else [_unquoted(each) for each in given.split(",")]
        if request.method in ("GET", "HEAD") and (tag in tags or "*" in tags):
            return web.Response(status=304, headers=headers)
    return answer(result, status, headers)
