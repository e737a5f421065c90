"""A server written with the official SDK, as authors write them today."""

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

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


if __name__ == "__main__":
    server.run("stdio")
