"""Answers the requests of workers: tools, delegation, memory, checkpoints, events, progress, logs.

Guarantees that a worker speaks only for its own tasks and its own agent, and that every call of a tool, by a worker
or by a client, passes `tool_calls`, which knows its limits and records it.

Must not know a transport, nor the method table of clients. Begin with `requests`, which names each method; then
`tool_calls`, `delegation` and `pubsub`, one for each larger part.
"""
