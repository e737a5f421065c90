"""A server written with the official SDK, as authors write them today."""

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import (
    Completion,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequests,
    InputRequiredResult,
    ToolAnnotations,
)
from pydantic import BaseModel

server = MCPServer("official", version="3", instructions="Ask nicely.")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ToolError("it always does")


@server.tool()
async def count(to: int, context: Context) -> str:
    """Counts, and says how far it is."""
    for n in range(to):
        await context.report_progress(n + 1, to, f"at {n + 1}")
    return "counted"


@server.tool()
async def grow(context: Context) -> str:
    """Adds a tool."""
    server.add_tool(lambda: "new", name="grown", description="New.")
    await context.notify_tools_changed()
    return "grown"


class Name(BaseModel):
    """What a user is asked for."""

    name: str


@server.tool()
async def meet(context: Context) -> str | InputRequiredResult:
    """Asks the user for a name, in the way of the era."""
    if context.protocol_version != "2026-07-28":
        asked = await context.elicit("Your name?", Name)
        return f"{asked.action} {asked.data.name}" if asked.action == "accept" else asked.action
    answers = context.input_responses
    if answers is None:
        form = ElicitRequestFormParams(message="Your name?", requested_schema=Name.model_json_schema())
        wanted: InputRequests = {"name": ElicitRequest(params=form)}
        return InputRequiredResult(input_requests=wanted, request_state="asked")
    answer = answers["name"]
    assert isinstance(answer, ElicitResult)
    return f"{answer.action} {(answer.content or {})['name']}"


@server.tool()
async def touch(uri: str, context: Context) -> str:
    """Says that a resource has changed."""
    await context.notify_resource_updated(uri)
    return "touched"


@server.prompt(title="Greeting")
def greet(whom: str) -> str:
    """Greets."""
    return f"Greet {whom}."


@server.resource("official://a")
def a() -> str:
    """A."""
    return "the text of a"


@server.resource("official://of/{name}")
def of(name: str) -> str:
    """Of a name."""
    return f"of {name}"


@server.completion()  # type: ignore[no-untyped-call, untyped-decorator]  # the SDK has no types for it
async def complete(_ref: object, argument: object, _context: object) -> Completion:
    """Completes anything to the same two."""
    return Completion(values=["one", "two"], total=2)


if __name__ == "__main__":
    server.run("stdio")
