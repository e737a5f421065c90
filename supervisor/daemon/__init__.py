"""Makes all of the above, serves, and takes it down.

May import: config, records, workers, tenants, agents, tasks, models, api, cluster, faces, mcp.cortex, mcp.protocol, worker.control.
Rooms, each importing only those before it: host, composition, upgrade.
Begin with `run`.
"""
