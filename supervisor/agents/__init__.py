"""Knows which agents there are and how many workers each has, and replaces one version of them by another.

May import: machine, config, records, workers, tenants, mcp.oauth, mcp.pool, mcp.protocol, mcp.upstream, worker.control.
Rooms, each importing only those before it: external, kept, packages, running, rollout, membership, demand, deployment.
Begin with `membership.agents`.
"""
