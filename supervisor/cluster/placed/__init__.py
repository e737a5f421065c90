"""Runs this daemon as one node of a cluster: joins it, and does what its lease permits and forbids.

Guarantees that a daemon without `[cluster]` imports nothing of this, and that local agents go on whatever happens to the engine.
The launcher holds the deadline of the lease, so that a frozen daemon keeps nothing running beyond it.

It must not know NATS or Redis. Begin with `node`.
"""
