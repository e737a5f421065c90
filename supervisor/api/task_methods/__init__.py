"""Serves the methods of the table about tasks, their questions, schedules, checkpoints and memory.

Guarantees nothing of its own: the table decides on rights and on the agents of a caller. Begin with `task`.
"""
