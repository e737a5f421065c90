"""Offers corral itself and all its MCP servers as one MCP server.

Decides the tools, prompts and resources of one client: the part of the pool that its rights, its profile and
its own patterns leave, and corral's own tools (`corral__*`) within its permission. Each of those is a few
calls of the method table, so that limits and audit are those of every other caller.

Must not know a transport or the era of the protocol: `mcp.endpoint` speaks MCP, `transport` has the
connection. Begin with `view`, then `tools`.
"""
