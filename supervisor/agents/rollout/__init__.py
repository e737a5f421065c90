"""Replaces the workers of an agent or server by those of another spec, without a task or call that is cut.

Guarantees that a worker of the former spec ends only when it runs nothing, that a worker of the new one gets its first
task when it is up, healthy and past the smoke task, and that a spec which does not come up is taken back. Must not know
who wants the change, or what differs.

Begin with `policy`, which decides; `rollouts` is the entry of the room, and `roll` carries out one change.
"""
