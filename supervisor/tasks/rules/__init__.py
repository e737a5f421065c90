"""Decides about tasks: functions of values and time, which the room of tasks carries out.

Begin with `boundaries` (the limits of a task and of those that it delegates), then `availability` (whether an agent can
run one), `queue` (which one is next, on which worker), `retry_policy` (whether one is tried again), `payload` (what its
record may hold). Guarantees that the same values give the same decision. Must not know a clock, the store, a
connection or an event.
"""
