"""agno: corral's tools as agno functions, the session as messages, tokens reported, in a handler without async.

`OfflineModel` stands for a real one, such as `Claude(id="claude-sonnet-4-5")`: it needs no key.
"""

import json
import os

os.environ.setdefault("AGNO_TELEMETRY", "false")  # before the import: it would call home

from agno.agent import Agent as Thinker
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from agno.tools.function import Function

from corral.worker import Agent

agent = Agent("agno")


class OfflineModel(Model):
    """Stores each request in the memory server, then says so."""

    def invoke(self, messages, *args, **kwargs):
        last = messages[-1]
        if last.role == "user":
            arguments = json.dumps({"content": last.content})
            function = {"name": "cortex__cortex_store", "arguments": arguments}
            call = {"id": "1", "type": "function", "function": function}
            return ModelResponse(role="assistant", tool_calls=[call])
        turns = sum(each.role == "user" for each in messages)
        return ModelResponse(role="assistant", content=f"stored, in turn {turns}")

    async def ainvoke(self, messages, *args, **kwargs):
        return self.invoke(messages)

    def invoke_stream(self, *args, **kwargs):
        raise NotImplementedError

    def ainvoke_stream(self, *args, **kwargs):
        raise NotImplementedError

    def _parse_provider_response(self, response, **kwargs):
        return response

    def _parse_provider_response_delta(self, response):
        return response


def native_tools(task):
    """Returns the tools that this agent may call, as agno functions."""

    def tool(about):
        def call(**arguments):
            return task.tool(about["name"], arguments).text

        return Function(
            name=about["name"],
            description=about["description"],
            parameters=about["input_schema"],
            entrypoint=call,
            skip_entrypoint_processing=True,
        )

    return [tool(each) for each in task.tools()]


@agent.task
def run(task):
    thinker = Thinker(model=OfflineModel(id="offline"), tools=native_tools(task), telemetry=False)
    before = [Message(**each) for each in task.memory.history]
    found = thinker.run([*before, Message(role="user", content=task.objective)])
    task.memory.add("user", task.objective)
    task.memory.add("assistant", found.content)
    task.usage(tokens=found.metrics.total_tokens if found.metrics else 0)
    return found.content
