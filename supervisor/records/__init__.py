"""Writes down what outlives the daemon: the store, events, logs, the audit, memory, backups and traces.

May import: machine, config, worker.control.
Rooms, each importing only those before it: store, audit, events, backup, logs, memory, telemetry.
Begin with `store.store`; `logs.store` for output, `events.bus` for events.
"""
