"""Holds the running set: agents, their workers, MCP servers, groups."""
