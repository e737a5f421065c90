"""Knows whose something is, what its caller may do, and how much it may use.

May import: machine, config, records, workers, worker.control.
Rooms, each importing only those before it: registry, quotas, limits, tokens.
Begin with `registry.tenants`; `tokens.scope` for rights, `quotas.task_limits` for limits.
"""
