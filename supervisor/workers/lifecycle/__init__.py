"""Decides, as pure functions, when a worker starts, stops, restarts or is given up.

Values in, values out: state and event give the next state and a list of actions, which the room `supervision` performs.
No clock, no I/O, no randomness: the time and the jitter are arguments, so every life can be replayed in a test.
Nothing here knows processes, tasks or files.

`state_machine` defines the states, the events and the actions. Begin with `transitions.step`, which decides;
`restart_policy` decides about backoff and giving up, `health_check` about one health check.
"""
