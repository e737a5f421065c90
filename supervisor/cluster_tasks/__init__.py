"""Defines tasks of placed agents as the engine keeps them, and waits there for their ends.

Guarantees that a waiter is told of an end that is stored, whichever node stored it. Must not know agents or workers: `cluster_node`
runs the tasks. Begin with `stored_task`, then `queues` and `ends`.
"""
