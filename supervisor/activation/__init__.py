"""Decides when agents listen at the addresses of `listen`, and starts those that nobody has started: socket activation.

Guarantees that the sockets of an agent are open before its first worker starts, and for as long as one is up, coming or
can be started by a connection; and that a connection is refused where no worker would ever accept it: the agent was
stopped, or has failed for good.

It reads nothing from a connection, and accepts none. Begin with `policy`, which decides.
"""
