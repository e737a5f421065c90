"""Lets agents without a network of their own reach the hosts that their specs list, and none else.

The room guarantees that a connection goes to a listed name or address at a listed port, that a listed name does not lead
to an address of this machine or of its link unless that address is listed itself, that everything is bounded, and that
each refusal is answered with its reason and counted in the audit.

It must not know how a sandbox is made: it is handed the listening socket in the network of each worker.

Begin with `rules`, which decides; `program` is the proxy, one process for the daemon; `proxy` starts and feeds it.
"""
