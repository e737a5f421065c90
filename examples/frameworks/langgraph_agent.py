"""LangGraph: an ordinary graph. It knows nothing of corral; a parameter `tools` gets the tools of the pool.

`OfflineModel` stands for a real one, such as `ChatAnthropic(model="claude-sonnet-4-5")`: it needs no key. A graph
without such tools is named as it is: `entrypoint = "my_module:graph"`, compiled or not.
"""

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


class OfflineModel(BaseChatModel):
    """Stores each request in the memory server, then says so."""

    @property
    def _llm_type(self):
        return "offline"

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        last = messages[-1]
        if isinstance(last, HumanMessage):
            args = {"content": last.content}
            call = {"name": "cortex__cortex_store", "args": args, "id": "1"}
            message = AIMessage("", tool_calls=[call])
        else:
            turns = sum(isinstance(each, HumanMessage) for each in messages)
            message = AIMessage(f"stored, in turn {turns}")
        message.usage_metadata = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        return ChatResult(generations=[ChatGeneration(message=message)])


def graph(tools):
    """Returns a graph of a model and its tools."""
    model = OfflineModel().bind_tools(tools)

    async def think(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    made = StateGraph(MessagesState)
    made.add_node("think", think)
    made.add_node("tools", ToolNode(tools))
    made.add_edge(START, "think")
    made.add_conditional_edges("think", tools_condition, {"tools": "tools", END: END})
    made.add_edge("tools", "think")
    return made.compile()
