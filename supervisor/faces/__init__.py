"""Lets clients reach the methods of the api: the socket, HTTP, MCP, A2A and pages.

May import: config, records, workers, tenants, agents, tasks, models, api, mcp.endpoint, mcp.pool, mcp.protocol, mcp.upstream, worker.control, worker.methods.
Rooms, each importing only those before it: http, a2a, http_api, mcp, prometheus, services, dashboard, socket.
Begin with `socket.unix`, then `http.server`.
"""
