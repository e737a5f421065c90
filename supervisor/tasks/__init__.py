"""Takes, queues, runs and ends tasks, and answers what workers ask.

May import: config, records, workers, tenants, agents, mcp.pool, mcp.protocol, worker.control.
Rooms, each importing only those before it: rules, run, worker_api, attention, workflows.
Begin with `run.tasks`; `worker_api.requests` for what workers ask, `attention.inbox` for what waits for a person.
"""
