"""pydantic-ai: corral's tools as pydantic-ai tools, the session as message history, tokens reported.

`FunctionModel(offline)` stands for a real model, such as "anthropic:claude-sonnet-4-5": it needs no key.
"""

import json

from pydantic_ai import Agent as Thinker
from pydantic_ai import ModelMessagesTypeAdapter, Tool
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import FunctionModel

from corral.worker import Agent

agent = Agent("pydantic-ai")


def offline(messages, info):
    """Stores each request in the memory server, then says so."""
    last = messages[-1].parts[-1]
    if isinstance(last, UserPromptPart):
        return ModelResponse([ToolCallPart("cortex__cortex_store", {"content": last.content})])
    turns = sum(isinstance(part, UserPromptPart) for each in messages for part in each.parts)
    return ModelResponse([TextPart(f"stored, in turn {turns}")])


async def native_tools(task):
    """Returns the tools that this agent may call, as pydantic-ai tools."""

    def tool(about):
        async def call(**arguments):
            return (await task.tool(about["name"], arguments)).text

        return Tool.from_schema(
            call,
            name=about["name"],
            description=about["description"],
            json_schema=about["input_schema"],
        )

    return [tool(each) for each in await task.tools()]


@agent.task
async def run(task):
    thinker = Thinker(FunctionModel(offline), tools=await native_tools(task))
    before = ModelMessagesTypeAdapter.validate_python(task.memory.data.get("messages", []))
    found = await thinker.run(task.objective, message_history=before)
    task.memory.data["messages"] = json.loads(found.all_messages_json())
    task.usage(tokens=found.usage.total_tokens)
    return found.output
