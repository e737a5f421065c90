"""Runs the tasks of a webhook agent: each is one HTTP request to a service that knows nothing of corral.

The daemon starts `python -P -m corral.worker.webhook` for an agent with `protocol = "webhook"`, so that such an agent
has the life cycle, the limits and the queue of every other one. `delivery` encodes a task as a request and decodes
the response, also one that comes in parts, without I/O; `service` has the address, the connections and the
credentials; `__main__` sends it. The process is an agent of the SDK, and must not know the daemon
beyond it.
"""
