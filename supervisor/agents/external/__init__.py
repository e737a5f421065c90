"""Logs the daemon in to remote MCP servers: keeps their grants fresh, and carries logins of persons from start to end.

Guarantees that a grant is renewed once however many processes ask, that a rotated refresh token is on disk before its access
token is used, and that a server without a usable token has the typed reason `needs-login`. It must not know HTTP: each
exchange with an authorization server is a step of `mcp.oauth`, run as a process of the server's own rights by `steps`.

Begin with `logins`.
"""
