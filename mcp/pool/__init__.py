"""Shares MCP servers among callers: resolves names, chooses processes, orders and bounds calls, retries safe ones.

Guarantees that calls at one process run in order of arrival, that waiting is bounded in number and in time, that a
process of one sharer is never given to another one without a restart, and that a call is repeated only where that is
safe. It must not know how processes are started: a `Backend` (supervisor.agents) provides them.

Begin with `pool`; `placement` decides, `dispatcher` performs, `directory` resolves names.
"""
