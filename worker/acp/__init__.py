"""Runs an agent of the Agent Client Protocol (ACP) as a worker: translates between the worker protocol and ACP.

The daemon starts `python -P -m corral.worker.acp PROGRAM…` for an agent with `protocol = "acp"`, so that such an agent
has the life cycle, the limits and the queue of every other one. The process is an agent of the SDK. It starts PROGRAM as
its child, is the client on that one's stdin and stdout, and ends as PROGRAM ends. Files and terminals that PROGRAM asks
for are served in this process, and so within the isolation of the agent. It must not know the daemon beyond the SDK.

Begin with `bridge`: it runs a task as a prompt turn. `policy` and `messages` decide, without I/O.
"""
