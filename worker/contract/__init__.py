"""Defines the contract of daemon, workers and clients: errors, records, messages, and their JSON-RPC transport.

Guarantees that all sides agree on error codes, JSON shapes and framing, that a peer's mistake never raises, and that
every queue and message is bounded. It must not know any side: no method is called and no process started here.

Begin with `errors` and `records`; then `jsonrpc` (the protocol without I/O) and `channel` (asyncio). `worker_messages`
lists the messages of workers; those of the daemon's methods are in the room `control`. `errors`, `codec`, `jsonrpc` and
`channel` need the standard library alone, because workers run in environments without msgspec.
"""
