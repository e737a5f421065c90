"""Runs the agents and MCP servers that there are: finds them by name, starts, stops and counts their workers.

Guarantees that an agent starts after the agents that it requires, and within the limit of processes. Must not know why
there is an agent, nor tasks, nor the wire. Begin with `running_agents`, which groups the room: `registry` finds by name,
`startup` knows the order and the limit, `operations` starts and stops, `replicas` changes numbers of workers; `agent` is one entry.
"""
