"""Lets another program take the place of the daemon's own in the same process (execve(2)), so that nothing of it ends.

Guarantees that a program which cannot go on is never executed, or gives the process back to the one before; that what
cannot be handed over is named, and refuses the upgrade; that nothing is sent or read twice. What is in the store is loaded as
after any start: handed over is what lives, and is in memory alone.

Begin with `upgrades`; the shapes of `handover` are a contract between neighbouring versions.
"""
