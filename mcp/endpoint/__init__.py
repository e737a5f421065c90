"""Implements corral's MCP server for one client, without a transport.

Guarantees the rules of both eras of MCP: state for clients that `initialize`, none for modern requests, and nothing
sent for a request after its end. It must not know the daemon, the pool or a pipe: a `Provider` answers, a `ClientLink`
leads back to the client. Begin with `server` (`McpEndpoint`); `request` is one request being served, its sources and errors.
"""
