"""Makes several daemons one: leases, placement, and calls to other nodes.

May import: config, records, workers, tenants, agents, tasks, api, worker.control.
Rooms, each importing only those before it: engine, lease, state, calls, placed.
Begin with `placed.node`.
"""
