"""Accepts, queues, runs and ends the tasks of one daemon.

Guarantees that a durable task is committed before it is acknowledged, an attempt before it is sent to a worker, and an
end before it is announced; that a task runs on one worker at a time; and that every limit (length of a queue, bytes,
attempts, budget, depth of delegation) is refused by name. Must not know how a worker is started or supervised, how a
team or workflow is executed (a port, which the executor defines), or which transport a call came from.

Begin with `tasks`, the facade. A new task passes `submission` and `admission` (which agent), `backlog` (until its turn),
`dispatcher` (which worker), `executor` and `attempt` (the run), `record_writer` and `table` (the record). Decisions
that need none of these are in the module `task_rules`.
"""
