"""Gives agents with `instances = { min, max }` as many workers as their tasks need.

Guarantees that the number stays within its bounds and does not move with a load that comes and goes, and that no
worker is removed while it has a task. Must not know how a worker is started or a task is run.

Begin with `policy`, which is pure and decides; `autoscaler` measures the load and changes the number.
"""
