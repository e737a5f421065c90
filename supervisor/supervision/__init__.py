"""Supervises workers: performs the decisions of the room `lifecycle`, and reports every outcome as an event to it.

Guarantees one process tree per incarnation, bounded starts and stops, limits, health checks, checkpoints and alerts of
each worker. Decides nothing about restarts (see `lifecycle`), knows no tasks and not how many workers an agent has. The
protocols of workers are behind `line`; limits that the kernel does not hold are in `limit_enforcer`. Begin with
`worker_supervisor`.
"""
