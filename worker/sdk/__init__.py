"""Defines the API of agent authors and runs an agent as a worker of the daemon.

Guarantees that only protocol messages reach the worker's stdout, that a failing handler or hook never ends the
worker, and that the process ends at `shutdown`. Standard library alone; importing `agent` takes a few milliseconds
because asyncio is imported by `run` only. It must not know the daemon beyond the messages of `worker.contract`.

Begin with `agent` (what an author registers), then `runtime` (one incarnation of a worker) and `task`.
"""
