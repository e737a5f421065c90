"""Implements the built-in memory server: an MCP server on stdio over one SQLite file, a process of its own.

It is the shared, long-lived knowledge of all agents and MCP clients: items found by words, by key or by id. The memory
of one agent and its conversations is another one, kept by the daemon (supervisor.records.memory, `Task.memory`).

Guarantees that an acknowledged store survives `kill -9` and a power cut, and that nothing is ever deleted. It must not
know the daemon, agents or asyncio: any MCP client may start it. The room is optional: without it the daemon has no
built-in memory server. Begin with `server`, then `tools` and `memory`.
"""
