"""OpenAI Agents SDK: corral's tools as function tools, the session as input items, tokens reported.

`OfflineModel` stands for a real one, such as the name "gpt-5": it needs no key.
"""

import json

from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

from agents import Agent as Thinker
from agents import FunctionTool, Model, ModelResponse, Runner, Usage, set_tracing_disabled
from corral.worker import Agent

set_tracing_disabled(True)  # it would send traces to OpenAI

agent = Agent("openai-agents")


class OfflineModel(Model):
    """Stores each request in the memory server, then says so."""

    async def get_response(self, system_instructions, input, *args, **kwargs):  # noqa: A002  its name
        last = input[-1]
        if last.get("role") == "user":
            said = ResponseFunctionToolCall(
                type="function_call",
                call_id="1",
                name="cortex__cortex_store",
                arguments=json.dumps({"content": last["content"]}),
            )
        else:
            turns = sum(each.get("role") == "user" for each in input)
            text = ResponseOutputText(
                type="output_text", text=f"stored, in turn {turns}", annotations=[]
            )
            said = ResponseOutputMessage(
                type="message", id="1", role="assistant", status="completed", content=[text]
            )
        usage = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
        return ModelResponse(output=[said], usage=usage, response_id=None)

    def stream_response(self, *args, **kwargs):
        raise NotImplementedError


async def native_tools(task):
    """Returns the tools that this agent may call, as function tools."""

    def tool(about):
        async def call(context, arguments):
            return (await task.tool(about["name"], json.loads(arguments))).text

        return FunctionTool(
            name=about["name"],
            description=about["description"],
            params_json_schema=about["input_schema"],
            on_invoke_tool=call,
            strict_json_schema=False,
        )

    return [tool(each) for each in await task.tools()]


@agent.task
async def run(task):
    thinker = Thinker(
        name="thinker",
        instructions="Be brief.",
        model=OfflineModel(),
        tools=await native_tools(task),
    )
    before = task.memory.data.get("items", [])
    result = await Runner.run(thinker, [*before, {"role": "user", "content": task.objective}])
    task.memory.data["items"] = result.to_input_list()
    task.usage(tokens=result.context_wrapper.usage.total_tokens)
    return result.final_output
