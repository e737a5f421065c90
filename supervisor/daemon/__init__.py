"""Makes all of the above, serves, and takes it down.

May import: machine, config, records, workers, tenants, agents, tasks, models, api, cluster, faces, mcp.cortex, mcp.pool, mcp.protocol, worker.control, worker.methods.
Rooms, each importing only those before it: host, composition.
Begin with `run`.
"""
