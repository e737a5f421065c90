"""Decides for a node of a cluster: where agents run, how long a lease holds, and which write is too late.

Pure: values and times in, values and actions out. Guarantees that a node which cannot renew its lease is told to stop its
workers before another node may start them, and that an older fencing token never replaces a newer one.

Must not know an engine, a network or a clock. Begin with `lease`, the state machine of a node, then `placement` and
`fencing`; `settings` decodes `[cluster]`.
"""
