"""Keeps what agents remember: sessions of messages and variables, and values by key.

Guarantees that a turn of a session is durable together with the end of its task, or neither; that limits of sessions, keys
and bytes hold exactly; and that a damaged record is reported, never returned. Contents are cached in bounded memory.
Knows nothing of queues and workers: the tasks restore a session and hand its changes back.

Begin with `sessions` (restore, keep, clear). `session` is one session and its turns (pure), and the cache, `table` its rows in the store,
`key_value` the values by key. The cortex server (`corral/mcp/cortex`) is another memory, for MCP clients.
"""
