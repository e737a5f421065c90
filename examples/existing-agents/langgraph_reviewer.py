"""LangGraph: an ordinary graph of a model and its tools, which asks a person before it stores anything.

Its model is where OPENAI_BASE_URL says.
"""

import json

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt
from openai import AsyncOpenAI


def as_sent(message):
    """Returns a message in the shape of chat completions."""
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": message.content}
    if isinstance(message, ToolMessage):
        text = message.content if isinstance(message.content, str) else json.dumps(message.content)
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": text}
    calls = [
        {
            "id": each["id"],
            "type": "function",
            "function": {"name": each["name"], "arguments": json.dumps(each["args"])},
        }
        for each in message.tool_calls
    ]
    said = {"role": "assistant", "content": message.content}
    return {**said, "tool_calls": calls} if calls else said


def graph(tools):
    """Returns a graph of a model and its tools."""
    client = AsyncOpenAI()
    schemas = [convert_to_openai_tool(tool) for tool in tools]

    async def think(state):
        answer = await client.chat.completions.create(
            model="scripted", messages=[as_sent(each) for each in state["messages"]], tools=schemas
        )
        said = answer.choices[0].message
        calls = [
            {"id": each.id, "name": each.function.name, "args": json.loads(each.function.arguments)}
            for each in said.tool_calls or ()
        ]
        return {"messages": [AIMessage(said.content or "", tool_calls=calls)]}

    def ask(state):
        for call in state["messages"][-1].tool_calls:
            if call["name"].endswith("_store") and interrupt(f"Store {call['args']}?") != "yes":
                refused = ToolMessage("a person has refused it", tool_call_id=call["id"])
                return {"messages": [refused]}
        return {}

    made = StateGraph(MessagesState)
    made.add_node("think", think)
    made.add_node("ask", ask)
    made.add_node("tools", ToolNode(tools))
    made.add_edge(START, "think")
    made.add_conditional_edges("think", tools_condition, {"tools": "ask", END: END})
    made.add_conditional_edges("ask", lambda state: state["messages"][-1].type, {"ai": "tools", "tool": "think"})
    made.add_edge("tools", "think")
    return made.compile()
