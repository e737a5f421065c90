"""LangGraph: corral's tools as LangChain tools, the session as messages, tokens reported.

`OfflineModel` stands for a real one, such as `ChatAnthropic(model="claude-sonnet-4-5")`: it needs no key.
"""

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from corral.worker import Agent

agent = Agent("langgraph")


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


async def native_tools(task):
    """Returns the tools that this agent may call, as LangChain tools."""

    def tool(about):
        async def call(**arguments):
            return (await task.tool(about["name"], arguments)).text

        return StructuredTool.from_function(
            coroutine=call,
            name=about["name"],
            description=about["description"],
            args_schema=about["input_schema"],
        )

    return [tool(each) for each in await task.tools()]


@agent.task
async def run(task):
    tools = await native_tools(task)
    model = OfflineModel().bind_tools(tools)

    async def think(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "think")

    messages = [*convert_to_messages(task.memory.history), HumanMessage(task.objective)]
    end = await graph.compile().ainvoke({"messages": messages})
    new = end["messages"][len(messages) :]
    task.usage(tokens=sum(m.usage_metadata["total_tokens"] for m in new if m.type == "ai"))
    task.memory.add("user", task.objective)
    task.memory.add("assistant", new[-1].content)
    return new[-1].content
