"""Counts and measures what runs, and keeps the history of it.

Guarantees that every figure is counted once, at the event itself (`statistics`), and that all else is read beside the
work (`collector`), in a time that is bounded whatever runs. A step of the history has the differences since the step
before, so that a restart of the daemon is a gap in it and not a jump.

Must not know a transport, or how a figure is shown. Nothing is decided here about processes or tasks. Begin with
`step` and `collector`; `view` answers questions, and `series` and `health` decide, by values alone.
"""
