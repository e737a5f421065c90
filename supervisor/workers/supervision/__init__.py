"""Supervises workers: performs the decisions of the room `lifecycle`, and reports every outcome as an event to it.

Guarantees one process tree per incarnation, bounded starts and stops, limits, health checks, checkpoints and alerts of
each worker. Decides nothing about restarts (see `lifecycle`), knows no tasks and not how many workers an agent has.

Begin with `worker_supervisor`: `send` takes an event to the state machine and performs its actions. One life of the worker
is an `incarnation`, the protocol that is spoken with it a `line`, its log that of the room `logs`. An operation that waits
for other workers is a `job`; listeners and events come from `worker_changes`. Limits that the kernel does not hold are in
`limit_enforcer`; `shared` holds the collaborators of all supervisors.
"""
