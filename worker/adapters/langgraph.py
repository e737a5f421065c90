"""Runs a graph of LangGraph: its state from objective and input, the session as messages, usage of all models as tokens.

A compiled graph holds its tools already: a function that takes `tools` and returns a graph gets those of the pool (see
`function`). Where the graph has no checkpointer of its own it gets one for the time of the task, so that `interrupt` works:
it asks a person, and the graph goes on with the answer.
"""

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    convert_to_messages,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver  # pyright: ignore[reportMissingTypeStubs]  it has none
from langgraph.graph import StateGraph  # pyright: ignore[reportMissingTypeStubs]  it has none
from langgraph.types import Command, Interrupt  # pyright: ignore[reportMissingTypeStubs]  it has none

from ..contract.errors import InvalidParams
from ..sdk.results import Json
from ..sdk.task import Task
from .exchange import Entry, PoolTool, ToolsOf, as_json, earlier, is_streamed, prompt_of, remember, stream_text

FRAMEWORK = "langgraph"

ROLES = {"human": "user", "ai": "assistant"}
"""Roles of a session by LangChain's type of a message; others are the same."""


def native_tool(tool: PoolTool) -> StructuredTool:
    """Returns a tool of the pool as one of LangChain."""

    async def call(**arguments: Json) -> str:
        return await tool.call(arguments)

    return StructuredTool.from_function(
        coroutine=call, name=tool.name, description=tool.description, args_schema=tool.schema
    )


def handler_of(found: Any, options: Mapping[str, Json], _: ToolsOf) -> Callable[[Task], Awaitable[object]]:
    """Returns the handler that runs the graph, compiled or not; `options` are further arguments of its `astream`."""
    graph = found.compile() if isinstance(found, StateGraph) else found

    async def run(task: Task) -> object:
        return await _Run(task, graph, options).run()

    return run


class _Usage(BaseCallbackHandler):
    """Adds up the tokens of all calls of models, those in subgraphs too."""

    run_inline = True

    def __init__(self) -> None:
        self.tokens = 0

    def on_llm_end(self, response: Any, **_: Any) -> None:
        """Adds the tokens of one answer."""
        for each in (each for several in response.generations for each in several):
            usage = getattr(getattr(each, "message", None), "usage_metadata", None) or {}
            self.tokens += int(usage.get("total_tokens", 0))


class _Run:
    """Runs a graph for one task."""

    def __init__(self, task: Task, graph: Any, options: Mapping[str, Json]) -> None:
        self._task = task
        self._usage = _Usage()
        self._options = dict(options)
        own = self._options.pop("config", {})
        thread = {"thread_id": task.session or task.id}
        callbacks = [*own.get("callbacks", ()), self._usage]
        configurable = {**thread, **own.get("configurable", {})}
        self._config = {**own, "callbacks": callbacks, "configurable": configurable}
        self._keeps_sessions = bool(graph.checkpointer)
        self._graph = graph
        if not self._keeps_sessions:
            self._graph = graph.copy({"checkpointer": InMemorySaver()})

    async def run(self) -> object:
        """Returns the last message as text, or the state of a graph without messages."""
        given, before = self._input()
        try:
            end = await self._until_its_end(given)
        finally:
            self._task.usage(tokens=self._usage.tokens)
        messages = end.get("messages") if isinstance(end, dict) else None
        if not isinstance(messages, list) or not messages:
            return as_json(end)
        found = cast("list[AnyMessage]", convert_to_messages(messages))
        if not self._keeps_sessions:
            known = {each.id for each in before}
            has_all = known <= {each.id for each in found}
            new = [each for each in found if each.id not in known] if has_all else found
            remember(self._task, FRAMEWORK, [_entry(each) for each in new], anew=not has_all)
        if "structured_response" in end:
            return as_json(end["structured_response"])
        return found[-1].text

    def _input(self) -> tuple[Any, list[BaseMessage]]:
        """Returns the graph's input, and the earlier messages in it."""
        task, keys = self._task, self._input_keys()
        fields = task.input if isinstance(task.input, dict) else {}
        state = {key: value for key, value in fields.items() if key in keys}
        if "messages" in keys and "messages" not in state:
            before = [] if self._keeps_sessions else _messages(earlier(task, FRAMEWORK))
            prompt = task.objective if state and task.objective else prompt_of(task)
            asked = HumanMessage(prompt, id=str(uuid.uuid4()))
            return {**state, "messages": [*before, asked]}, before
        if state:
            return state, []
        if not keys:
            return (task.objective if task.input is None else task.input), []
        if len(keys) == 1:
            return dict.fromkeys(keys, task.objective if task.input is None else task.input), []
        names = ", ".join(sorted(keys))
        text = f"cannot run the graph: its input needs one of {names}, of which the task's input has none"
        raise InvalidParams(text, key="input", keys=sorted(keys))

    def _input_keys(self) -> set[str]:
        """Returns the names of the fields of the graph's input; none for a graph of a function."""
        return set(self._graph.get_input_jsonschema().get("properties", {}))

    async def _until_its_end(self, given: Any) -> Any:
        while True:
            end, interrupts = await self._stream(given)
            if not interrupts:
                return end
            given = Command(resume={each.id: await self._ask(each) for each in interrupts})

    async def _stream(self, given: Any) -> tuple[Any, Sequence[Interrupt]]:
        modes = ["values", "messages"] if is_streamed(self._task) else ["values"]
        end: Any = None
        interrupts: Sequence[Interrupt] = ()
        async for mode, value in self._graph.astream(given, self._config, stream_mode=modes, **self._options):
            if mode == "messages":
                message = value[0]
                if isinstance(message, AIMessage) and message.text:
                    await stream_text(self._task, message.text)
            elif isinstance(value, dict) and "__interrupt__" in value:
                interrupts = value["__interrupt__"]
            else:
                end = value
        return end, interrupts

    async def _ask(self, interrupt: Interrupt) -> str:
        value = interrupt.value
        if isinstance(value, str):
            return await self._task.ask(value)
        question = value.get("question") if isinstance(value, dict) else None
        words = str(question or json.dumps(value, default=str, ensure_ascii=False))
        return await self._task.ask(words[:4000], detail=as_json(value))


def _messages(entries: Sequence[Entry]) -> list[BaseMessage]:
    found: list[BaseMessage] = []
    for each in entries:
        if each.native is not None:
            found += messages_from_dict([each.native])
        else:
            found += convert_to_messages([{"role": each.role, "content": each.text}])
    for message in found:
        message.id = message.id or str(uuid.uuid4())
    return found


def _entry(message: BaseMessage) -> Entry:
    native = json.loads(json.dumps(messages_to_dict([message])[0], default=str))
    return Entry(ROLES.get(message.type, message.type), message.text, native)
