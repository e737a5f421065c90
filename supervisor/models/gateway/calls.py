"""Performs one call: asks the daemon, then the provider, passes the answer on, and tells the daemon what was used."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from corral.supervisor.config.declared.models import Kind

from .call_journal import NOTE_S, NOTE_SHARE, Account, Journal
from .recorded import Keeping, Recorded, request_name
from .shapes import (
    CHARS_PER_TOKEN,
    KEPT_ANSWER,
    Endpoint,
    Refused,
    error_body,
    error_event,
    given_key,
    is_served,
    place_of,
    usage_in,
    without_key,
)
from .stream import StreamReader
from .upstream import Answer, Question, Upstream
from .usage import Usage

REQUEST_BYTES = 32 * 1024 * 1024
"""Bytes of one request."""
REQUESTS_BYTES = 256 * 1024 * 1024
"""Bytes of all requests at a time."""
ANSWER_BYTES = 64 * 1024 * 1024
"""Bytes of an answer that does not stream."""
CALLS, UNIT_CALLS = 1024, 128
"""Numbers of calls at a time: of all workers, and of one."""
BODY_S = 60.0
"""Seconds between two parts of a request."""
WRITE_S = 60.0
"""Seconds that a worker may take to read a part of its answer."""
LONG_WAIT_S = 60.0
"""Seconds of waiting from which on a client is told not to try again by itself."""


class Passed(NamedTuple):
    """Represents the daemon's leave for a call: the unit that calls, the models that may answer it, in order, and what it counts for.

    The answer is to be kept if it has at most `keeps` bytes.
    """

    unit: str
    models: list[str]
    account: Account
    keeps: int = 0


class Unread(NamedTuple):
    """Represents that the daemon decides once the request was read, and is named to it."""

    unit: str


Decision = Passed | Unread | Recorded


Ask = Callable[[Mapping[str, object]], Awaitable[Decision]]
"""Asks the daemon whether a call may be made; raises Refused."""

Keep = Callable[[int, Mapping[str, object]], Awaitable[None]]
"""Has the daemon keep the answer of a call; returns when that is done."""

Closed = Callable[[str], None]
"""Reports to the daemon that all calls of a journal have ended."""

Report = Callable[[Mapping[str, object]], None]
"""Reports to the daemon the usage of a call."""


@dataclass
class Record:
    """Holds what is known of a call so far; `answers` keeps its answer, if that is wanted."""

    call: int
    model: str
    body: bytes | None = None
    answers: Keeping | None = None
    usage: Usage = field(default_factory=Usage)
    outcome: str = "cancelled"
    """One of ok, failed, cut (by the provider), cancelled (by the worker)."""
    status: int = 0
    tries: int = 0
    is_estimated: bool = False
    first_byte_s: float | None = None
    began: float = 0.0
    is_reported: bool = False
    journal: Journal | None = None
    note_at: float = 0.0
    guessed: int = 0
    """Number of tokens of the input, by the bytes of the request that was passed on."""


class Calls:
    """Performs the calls of all workers."""

    def __init__(self, upstream: Upstream, ask: Ask, report: Report, closed: Closed, keep: Keep) -> None:
        self._upstream = upstream
        self._ask = ask
        self._keep = keep
        self._report = report
        self._closed = closed
        self._journal: Journal | None = None
        self.endpoints: dict[str, Endpoint] = {}
        self._by_model = Counter[str]()
        self._by_unit: dict[str, set[asyncio.Task[Any]]] = {}  # Any: a handler's own result
        self._number = 0
        self._running = 0
        self._bytes = 0

    def begin_journal(self, journal: Journal) -> None:
        """Notes the calls that begin from now on in another file."""
        last, self._journal = self._journal, journal
        if last is not None:
            last.retire()
            self._close(last)

    def _close(self, journal: Journal) -> None:
        if journal.close_if_over():
            self._closed(journal.name)

    def end_unit(self, unit: str) -> None:
        """Ends the calls of a worker that is gone."""
        for task in self._by_unit.get(unit, ()):
            task.cancel()

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request of a worker."""
        name, path = place_of(request.path)
        endpoint = self.endpoints.get(name)
        kind: Kind = "openai" if endpoint is None else endpoint.kind
        if endpoint is None and "x-api-key" in request.headers:
            kind = "anthropic"
        elif endpoint is None and "x-goog-api-key" in request.headers:
            kind = "gemini"
        self._running += 1
        try:
            return await self._serve(request, kind, name, path)
        except Refused as refused:
            return _refusal(kind, refused)
        finally:
            self._running -= 1

    async def _serve(self, request: web.BaseRequest, kind: Kind, name: str, path: str) -> web.StreamResponse:
        if self._running > CALLS:
            raise Refused(503, f"more than {CALLS} calls at a time", retry_after_s=1.0)
        self._number += 1
        call = self._number
        headers = request.headers
        asked = {
            "call": call,
            "key": given_key(headers, request.query),
            "model": name,
            "task": headers.get("x-corral-task", ""),
            "traceparent": headers.get("traceparent", ""),
        }
        decision = await self._ask(asked)
        record = Record(call, name, began=time.monotonic())
        task = asyncio.current_task()
        assert task is not None, "a handler is one"
        tasks = self._by_unit.setdefault(decision.unit, set())
        try:
            tasks.add(task)
            if len(tasks) > UNIT_CALLS:
                raise Refused(429, f"more than {UNIT_CALLS} calls at a time", retry_after_s=1.0)
            if not is_served(kind, request.method, path):
                raise Refused(404, f"{request.method} {path} is not passed on to a {kind} model")
            named = ""
            if isinstance(decision, Unread):
                record.body = await self._body(request)
                target = f"{path}?{without_key(request.query_string)}"
                named = request_name(name, request.method, target, record.body)
                decision = await self._ask({**asked, "request": named})
            if isinstance(decision, Recorded):
                record.is_reported = True  # it was counted when it was made
                return decision.response()
            assert isinstance(decision, Passed), "the request was read"
            if decision.keeps:
                record.answers = Keeping(decision.unit, decision.account.task, named, decision.keeps)
            return await self._pass(request, kind, path, decision, record)
        except Refused as refused:
            record.outcome, record.status = "failed", refused.status
            raise
        finally:
            tasks.discard(task)
            if not tasks:
                self._by_unit.pop(decision.unit, None)
            self._bytes -= len(record.body or b"")
            self._end(record)

    def _end(self, record: Record) -> None:
        """Reports the usage, once: before the last byte of an answer is passed on, as its task may end with that."""
        if record.is_reported:
            return
        record.is_reported = True
        if not record.usage.tokens and (record.outcome == "cancelled" or record.status == 504):
            record.usage, record.is_estimated = Usage(input=record.guessed), record.guessed > 0
        used, journal, noted = record.usage, record.journal, {}
        if journal is not None:  # before the daemon is told: it may be dead when that comes
            position = journal.end(record.call, record.model, used, record.outcome, is_estimated=record.is_estimated)
            noted = {"journal": journal.name, "position": position}
        self._report(
            {
                **noted,
                "call": record.call,
                "model": record.model,
                "input": used.input,
                "cached": used.cached,
                "cache_write": used.cache_write,
                "output": used.output,
                "outcome": record.outcome,
                "status": record.status,
                "tries": record.tries,
                "estimated": record.is_estimated,
                "duration_s": round(time.monotonic() - record.began, 6),
                "first_byte_s": record.first_byte_s,
            }
        )
        if journal is not None:
            self._close(journal)

    async def _pass(
        self, request: web.BaseRequest, kind: Kind, path: str, passed: Passed, record: Record
    ) -> web.StreamResponse:
        endpoints = [self.endpoints[name] for name in passed.models if name in self.endpoints]
        free = [each for each in endpoints if self._by_model[each.name] < each.concurrent]
        if not free:
            raise Refused(
                429,
                f'the model "{record.model}" has its max_concurrent_calls',
                retry_after_s=1.0,
                facts={"limit": "max_concurrent_calls", "model": record.model},
            )
        counted = [each.name for each in free]
        self._by_model.update(counted[:1])
        try:
            if record.body is None:
                record.body = await self._body(request)
            body = record.body
            query = without_key(request.query_string) if kind == "gemini" else request.query_string
            question = Question(request.method, path, query, request.headers, body)
            record.guessed = len(body) // CHARS_PER_TOKEN
            if self._journal is not None:
                record.journal = self._journal
                self._journal.begin(record.call, free[0].name, record.guessed, passed.account)
            answer = await self._upstream.ask(question, free)
            record.model, record.tries = answer.endpoint.name, answer.tries
            record.status = answer.response.status
            try:
                return await self._answer(request, kind, answer, len(body), record)
            finally:
                answer.response.close()
        finally:
            self._by_model.subtract(counted[:1])

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Reads a request; its bytes count until the call has ended."""
        body = bytearray()
        try:
            async for part in _parts(request):
                if len(body) + len(part) > REQUEST_BYTES:
                    raise Refused(413, f"the request has more than {REQUEST_BYTES} bytes")
                if self._bytes + len(part) > REQUESTS_BYTES:
                    raise Refused(503, "too many large requests at a time", retry_after_s=1.0)
                body += part
                self._bytes += len(part)
        except BaseException:
            self._bytes -= len(body)
            raise
        return bytes(body)

    async def _keep_answer(self, record: Record, headers: Mapping[str, str]) -> None:
        """Has the answer of a call that has succeeded kept, where that is wanted, before its last byte is passed on."""
        if record.answers is not None and record.outcome == "ok":
            await self._keep(record.call, record.answers.message(record.status, headers))

    async def _answer(
        self, request: web.BaseRequest, kind: Kind, answer: Answer, size: int, record: Record
    ) -> web.StreamResponse:
        response = answer.response
        headers = {name: value for name, value in response.headers.items() if KEPT_ANSWER.fullmatch(name.lower())}
        headers["X-Corral-Model"] = answer.endpoint.name
        if response.content_type == "text/event-stream" and response.status == 200:
            return await self._stream(request, kind, answer, headers, size, record)
        path = place_of(request.path).path if request.method == "POST" else ""
        body = await _whole(answer)
        record.first_byte_s = round(time.monotonic() - record.began, 6)
        record.outcome = "ok" if response.status < 400 else "failed"
        if response.status in (401, 403):
            reason = f'the provider of the model "{answer.endpoint.name}" refuses its key'
            raise Refused(response.status, reason, facts={"model": answer.endpoint.name})
        if 300 <= response.status < 400:
            raise Refused(502, f'the provider of "{answer.endpoint.name}" redirects elsewhere')
        if response.status < 400:
            record.usage, record.is_estimated = usage_in(kind, path, body, record.guessed)
        elif answer.endpoint.key:  # some repeat the key that they refuse
            body = body.replace(answer.endpoint.key.encode(), b"***")
        self._end(record)
        if record.answers is not None:
            record.answers.add(body)
            await self._keep_answer(record, headers)
        return web.Response(status=response.status, body=body, headers=headers)

    async def _stream(
        self,
        request: web.BaseRequest,
        kind: Kind,
        answer: Answer,
        headers: Mapping[str, str],
        size: int,
        record: Record,
    ) -> web.StreamResponse:
        """Passes on an answer that streams; whatever ends it, its usage is noted. What is to be kept is kept before its last part is passed on."""
        keeping, held = record.answers, b""
        reader = StreamReader(kind, hides_usage=answer.edited.hides_usage)
        sending = web.StreamResponse(status=200, headers=headers)
        record.outcome = "cancelled"
        try:
            await sending.prepare(request)
            try:
                async for data in answer.response.content.iter_any():
                    if record.first_byte_s is None:
                        record.first_byte_s = round(time.monotonic() - record.began, 6)
                    passed = reader.feed(data)
                    if reader.is_over:
                        self._note_end(record, reader, size)
                    elif record.journal is not None and (now := time.monotonic()) > record.note_at:
                        record.note_at = now + max(NOTE_S, NOTE_SHARE * (now - record.began))
                        record.journal.note(record.call, record.model, reader.usage(size)[0])
                    if keeping is not None:
                        keeping.add(passed)
                        passed, held = (b"", held + passed) if reader.is_over else (passed, held)
                    await _write(sending, passed)
                passed = reader.end()
                self._note_end(record, reader, size)
                if keeping is not None:
                    keeping.add(passed)
                    await self._keep_answer(record, headers)
                await _write(sending, held + passed)
            except (aiohttp.ClientError, TimeoutError) as error:
                record.outcome = "cut"
                why = "it is silent" if isinstance(error, TimeoutError) else "it has hung up"
                refused = Refused(502, f'the model "{answer.endpoint.name}" has not ended its answer: {why}')
                await _write(sending, held + error_event(kind, refused))
            await sending.write_eof()
        except (ConnectionError, web.HTTPException):
            record.outcome = "cancelled"  # the worker has hung up
        finally:
            record.usage, record.is_estimated = reader.usage(size)
        return sending

    def _note_end(self, record: Record, reader: StreamReader, size: int) -> None:
        record.usage, record.is_estimated = reader.usage(size)
        record.outcome = "ok"
        self._end(record)


async def _write(sending: web.StreamResponse, data: bytes) -> None:
    if data:
        try:
            async with asyncio.timeout(WRITE_S):
                await sending.write(data)
        except TimeoutError:
            raise ConnectionResetError("it does not read") from None


async def _parts(request: web.BaseRequest) -> Any:  # Any: an async iterator of bytes
    content = request.content
    while not content.at_eof():
        try:
            if content.is_eof():  # the rest is here
                part = content.read_nowait()
            else:
                async with asyncio.timeout(BODY_S):
                    part = await content.readany()
        except TimeoutError:
            raise Refused(408, f"no part of the request within {BODY_S:g} s") from None
        if not part:
            return
        yield part


async def _whole(answer: Answer) -> bytes:
    """Returns the body of an answer that does not stream."""
    body, name = bytearray(), answer.endpoint.name
    try:
        async for part in answer.response.content.iter_any():
            body += part
            if len(body) > ANSWER_BYTES:
                raise Refused(502, f'the answer of "{name}" has more than {ANSWER_BYTES} bytes')
    except TimeoutError:
        raise Refused(504, f'the model "{name}" has not ended its answer: it is silent') from None
    except aiohttp.ClientError:
        raise Refused(502, f'the model "{name}" has not ended its answer: it has hung up') from None
    return bytes(body)


def _refusal(kind: Kind, refused: Refused) -> web.Response:
    headers = {"Content-Type": "application/json"}
    wait_s = refused.retry_after_s
    if wait_s is not None:
        headers["Retry-After"] = str(max(1, -int(-wait_s // 1)))
    is_final = refused.status in (401, 404, 413) or (refused.status == 429 and wait_s is None)
    if is_final or (wait_s is not None and wait_s > LONG_WAIT_S):
        headers["X-Should-Retry"] = "false"
    return web.Response(status=refused.status, body=error_body(kind, refused), headers=headers)
