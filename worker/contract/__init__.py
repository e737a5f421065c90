"""Defines the contract of daemon, workers and clients: errors, records, messages, and their JSON-RPC transport.

Guarantees that all sides agree on error codes, JSON shapes and framing, that a peer's mistake never raises, and that
every queue and message is bounded. It must not know any side: no method is called and no process started here.

Begin with `errors` and `records`; then `jsonrpc` (the protocol without I/O) and `channel` (asyncio). `control_params`
and `worker_messages` list the messages of the two protocols. `errors`, `codec`, `jsonrpc` and `channel` need the
standard library alone, because workers run in environments without msgspec.
"""
