"""An agent that is a graph of langgraph with a fake chat model of langchain-core: a model, a tool, the model again."""

import os
import random
from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool  # pyright: ignore[reportUnknownVariableType]  of a library
from langgraph.graph import END, START, MessagesState, StateGraph  # pyright: ignore[reportMissingTypeStubs]  it has none
from langgraph.prebuilt import ToolNode, tools_condition

from corral.worker import Agent, Task

agent = Agent("langgraph")


@tool
def population(city: str) -> int:
    """How many people live in a city."""
    return 1000 * len(city)


def graph(city: str) -> Any:  # its own types are partly unknown
    """A graph whose model asks for the tool once, and then answers."""
    call = {"name": "population", "args": {"city": city}, "id": "1"}
    said = [AIMessage("", tool_calls=[call]), AIMessage(f"that is how many live in {city}")]
    model = GenericFakeChatModel(messages=iter(said))

    def think(state: MessagesState) -> dict[str, object]:
        return {"messages": [model.invoke(state["messages"])]}

    made: Any = StateGraph(MessagesState)  # as above
    made.add_node("think", think)
    made.add_node("tools", ToolNode([population]))
    made.add_edge(START, "think")
    made.add_conditional_edges("think", tools_condition, {"tools": "tools", END: END})
    made.add_edge("tools", "think")
    return made.compile()


@agent.task
async def run(task: Task) -> dict[str, object]:
    end = await graph("Vienna").ainvoke({"messages": [HumanMessage(task.objective)]})
    return {
        "answer": end["messages"][-1].content,
        "steps": [type(message).__name__ for message in end["messages"]],
        "pid": os.getpid(),
        "random": random.getrandbits(64),
    }
