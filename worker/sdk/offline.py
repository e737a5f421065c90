"""Runs an agent's handler once in the calling program, without a daemon: for tests of the agent's own code.

Tools and other agents are what the caller gives; stored values are kept in a dict for the time of the run. Nothing is
limited, counted or supervised: `corral try` runs an agent under a real daemon.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from ..contract import codec
from ..contract.errors import InvalidParams, NotFound
from ..contract.parts import size_of
from .generators import handler_of
from .results import Json
from .session import Memory
from .signatures import fault_of
from .task import Hooks, Running, Start, SyncTask, Task
from .threads import ThreadBridge, is_async, run_in_thread

T = TypeVar("T")

Answers = Mapping[str, object]
"""By the name of a tool or an agent: the result, or a function that takes the arguments or the task and returns it."""


def run(hooks: Hooks, request: dict[str, Json], config: Json, calls: "Given") -> Json:
    """Returns the output of the handler as a caller would get it, in a loop and a thread of its own.

    `calls` answers in place of the daemon.

    Raises:
        InvalidParams: the agent has no handler, or a hook takes other arguments.
        ValueError: JSON cannot express the output.
        BaseException: any exception of the handler or a hook.
    """
    fault = fault_of(hooks)
    if fault is not None or hooks.task is None:
        raise InvalidParams(f"cannot test the agent: {fault or 'it has no @agent.task'}")
    found: list[Json] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(asyncio.run(_run(hooks, request, config, calls)))
        except BaseException as error:  # raised again for the caller, below
            failed.append(error)

    thread = threading.Thread(target=work, name="corral-test")  # the caller may be on a loop itself
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


async def _run(hooks: Hooks, request: dict[str, Json], config: Json, calls: "Given") -> Json:
    name = hooks.name or "agent"
    start = Start(name, f"{name}-0", 1, 3600.0, {}, config or {}, None)
    bridge = ThreadBridge(asyncio.get_running_loop())
    hooks.bind(Running(calls, bridge))
    if hooks.on_start is not None:
        await _call(hooks.on_start, start)
    try:
        memory = Memory(request.pop("memory", None) or {}, codec.encode)
        assert hooks.task is not None, "the caller has checked it"
        handler = handler_of(hooks.task)
        if is_async(handler):
            calls.task = Task(start, request, calls, memory)
            output = await cast("Awaitable[object]", handler(calls.task))
        else:
            calls.task = SyncTask(start, request, calls, memory, bridge)
            output = await run_in_thread(partial(handler, calls.task), bridge.cancel)
        return codec.decode(codec.encode_exactly(output))
    finally:
        if hooks.on_shutdown is not None:
            await _call(hooks.on_shutdown)


async def _call(hook: Callable[..., object], *args: object) -> object:
    if is_async(hook):
        return await cast("Awaitable[object]", hook(*args))
    return await run_in_thread(partial(hook, *args), lambda _: None)


class Given:
    """Answers the calls of a task in place of the daemon, by what the caller has given."""

    def __init__(self, tools: Answers, agents: Answers, answers: Answers) -> None:
        self._answers = answers
        self._tools = tools
        self._agents = agents
        self._stored: dict[str, Json] = {}
        self._last: dict[str, object] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self.task: Task | SyncTask | None = None
        """The task of the handler that has begun."""

    async def request(self, method: str, params: Mapping[str, Any], /) -> object:
        """Returns the answer to a request."""
        if method == "tools/list":
            facts = {"description": "", "input_schema": {"type": "object", "properties": {}}, "annotations": {}}
            return {"tools": [{"name": name, **facts} for name in self._tools]}
        if method == "tools/call":
            name = params["name"]
            found = await self._answer("tool", name, self._tools, params.get("arguments") or {})
            text = found if isinstance(found, str) else codec.encode(found).decode()
            return {"content": [{"type": "text", "text": text}], "structuredContent": found}
        if method == "task/delegate":
            self._last = await self._delegated(params)
            return self._last
        if method == "task/parts":  # it has ended by now
            return {"parts": [], "record": self._last}
        if method == "task/delegate_all":
            return {"results": [await self._delegated(each) for each in params["tasks"]]}
        if method == "task/ask":
            return await self._answered(params)
        key = params.get("key")
        if method == "memory/put":
            self._stored[str(key)] = params.get("value")
        elif method == "memory/get":
            return {"value": self._stored.get(str(key))}
        elif method == "memory/delete":
            self._stored.pop(str(key), None)
        elif method == "memory/search":
            items = [{"key": k, "value": v} for k, v in self._stored.items()]
            return {"items": [each for each in items if params["query"] in str(each)]}
        return {"id": 1, "seq": 1}

    async def _answered(self, params: Mapping[str, Any]) -> dict[str, object]:
        found = await self._answer("answer", str(params["question"]), self._answers, params)
        return {"id": 1, "state": "answered", "answer": found}

    async def _delegated(self, task: Mapping[str, Any]) -> dict[str, object]:
        output = await self._answer("agent", str(task.get("agent")), self._agents, task)
        return {"id": "test", "agent": task.get("agent"), "state": "succeeded", "output": output}

    async def _answer(self, kind: str, name: str, known: Answers, given: object) -> object:
        if name not in known:
            raise NotFound(f'cannot find {kind} "{name}": give the test {kind}s={{"{name}": RESULT}}', name=name)
        found = known[name]
        if callable(found):
            found = cast("Callable[[object], object]", found)(given)
        return await cast("Awaitable[object]", found) if isinstance(found, Awaitable) else found

    def notify(self, method: str, params: Mapping[str, object], /) -> None:
        """Drops a notification: progress, a beat, usage."""

    async def drain(self) -> None:
        """Returns at once."""

    async def stream(self, task: str, part: object, /) -> None:
        """Checks a part, and drops it."""
        size_of(part)

    def start(self, coroutine: Coroutine[Any, Any, T], what: str, /) -> Awaitable[T]:
        """Runs a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(coroutine, name=what)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
