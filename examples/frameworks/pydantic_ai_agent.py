"""pydantic-ai: an ordinary agent, which knows nothing of corral.

`FunctionModel(offline)` stands for a real model, such as "anthropic:claude-sonnet-4-5": it needs no key.
"""

from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import DeltaToolCall, FunctionModel


def offline(messages, info):
    """Stores each request in the memory server, then says so."""
    last = messages[-1].parts[-1]
    if isinstance(last, UserPromptPart):
        return ModelResponse([ToolCallPart("cortex__cortex_store", {"content": last.content})])
    turns = sum(isinstance(part, UserPromptPart) for each in messages for part in each.parts)
    return ModelResponse([TextPart(f"stored, in turn {turns}")])


async def offline_stream(messages, info):
    """Says the same, word by word."""
    for part in offline(messages, info).parts:
        if isinstance(part, ToolCallPart):
            yield {0: DeltaToolCall(part.tool_name, part.args_as_json_str())}
        else:
            for word in part.content.split(" "):
                yield word if word == "stored," else f" {word}"


agent = Agent(FunctionModel(offline, stream_function=offline_stream))
