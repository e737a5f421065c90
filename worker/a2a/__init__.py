"""Runs the tasks of a remote agent of A2A 1.0: each is a task of that agent, which knows nothing of corral.

The daemon starts `python -P -m corral.worker.a2a` for an agent with `protocol = "a2a"`, so that such an agent has the life
cycle, the limits and the queue of every other one. `messages` decides what is said and what an answer means, without I/O;
`remote` calls the agent over HTTP; `__main__` runs tasks by both. The process must not know the daemon beyond the SDK.
"""
