"""Offers what Linux has, and the small process that spawns, signals and reaps by it.

May import: nothing.
Rooms, each importing only those before it: linux, isolation, launcher.
Begin with `linux.kernel` for system calls, `launcher.main_loop` for the process.
"""
