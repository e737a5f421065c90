"""Serves the methods `node.*` of the table: the nodes of the cluster that the daemon has joined.

Guarantees that a daemon without a cluster refuses them as NotFound. Must not know an engine: the node is a port.

Begin with `node`.
"""
