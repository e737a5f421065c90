"""Keeps the successes of jobs, which are agents of `type = "oneshot"`: commands that run to their end.

Guarantees that a success which remains (`remain = true`) is known to the next daemon too, as long as the machine has not
started anew and the command is the same. Must not know when a job runs or what its end means: `lifecycle.job` decides
that for one worker, `agents.startup` for those that wait for it.

Begin with `successes`.
"""
