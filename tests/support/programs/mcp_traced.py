"""A server of the official SDK with one tool, which answers with the trace context of its call."""

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("traced")


@server.tool()
def where(context: Context) -> str:
    """Returns the traceparent of the call."""
    meta = context.request_context.meta
    return str((meta or {}).get("traceparent"))


if __name__ == "__main__":
    server.run("stdio")
