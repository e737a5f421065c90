"""Defines tasks of placed agents as the engine keeps them, and waits there for their ends.

Guarantees that a waiter is told of an end that is stored, whichever node stored it.

Begin with `stored_task`, the shape of a task and its end, then `queues` (to which a task is appended, from which it is
taken) and `ends` (the waiters). Must not know agents or workers: the room `placed` runs the tasks.
"""
