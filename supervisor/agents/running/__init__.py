"""Holds the running set: agents with their workers, MCP servers, teams and workflows.

Decides which agents there are, how many workers each has and in which order they start and stop, and carries out
requests of callers: start, stop, restart, pause, add, remove, reload. Guarantees that an agent starts
after the agents that it requires, and within the limit of processes. Must not know tasks or the wire. Begin with
`agents`, the facade; `agent` is one entry of it.
"""
