"""Passes calls of models on, and counts what they use.

May import: machine, config, records, workers, tenants, agents, tasks.
Rooms, each importing only those before it: gateway, desk.
Begin with `desk.desk` on the side of the daemon, `gateway.program` for the process that passes the calls on.
"""
