"""Answers calls with what other nodes of the cluster have: passes them on, joins their lists, and follows them as one stream.

Guarantees that rights, scope and audit of a call are those of the node that serves it, and that nothing waits for a node that is gone.
A stream of all nodes has no record twice, and says which node is missing.

It must not know what nodes do for each other. Begin with `router`; `forwarding` is the wire.
"""
