"""agno: an ordinary agent, which knows nothing of corral.

`OfflineModel` stands for a real one, such as `Claude(id="claude-sonnet-4-5")`: it needs no key.
"""

import json
import os

os.environ.setdefault("AGNO_TELEMETRY", "false")  # before the import: it would call home

from agno.agent import Agent
from agno.metrics import MessageMetrics
from agno.models.base import Model
from agno.models.response import ModelResponse


class OfflineModel(Model):
    """Stores each request in the memory server, then says so."""

    def answer(self, messages):
        """Returns what it says next."""
        usage = MessageMetrics(input_tokens=10, output_tokens=5, total_tokens=15)
        last = messages[-1]
        if last.role == "user":
            arguments = json.dumps({"content": last.content})
            function = {"name": "cortex__cortex_store", "arguments": arguments}
            call = {"id": "1", "type": "function", "function": function}
            return ModelResponse(role="assistant", tool_calls=[call], response_usage=usage)
        turns = sum(each.role == "user" for each in messages)
        text = f"stored, in turn {turns}"
        return ModelResponse(role="assistant", content=text, response_usage=usage)

    def invoke(self, messages, *args, **kwargs):
        return self.answer(messages)

    async def ainvoke(self, messages, *args, **kwargs):
        return self.answer(messages)

    def invoke_stream(self, messages, *args, **kwargs):
        yield self.answer(messages)

    async def ainvoke_stream(self, messages, *args, **kwargs):
        yield self.answer(messages)

    def _parse_provider_response(self, response, **kwargs):
        return response

    def _parse_provider_response_delta(self, response):
        return response


agent = Agent(model=OfflineModel(id="offline"), telemetry=False)
