"""Runs one task of an adapted object without a daemon, and records what its handler sends."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from corral.adapters import wrap
from corral.worker import Agent, SyncTask, Task
from corral.worker.contract import codec
from corral.worker.sdk.generators import handler_of
from corral.worker.sdk.session import Memory
from corral.worker.sdk.task import Start
from corral.worker.sdk.threads import ThreadBridge, is_async, run_in_thread

T = TypeVar("T")

STORE: dict[str, object] = {
    "name": "notes__store",
    "description": "Stores a note.",
    "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
"""The one tool of the pool, as `tools/list` describes it."""


class Run(NamedTuple):
    """What a run gave, and what it sent."""

    output: Any
    history: list[dict[str, Any]]
    calls: list[Any]
    tokens: int
    parts: list[Any]
    questions: list[Any]


class Recorder:
    """Answers the calls of a task in place of the daemon, and keeps them."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers = answers
        self.called: list[Any] = []
        self.parts: list[Any] = []
        self.questions: list[Any] = []
        self.tokens = 0
        self.tool_began = asyncio.Event()
        self.tool_goes_on = asyncio.Event()
        self.tool_goes_on.set()

    async def request(self, method: str, params: Mapping[str, Any], /) -> object:
        if method == "tools/list":
            return {"tools": [STORE]}
        if method == "task/ask":
            self.questions.append(params["question"])
            return {"id": 1, "state": "answered", "answer": self.answers[params["question"]]}
        assert method == "tools/call", method
        self.called.append((params["name"], params["arguments"]))
        self.tool_began.set()
        await self.tool_goes_on.wait()
        return {"content": [{"type": "text", "text": f"number {len(self.called)}"}]}

    def notify(self, method: str, params: Mapping[str, Any], /) -> None:
        assert method == "usage", method
        self.tokens += params["tokens"]

    async def drain(self) -> None:
        pass

    async def stream(self, task: str, part: object, /) -> None:
        self.parts.append(part)

    def start(self, coroutine: Coroutine[Any, Any, T], what: str, /) -> Awaitable[T]:
        raise AssertionError(what)


async def _run(found: object, recorder: Recorder, request: dict[str, Any], config: Any) -> Run:
    agent = found if isinstance(found, Agent) else wrap(found)
    start = Start("adapted", "adapted-0", 1, 5.0, {}, config, None)
    memory = Memory(request.get("memory") or {}, codec.encode)
    task = agent._hooks.task  # pyright: ignore[reportPrivateUsage]  no other way to it
    handler = handler_of(cast("Callable[[Any], object]", task))
    if is_async(handler):
        output = await cast("Any", handler)(Task(start, request, recorder, memory))
    else:
        bridge = ThreadBridge(asyncio.get_running_loop())
        blocking = SyncTask(start, request, recorder, memory, bridge)
        output = await run_in_thread(partial(handler, blocking), bridge.cancel)
    output = codec.decode(codec.encode(output))
    history: Any = codec.decode(codec.encode(memory.history))
    return Run(output, history, recorder.called, recorder.tokens, recorder.parts, recorder.questions)


def run(
    found: object,
    objective: str = "",
    input: object = None,  # noqa: A002  the task's name for it
    *,
    history: list[dict[str, Any]] | None = None,
    config: Mapping[str, object] | None = None,
    answers: Mapping[str, str] | None = None,
) -> Run:
    """Runs a task of a session in a loop of its own."""
    memory = {"session": "ada", "history": history or []}
    request = {"task": "1", "objective": objective, "input": input, "memory": memory}
    return asyncio.run(_with_recorder(found, request, config or {}, answers or {}))


async def _with_recorder(found: object, request: Any, config: Any, answers: Any) -> Run:
    return await _run(found, Recorder(answers), request, config)


def cancelled_in_a_tool(found: object, objective: str) -> int:
    """Cancels a run in the middle of a tool call; returns the number of tasks and threads that are left of it."""

    async def cancel() -> int:
        recorder = Recorder({})
        recorder.tool_goes_on.clear()
        request = {"task": "1", "objective": objective}
        running = asyncio.create_task(_run(found, recorder, request, {}))
        await recorder.tool_began.wait()
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        recorder.tool_goes_on.set()
        for _ in range(20):  # what ends with it has a few turns of the loop to do so
            await asyncio.sleep(0)
        threads = [each for each in threading.enumerate() if each.name == "corral-handler"]
        return len(asyncio.all_tasks()) - 1 + len(threads)

    return asyncio.run(cancel())
