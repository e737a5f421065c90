"""OpenAI Agents SDK: an ordinary agent, which knows nothing of corral.

`OfflineModel` stands for a real one, such as the name "gpt-5": it needs no key.
"""

import json

from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from agents import Agent, Model, ModelResponse, Usage, set_tracing_disabled

set_tracing_disabled(True)  # it would send traces to OpenAI


class OfflineModel(Model):
    """Stores each request in the memory server, then says so."""

    def answer(self, items):
        """Returns what it says next."""
        last = items[-1]
        if last.get("role") == "user":
            return ResponseFunctionToolCall(
                type="function_call",
                call_id="1",
                name="cortex__cortex_store",
                arguments=json.dumps({"content": last["content"]}),
            )
        turns = sum(each.get("role") == "user" for each in items)
        text = ResponseOutputText(type="output_text", text=f"stored, in turn {turns}", annotations=[])
        return ResponseOutputMessage(type="message", id="1", role="assistant", status="completed", content=[text])

    async def get_response(self, system_instructions, input, *args, **kwargs):  # noqa: A002  its name
        usage = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
        return ModelResponse(output=[self.answer(input)], usage=usage, response_id=None)

    async def stream_response(self, system_instructions, input, *args, **kwargs):  # noqa: A002
        said = self.answer(input)
        if said.type == "message":
            yield ResponseTextDeltaEvent(
                type="response.output_text.delta",
                item_id="1",
                output_index=0,
                content_index=0,
                sequence_number=0,
                delta=said.content[0].text,
                logprobs=[],
            )
        usage = ResponseUsage(
            input_tokens=10,
            output_tokens=5,
            total_tokens=15,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        )
        response = Response(
            id="1",
            created_at=0,
            model="offline",
            object="response",
            output=[said],
            parallel_tool_calls=False,
            tool_choice="auto",
            tools=[],
            usage=usage,
        )
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=1)


agent = Agent(name="thinker", instructions="Be brief.", model=OfflineModel())
