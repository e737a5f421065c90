"""An agent of A2A, by the official SDK: it does what the text of a message says, and asks for the key in its first argument.

`--no-streams` has its card say that it does not stream, `--rest` that it speaks HTTP with JSON alone, `--at URL` that it is there. The
address is printed as one line; stdin ends it. GET /seen returns the bodies of requests and the paths; `wait` ends when it is cancelled,
`gate` when GET /go comes.
"""

import asyncio
import importlib
import json
import socket
import sys
from typing import Any

import uvicorn
from a2a.helpers import new_task_from_user_message, new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCard, Part
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ParseDict: Any = importlib.import_module("google.protobuf.json_format").ParseDict  # it has no types
KEY = sys.argv[1]
seen: list[Any] = []
notes: list[str] = []
paths: list[str] = []
gate = asyncio.Event()


def text(words: str) -> Part:
    return Part(text=words)


class Executor(AgentExecutor):
    """Does what a message says."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        words = context.get_user_input()
        if words == "hello":
            await event_queue.enqueue_event(new_text_message("hello yourself"))
            return
        task = context.current_task
        if task is None:
            task = new_task_from_user_message(context.message)
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work(updater.new_agent_message([text("it works")]))
        match words.partition(" ")[0]:
            case "fail":
                await updater.failed(updater.new_agent_message([text("no luck")]))
            case "reject":
                await updater.reject(updater.new_agent_message([text("not for me")]))
            case "ask":
                await updater.requires_input(updater.new_agent_message([text("which colour?")]))
            case "login":
                await updater.requires_auth()
            case "wait":
                await asyncio.Event().wait()
            case "gate":
                await updater.add_artifact([text("the ")], artifact_id="a", last_chunk=False)
                await gate.wait()
                await updater.add_artifact([text("sea")], artifact_id="a", append=True, last_chunk=True)
                await updater.complete()
            case "words":
                for number, word in enumerate(("the ", "sea")):
                    await updater.add_artifact([text(word)], artifact_id="a", append=number > 0, last_chunk=number == 1)
                await updater.complete()
            case "two":
                await updater.add_artifact([text("one")], artifact_id="a")
                await updater.add_artifact([ParseDict({"data": {"n": 2}}, Part())], artifact_id="b")
                await updater.complete()
            case _:
                data = [each.data for each in context.message.parts if each.HasField("data")]
                known = f"{words} {len(data)} {context.context_id}"
                await updater.add_artifact([text(known)], artifact_id="a")
                await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        notes.append("cancelled")
        updater = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
        await updater.cancel()


async def guard(request: Request, call_next: Any) -> Response:
    """Wants the key, but for the way into this program."""
    if request.url.path == "/go":
        gate.set()
        return JSONResponse({})
    if request.url.path == "/seen":
        return JSONResponse({"seen": seen, "notes": notes, "paths": paths})
    if request.headers.get("x-api-key") != KEY:
        return JSONResponse({"error": f"wrong key {request.headers.get('x-api-key')}"}, 401)
    paths.append(request.url.path)
    if request.method == "POST" and await request.body():
        seen.append(json.loads(await request.body()))
    return await call_next(request)  # type: ignore[no-any-return]  # of starlette


async def main() -> None:
    port = int(sys.argv[sys.argv.index("--port") + 1]) if "--port" in sys.argv else 0
    sock = socket.create_server(("127.0.0.1", port))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    there = sys.argv[sys.argv.index("--at") + 1] if "--at" in sys.argv else url
    binding, path = ("HTTP+JSON", "rest") if "--rest" in sys.argv else ("JSONRPC", "rpc")
    card = {
        **{"name": "colours", "description": "Knows colours.", "version": "1"},
        "supportedInterfaces": [{"url": f"{there}/{path}", "protocolBinding": binding, "protocolVersion": "1.0"}],
        "capabilities": {"streaming": "--no-streams" not in sys.argv},
        **{"defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"]},
        "skills": [{"id": "c", "name": "c", "description": "c", "tags": ["c"]}],
    }
    parsed = ParseDict(card, AgentCard())
    handler = DefaultRequestHandler(agent_executor=Executor(), task_store=InMemoryTaskStore(), agent_card=parsed)

    async def unused(_request: Request) -> Response:
        return Response()

    routes = [
        *create_agent_card_routes(parsed),
        *create_jsonrpc_routes(handler, "/rpc"),
        Route("/seen", unused),
        Route("/go", unused),
        *create_rest_routes(handler, path_prefix="/rest"),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(BaseHTTPMiddleware, dispatch=guard)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    print(url, flush=True)
    serving = asyncio.ensure_future(server.serve([sock]))
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = server.force_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main())
