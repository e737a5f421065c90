"""Commands that give work to agents: run, the queue and its records, teams, workflows and schedules.

`task` has `corral run`: it submits, waits over broken connections, shows progress on stderr and prints the output.
`wait` holds the waiting and the progress, `run_options` the params of task.submit or schedule.add. Routing, retries and order
are the daemon's to decide. Begin with `task`.
"""
