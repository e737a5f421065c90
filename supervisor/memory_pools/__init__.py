"""Represents memory pools as values: decodes `[pools.NAME]`, and decides about a write that finds its pool full.

A pool bounds the sessions and keys of several agents together. Decides and does nothing: it must not know a store or
a clock. `supervisor.sessions` adds up the memory of the agents of a pool, and performs the decision.

Begin with `declared`, then `overflow`.
"""
