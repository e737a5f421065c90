"""Serves every method that a client may call, with its right, its record and its figures.

May import: config, records, workers, tenants, agents, tasks, models, mcp.pool, worker.control, worker.methods.
Rooms, each importing only those before it: metrics, reports, schema, table, agent_methods, task_methods, daemon_methods.
Begin with `table.table`.
"""
