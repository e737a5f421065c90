"""A server of the official SDK whose tools ask forms, in the way of the era, and say the response."""

import json

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from pydantic import BaseModel

server = MCPServer("forms")


class Order(BaseModel):
    """What a person is asked for."""

    name: str
    count: int
    gift: bool = False


class Nothing(BaseModel):
    """A form without fields: consent alone."""


async def asked(context: Context, message: str, form: type[BaseModel]) -> str | InputRequiredResult:
    if context.protocol_version != "2026-07-28":
        found = await context.elicit(message, form)
        content = found.data.model_dump() if found.action == "accept" else None
        return json.dumps([found.action, content])
    answers = context.input_responses
    if answers is None:
        params = ElicitRequestFormParams(message=message, requested_schema=form.model_json_schema())
        return InputRequiredResult(input_requests={"form": ElicitRequest(params=params)}, request_state="asked")
    answer = answers["form"]
    assert isinstance(answer, ElicitResult)
    return json.dumps([answer.action, answer.content if answer.action == "accept" else None])


@server.tool()
async def order(context: Context) -> str | InputRequiredResult:
    """Asks for three fields."""
    return await asked(context, "Your order", Order)


@server.tool()
async def consent(context: Context) -> str | InputRequiredResult:
    """Asks for consent."""
    return await asked(context, "Delete all?", Nothing)


if __name__ == "__main__":
    server.run("stdio")
