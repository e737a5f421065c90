"""Answers the requests of clients by the method table.

Guarantees that each method of the table is called with its permission and with params of its shape, and that
changes and tool calls are recorded in the audit.

Must not know a transport or a connection: a caller is a name, a permission and a way to notify it. Nothing is
decided here about processes or queues; the rooms below do that. Begin with `table`; the room
`methods` has the methods themselves, and `worker_api` is the same for workers.
"""
