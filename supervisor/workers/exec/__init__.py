"""Runs commands of an operator beside a worker, in its isolation, over the connection that asked for them.

Guarantees that a command has what the worker has (user, limits, cgroup, Landlock, environment, folder), counts as a part
of it, and ends with it, with its connection and with all that it started; that output waits for its reader, and
input for the command; that few run at once.

Must not know how a worker is supervised. Begin with `execs`, which starts commands; `command` is one of them, and
`methods` their entries in the method table.
"""
