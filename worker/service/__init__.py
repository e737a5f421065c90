"""Serves one agent over HTTP from a Python program: `corral.AgentService`.

Guarantees that nothing of the daemon and the agent is left when the service ends, and that they end with the program. It
is built on the client and an embedded daemon.

Must not know how HTTP is served: the daemon does that. Begin with `agent_service`.
"""
