"""Objects of the real frameworks, each with an offline model, run as handlers: tools, sessions, tokens, parts, cancellation."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph  # pyright: ignore[reportMissingTypeStubs]  it has none
from langgraph.types import interrupt  # pyright: ignore[reportMissingTypeStubs]  it has none
from mcp.server import MCPServer
from pydantic import BaseModel
from pydantic_ai import Agent as Thinker
from pydantic_ai import RunContext
from pydantic_ai.models.test import TestModel
from typing_extensions import TypedDict

from adapter_runs import cancelled_in_a_tool, run
from corral.adapters import wrap
from corral.worker.contract.errors import InvalidParams, ToolFailed

pytestmark = pytest.mark.contract

EXAMPLES = Path(__file__).parents[3] / "examples" / "frameworks"

OBJECTS = {
    "langgraph": ("langgraph_agent", "graph"),
    "pydantic-ai": ("pydantic_ai_agent", "agent"),
    "openai-agents": ("openai_agents_agent", "agent"),
    "agno": ("agno_agent", "agent"),
}
"""The examples, whose model stores each request by a tool and then says how many turns there were."""


def example(framework: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the object of an example; its tool has the name of the one in these tests."""
    file, attribute = OBJECTS[framework]
    text = (EXAMPLES / f"{file}.py").read_text("utf-8")
    text = text.replace("cortex__cortex_store", "notes__store").replace('"content": last', '"text": last')
    module = ModuleType(f"{file}_tested")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(text, file, "exec"), module.__dict__)
    return getattr(module, attribute)


@pytest.mark.parametrize("framework", OBJECTS)
def test_an_object_calls_the_pools_tool_streams_and_goes_on_in_its_session(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = example(framework, monkeypatch)
    first = run(found, "the sea is blue")
    assert first.output == "".join(first.parts) == "stored, in turn 1"
    assert first.calls == [("notes__store", {"text": "the sea is blue"})]
    assert first.tokens == 30 or framework == "pydantic-ai", "its model counts words"
    assert first.tokens > 0
    roles = [each["role"] for each in first.history]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert first.history[0]["content"] == "the sea is blue"
    # A history is trimmed from its beginning: a framework must not see a tool's answer without its call.
    second = run(found, "the sky too", history=first.history[1:] + first.history)
    assert second.output == "stored, in turn 2"
    assert second.history[:7] == first.history[1:] + first.history
    assert [each["role"] for each in second.history[7:]] == roles
    assert second.history[7]["content"] == "the sky too"


@pytest.mark.parametrize("framework", OBJECTS)
def test_an_object_that_must_not_stream_does_not(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(example(framework, monkeypatch), "the sea", config={"stream": False})
    assert (done.output, done.parts) == ("stored, in turn 1", [])


@pytest.mark.parametrize("framework", OBJECTS)
def test_a_history_of_another_program_is_understood(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?"}]
    assert run(example(framework, monkeypatch), "the sea", history=history).output == "stored, in turn 2"


@pytest.mark.parametrize("framework", OBJECTS)
def test_a_cancelled_run_leaves_nothing(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cancelled_in_a_tool(example(framework, monkeypatch), "the sea") == 0


class City(BaseModel):
    name: str
    people: int


def test_an_output_of_a_model_is_json() -> None:
    thinker = Thinker(TestModel(call_tools=[]), output_type=City)
    assert run(thinker, "Vienna").output == {"name": "a", "people": 0}


def test_options_are_given_to_each_run() -> None:
    thinker: Thinker[str, str] = Thinker(TestModel(call_tools=["whose"]), deps_type=str)

    @thinker.tool
    def whose(ctx: RunContext[str]) -> str:
        return f"of {ctx.deps}"

    assert "of ada" in run(wrap(thinker, deps="ada"), "whose?").output


class Count(TypedDict):
    start: int
    end: int


def counting(by: int) -> Any:
    def count(state: Count) -> dict[str, int]:
        return {"end": state["start"] + by}

    graph: Any = StateGraph(Count)
    graph.add_node("count", count)
    graph.add_edge(START, "count")
    graph.add_edge("count", END)
    return graph


def test_a_graph_without_messages_takes_its_state_from_the_input_and_returns_it() -> None:
    assert run(counting(2), "", {"start": 1}).output == {"start": 1, "end": 3}
    assert run(counting(2).compile(), "", {"start": 1}).output == {"start": 1, "end": 3}
    with pytest.raises(InvalidParams) as refused:
        run(counting(2), "count", {"begin": 1})
    assert refused.value.data["keys"] == ["end", "start"]


def test_an_interrupted_graph_asks_a_person_and_goes_on() -> None:
    begun: list[str] = []

    def ask(state: MessagesState) -> dict[str, object]:
        begun.append("ask")
        return {"messages": [AIMessage(f"you say {interrupt('really?')}")]}

    def think(state: MessagesState) -> dict[str, object]:
        begun.append("think")
        return {"messages": [AIMessage("let me see")]}

    graph: Any = StateGraph(MessagesState)
    graph.add_sequence([think, ask])
    graph.add_edge(START, "think")
    done = run(graph, "go", answers={"really?": "yes"})
    assert (done.output, done.questions) == ("you say yes", ["really?"])
    assert begun == ["think", "ask", "ask"]


def test_a_server_of_the_official_sdk_is_called_by_the_name_of_its_tool() -> None:
    server = MCPServer("cities")

    @server.tool()
    def population(city: str) -> int:
        """How many people live in a city."""
        return 1000 * len(city)

    assert run(server, "how many?", {"city": "Vienna"}).output == 6000

    @server.tool()
    def fail() -> str:
        """Fails."""
        raise ValueError("no")

    assert run(server, "population", {"city": "Rome"}).output == 4000
    for objective, error in (("how many?", InvalidParams), ("fail", ToolFailed)):
        with pytest.raises(error):
            run(server, objective)


def test_what_is_no_object_of_a_framework_is_refused() -> None:
    for odd in (7, City, City(name="Rome", people=1), object()):
        with pytest.raises(InvalidParams):
            wrap(odd)


def test_recognising_imports_no_framework() -> None:
    program = """
import sys
before = set(sys.modules)
from corral.adapters import wrap
def double(number): return 2 * number
agent = wrap(double)
print(agent.test("", {"number": 4}))
found = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(found - {"corral", "msgspec", "typing_extensions"})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "8\nset()\n", done.stderr


def test_each_framework_is_installed() -> None:
    for name in ("agents", "agno", "langgraph", "mcp", "pydantic_ai"):
        assert importlib.util.find_spec(name) is not None
