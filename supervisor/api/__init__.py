"""Answers requests: those of clients by the method table, those of workers by the worker API.

Guarantees that each method of the table is called with its permission and with params of its shape, that
changes and tool calls are recorded in the audit, and that a worker speaks only for its own tasks and its own
agent. `tool_calls` is the one way of both to the MCP servers.

Must not know a transport or a connection: a caller is a name, a permission and a way to notify it. Nothing is
decided here about processes or queues; the rooms below do that. Begin with `table`, then the `methods_*`
modules, one for each part of the table; `worker_api` is the same for workers.
"""
