"""Keeps a process per agent that has imported its modules, and forks workers from it."""
