"""Serves /api/v1: each request is one call of the method table, answered with JSON or as a stream of events.

A client that hangs up ends its call, and not what the call has begun: a task goes on. Headers that HTTP has for it stand
for keys of the params: `Idempotency-Key` for `idempotency_key`, `If-Match` for `expected`, `Last-Event-ID` for the
key that takes a stream up again.
"""

from collections.abc import Mapping
from urllib.parse import quote

from aiohttp import web

from corral.supervisor.api.table.table import Control
from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams, InvalidRequest
from corral.worker.contract.trace_context import KEY, valid

from ..http.answers import JSON, Refused, answer, check_type, read_body
from ..http.callers import OneAnswer
from ..http.face import HttpClient
from .request_params import fields_of, params_of, text_value
from .routes import PREFIX, Match, Router, VerbRefused
from .statuses import success
from .streams import serve_stream

EVENTS = "text/event-stream"

KEY_HEADERS = {"Idempotency-Key": "idempotency_key", "If-Match": "expected"}
"""Headers that stand for a key of the params, of the methods that have it."""

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
