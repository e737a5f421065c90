"""Publishes everything that happens in the daemon as one ordered stream of events, and stores it.

Guarantees that each event has a number of its own, also after a kill; that a publisher never waits; that a slow subscriber
loses the oldest events of its own queue and is sent their number; and that a reader of the past goes on with the present
without a gap. Knows nothing of agents and tasks but the names that an event carries.

Begin with `bus` (publish and subscribe). `catalog` lists the types of the daemon's own events with their fields, `history`
is the table of stored events.
"""
