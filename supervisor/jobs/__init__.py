"""Runs jobs for tasks, and keeps their successes: agents of `type = "oneshot"`, commands that run to their end.

Guarantees that a task of a job is one run of its command, never repeated, and that a success which remains (`remain =
true`) is known to the next daemon too, as long as the machine has not started anew and the command is the same. Must not
know when a job runs or what its end means: `lifecycle.job` decides that for one worker, `agents.startup` for those that
wait for it, `orchestration.schedules` knows the times.

Begin with `runner` for tasks, with `successes` for what is kept.
"""
