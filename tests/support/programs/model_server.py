"""A provider of models on loopback, in three shapes of API, that counts for itself what it has served.

The name of the model that a request asks for scripts the answer: words joined by "+".
  w12          twelve words of output, each a token       in40, cached8, write3   tokens of the input that it reports
  fail2x503    the next two requests with this name get 503     always500          every one does
  cut3         the stream ends after three words, without a usage     hang     it never answers      slow     a word each 20 ms
  gate         waits in the middle of a stream until POST /open      nousage   never tells a usage
  old        400 for a stream whose usage is asked for
  busy30       429 with Retry-After: 30     garbage    an answer that is no JSON

GET /counts returns what was served; POST /open opens the gate; GET /seen returns the headers and bodies of requests.
The address is printed as one line.
"""

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

KEY = sys.argv[1] if len(sys.argv) > 1 else ""


class Script:
    """What the name of a model asks for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts = name.split("+")

    def number(self, word: str, default: int = 0) -> int:
        for part in self.parts:
            if found := re.fullmatch(rf"{word}([0-9]+)", part):
                return int(found[1])
        return default

    def has(self, word: str) -> bool:
        return word in self.parts


class Server:
    """Serves, and counts."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.failures = Counter[str]()
        self.seen: list[dict[str, Any]] = []
        self.gate = asyncio.Event()

    def usage(self, script: Script, words: int) -> dict[str, int]:
        """Counts a call that was answered, and returns its usage by part."""
        found = {
            "input": script.number("in", 7),
            "cached": script.number("cached"),
            "write": script.number("write"),
            "output": words,
        }
        self.counts.update(found)
        self.counts["ended"] += 1
        return found

    async def failed(self, request: web.Request, script: Script) -> web.Response | None:
        """Returns the scripted failure."""
        self.counts["requests"] += 1
        if script.has("hang"):
            try:
                await asyncio.Event().wait()
            finally:
                self.counts["hung_up"] += 1
        if script.has("garbage"):
            return web.Response(text="<html>no JSON", content_type="application/json")
        if wait := script.number("busy"):
            headers = {"Retry-After": str(wait)}
            return web.json_response({"error": {"message": "busy", "type": "r"}}, status=429, headers=headers)
        for part in script.parts:
            if found := re.fullmatch(r"fail([0-9]+)x([0-9]{3})", part):
                self.failures[script.name] += 1
                if self.failures[script.name] <= int(found[1]):
                    return self.error(request, int(found[2]))
                self.failures[script.name] = 0
            if found := re.fullmatch(r"always([0-9]{3})", part):
                return self.error(request, int(found[1]))
        return None

    def error(self, request: web.Request, status: int) -> web.Response:
        self.counts["failed"] += 1
        error: dict[str, Any] = {"message": f"scripted {status} {KEY}", "type": "scripted", "param": None, "code": None}
        if request.path.endswith("messages"):
            error = {"type": "error", "error": error}
            return web.json_response(error, status=status)
        return web.json_response({"error": error}, status=status)

    async def stream(self, request: web.Request, script: Script, chunks: AsyncIterator[Any]) -> web.StreamResponse:
        """Sends events; a chunk that is None cuts the connection."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = 0
        try:
            async for event, chunk in chunks:
                if chunk is None:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                text = chunk if isinstance(chunk, str) else json.dumps(chunk)
                named = f"event: {event}\n" if event else ""
                await response.write(f"{named}data: {text}\n\n".encode())
                sent += 1
                if script.has("slow"):
                    await asyncio.sleep(0.02)
                if script.has("gate") and sent == 3:
                    await self.gate.wait()
        except (ConnectionError, asyncio.CancelledError):
            self.counts["hung_up"] += 1
            raise
        await response.write_eof()
        return response

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.note(request, body)
        script = Script(body["model"])
        if (failure := await self.failed(request, script)) is not None:
            return failure
        words = script.number("w", 3)
        if not body.get("stream"):
            used = _openai_usage(self.usage(script, words))
            text = " ".join(["word"] * words)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            head = {"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"]}
            told = {} if script.has("nousage") else {"usage": used}
            return web.json_response({**head, "choices": [choice], **told})
        options: Any = body.get("stream_options") or {}
        if script.has("old") and options:
            return self.error(request, 400)
        asks = options.get("include_usage") is True
        return await self.stream(request, script, self.chat_chunks(script, body["model"], words, asks))

    async def chat_chunks(self, script: Script, model: str, words: int, asks: bool) -> AsyncIterator[Any]:
        head: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model}
        if asks:
            head["usage"] = None
        cut = script.number("cut", words + 1)
        for number in range(words):
            if number == cut:
                self.counts["cut"] += 1
                yield "", None
            delta = {"content": "word "} if number else {"role": "assistant", "content": "word "}
            self.counts["streamed"] += 1
            yield "", {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        used = _openai_usage(self.usage(script, words))
        yield "", {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        if asks and not script.has("nousage"):
            yield "", {**head, "choices": [], "usage": used}
        yield "", "[DONE]"

    async def responses(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.note(request, body)
        script = Script(body["model"])
        if (failure := await self.failed(request, script)) is not None:
            return failure
        words = script.number("w", 3)
        used = self.usage(script, words)
        usage = {
            "input_tokens": used["input"] + used["cached"],
            "input_tokens_details": {"cached_tokens": used["cached"]},
            "output_tokens": words,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used["input"] + used["cached"] + words,
        }
        content: Any = [{"type": "output_text", "text": "word", "annotations": []}]
        item: Any = {"type": "message", "id": "m1", "status": "completed", "role": "assistant", "content": content}
        answer: dict[str, Any] = {
            **{"id": "r1", "object": "response", "created_at": 1, "model": body["model"]},
            **{"status": "completed", "output": [item], "usage": usage, "parallel_tool_calls": False},
            **{"tool_choice": "auto", "tools": [], "error": None, "incomplete_details": None},
            **{"instructions": None, "metadata": {}, "temperature": 1.0, "top_p": 1.0},
        }
        if not body.get("stream"):
            return web.json_response(answer)

        async def chunks() -> AsyncIterator[Any]:
            begun: Any = {**answer, "status": "in_progress", "output": [], "usage": None}
            yield ("response.created", {"type": "response.created", "sequence_number": 0, "response": begun})
            for number in range(words):
                event = "response.output_text.delta"
                where: Any = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
                yield (event, {"type": event, "sequence_number": number + 1, **where, "delta": "word"})
            yield (
                "response.completed",
                {"type": "response.completed", "sequence_number": words + 1, "response": answer},
            )

        return await self.stream(request, script, chunks())

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.note(request, body)
        used = self.usage(Script(body["model"]), 0)["input"]
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": used, "total_tokens": used}
        return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def models(self, request: web.Request) -> web.Response:
        self.note(request, {})
        return web.json_response(
            {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]}
        )

    async def count_tokens(self, request: web.Request) -> web.Response:
        self.note(request, await request.json())
        return web.json_response({"input_tokens": 11})

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.note(request, body)
        script = Script(body["model"])
        if (failure := await self.failed(request, script)) is not None:
            return failure
        words = script.number("w", 3)
        message: dict[str, Any] = {
            **{"id": "m1", "type": "message", "role": "assistant", "model": body["model"]},
            **{"stop_reason": "end_turn", "stop_sequence": None},
        }
        if not body.get("stream"):
            usage = _anthropic_usage(self.usage(script, words))
            text = " ".join(["word"] * words)
            return web.json_response({**message, "content": [{"type": "text", "text": text}], "usage": usage})
        return await self.stream(request, script, self.message_chunks(script, message, words))

    async def message_chunks(self, script: Script, message: dict[str, Any], words: int) -> AsyncIterator[Any]:
        parts = {"input": script.number("in", 7), "cached": script.number("cached"), "write": script.number("write")}
        begun: Any = {**message, "content": [], "stop_reason": None, "usage": _anthropic_usage({**parts, "output": 1})}
        yield "message_start", {"type": "message_start", "message": begun}
        block = {"type": "text", "text": ""}
        yield ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": block})
        cut = script.number("cut", words + 1)
        for number in range(words):
            if number == cut:
                self.counts["cut"] += 1
                yield "", None
            delta = {"type": "text_delta", "text": "word "}
            self.counts["streamed"] += 1
            yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": 0}
        used = self.usage(script, words)
        ended = {"stop_reason": "end_turn", "stop_sequence": None}
        usage = {"output_tokens": used["output"]}
        yield "message_delta", {"type": "message_delta", "delta": ended, "usage": usage}
        yield "message_stop", {"type": "message_stop"}

    async def gemini(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.note(request, body)
        script = Script(request.match_info["model"])
        verb = request.match_info["verb"]
        if verb == "countTokens":
            return web.json_response({"totalTokens": 11})
        if (failure := await self.failed(request, script)) is not None:
            return failure
        words = script.number("w", 3)
        if verb == "generateContent":
            return web.json_response(self.gemini_part(script, words, "word " * words, is_last=True))

        if request.query.get("alt") != "sse":
            parts = [self.gemini_part(script, words, "word " * words, is_last=True)]
            return web.json_response(parts)

        async def chunks() -> AsyncIterator[Any]:
            for number in range(words):
                if number == script.number("cut", words + 1):
                    yield "", None
                self.counts["streamed"] += 1
                is_last = number == words - 1
                yield "", self.gemini_part(script, number + 1, "word ", is_last=is_last)

        return await self.stream(request, script, chunks())

    def gemini_part(self, script: Script, words: int, text: str, *, is_last: bool) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}}
        asked = script.number("in", 7) + script.number("cached")
        usage = {"promptTokenCount": asked, "candidatesTokenCount": words}
        if is_last:
            self.usage(script, words)
            candidate["finishReason"] = "STOP"
            usage["cachedContentTokenCount"] = script.number("cached")
        told = {} if script.has("nousage") else {"usageMetadata": usage}
        return {"candidates": [candidate], **told}

    def note(self, request: web.Request, body: dict[str, Any]) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append({"path": request.path_qs, "headers": headers, "body": body})
        del self.seen[:-50]

    async def tell_counts(self, _request: web.Request) -> web.Response:
        return web.json_response(dict(self.counts))

    async def tell_seen(self, _request: web.Request) -> web.Response:
        return web.json_response(self.seen)

    async def open(self, _request: web.Request) -> web.Response:
        self.gate.set()
        return web.json_response({})


def _openai_usage(used: dict[str, int]) -> dict[str, Any]:
    asked = used["input"] + used["cached"]
    return {
        "prompt_tokens": asked,
        "completion_tokens": used["output"],
        "total_tokens": asked + used["output"],
        "prompt_tokens_details": {"cached_tokens": used["cached"]},
    }


def _anthropic_usage(used: dict[str, int]) -> dict[str, int]:
    return {
        "input_tokens": used["input"],
        "cache_read_input_tokens": used["cached"],
        "cache_creation_input_tokens": used["write"],
        "output_tokens": used["output"],
    }


async def main() -> None:
    server = Server()
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/chat/completions", server.chat),
            web.post("/v1/responses", server.responses),
            web.post("/v1/embeddings", server.embeddings),
            web.get("/v1/models", server.models),
            web.post("/v1/messages", server.messages),
            web.post("/v1/messages/count_tokens", server.count_tokens),
            web.post("/v1beta/models/{model}:{verb}", server.gemini),
            web.get("/counts", server.tell_counts),
            web.get("/seen", server.tell_seen),
            web.post("/open", server.open),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the test ends
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
