"""Holds the settings and the tokens of remote MCP servers: those of the configuration, and those on disk.

Guarantees that a token is on disk, encrypted and readable by the daemon's user alone, before it is used. It must not know how
a token is got (`mcp.oauth`), nor when (`logins`).

Begin with `declared`, then `token_store`.
"""
