"""An provider that a test holds in its hands: what it answers, what it was asked, and whom it tells."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from corral.mcp.protocol.catalog import Kind
from corral.mcp.protocol.messages import Caller, Progress
from corral.worker.contract.errors import CorralError, NotFound, ToolFailed

REGIONAL: dict[str, object] = {
    "name": "regional",
    "inputSchema": {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "place": {"type": "object", "properties": {"zone": {"type": "integer", "x-mcp-header": "Zone"}}},
        },
    },
}


class FakeProvider:
    """Answers calls of its tools, by name."""

    instructions = "Be brief."
    tasks = None

    def __init__(self) -> None:
        self.lists: dict[Kind, list[dict[str, object]]] = {
            "tools": [{"name": "echo", "inputSchema": {"type": "object"}}, REGIONAL],
            "prompts": [{"name": "greet"}],
            "resources": [{"uri": "test://a", "name": "a"}],
            "resourceTemplates": [{"uriTemplate": "test://{x}", "name": "x"}],
        }
        self.asked: list[tuple[str, dict[str, object], Caller]] = []
        self.errors: dict[str, Exception] = {}
        self.changed: list[Callable[[Kind], None]] = []
        self.updated: dict[str, list[Callable[[str], None]]] = {}
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.reasons: tuple[object, ...] = ()
        """With which the last call was cancelled: none where the client is only gone."""

    def tool(self, name: str) -> Mapping[str, object] | None:
        return next((tool for tool in self.lists["tools"] if tool["name"] == name), None)

    async def listed(self, kind: Kind) -> list[dict[str, object]]:
        return list(self.lists[kind])

    async def request(self, method: str, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
        self.asked.append((method, dict(params), caller))
        name = str(params.get("name") or params.get("uri") or method)
        if name in self.errors:
            raise self.errors[name]
        match name:
            case "echo" | "regional":
                return {"content": [{"type": "text", "text": str(params.get("arguments"))}]}
            case "progress":
                return await self._progress(caller)
            case "chat":
                return await self._chat(caller)
            case "wait":
                return await self._wait()
            case "ask":
                assert caller.ask is not None
                try:
                    said = await caller.ask("elicitation/create", {"message": "why?"})
                except CorralError as error:
                    return {"content": [], "isError": True, "why": error.message}
                return {"content": [{"type": "text", "text": str(said)}]}
            case "more":
                return self._more(params)
            case _:
                return {"said": name}

    async def _progress(self, caller: Caller) -> dict[str, object]:
        if caller.on_progress is not None:
            caller.on_progress(Progress(1, 2, "half"))
        self.begun.set()
        await self.go_on.wait()
        if caller.on_progress is not None:
            caller.on_progress(Progress(2, 2))
        return {"content": []}

    async def _chat(self, caller: Caller) -> dict[str, object]:
        if caller.on_message is not None:
            for level in ("debug", "info", "error"):
                caller.on_message({"level": level, "data": "x"})
        return {"content": []}

    async def _wait(self) -> dict[str, object]:
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError as withdrawn:
            self.reasons = withdrawn.args
            self.cancelled.set()
            raise
        return {"content": []}

    def _more(self, params: Mapping[str, object]) -> dict[str, object]:
        """Asks twice, as a modern server does, and says then what it was answered."""
        state = str(params.get("requestState", ""))
        answers: Any = params.get("inputResponses", {})
        if state.count("x") < 2:
            asked = {"method": "elicitation/create", "params": {"message": state}}
            heard = "".join(str(answer) for answer in answers.values())
            return {
                "resultType": "input_required",
                "inputRequests": {f"q{state}": asked},
                "requestState": f"{state}x{heard}",
            }
        return {"resultType": "complete", "content": [{"type": "text", "text": state}], "ttlMs": 1}

    async def subscribe(self, uri: str, on_updated: Callable[[str], None]) -> Callable[[], None]:
        if uri == "test://none":
            raise NotFound(f'cannot find resource "{uri}"')
        if uri == "test://mute":
            raise ToolFailed(f'cannot subscribe to "{uri}"')
        if uri == "test://slow":
            self.begun.set()
            await self.go_on.wait()
        callbacks = self.updated.setdefault(uri, [])
        callbacks.append(on_updated)
        return lambda: callbacks.remove(on_updated)

    def tell_updated(self, uri: str) -> None:
        for callback in list(self.updated[uri]):
            callback(uri)

    def watch(self, on_change: Callable[[Kind], None]) -> Callable[[], None]:
        self.changed.append(on_change)
        return lambda: self.changed.remove(on_change)

    def change(self, *kinds: Kind) -> None:
        for callback in list(self.changed):
            for kind in kinds:
                callback(kind)
