"""Composes the rooms of the daemon: makes each, and connects it with those that it needs.

Nothing is decided here, and nothing runs: `daemon` serves with the rooms, and takes them down.

Begin with `rooms`, which makes all in their order and loads what the store has. `shared_rooms` makes the launcher, events
and logs, which the others use; `tenant_rooms`, `model_rooms` and `exports` make a concern each, and `method_table` the
method table with the status.
"""
