"""Keeps this node's lease on the engine of its cluster, and sees the leases of the others.

Performs the decisions of `lease`: sends beats, arms the launcher's deadline, permits and stops workers. Guarantees
that a stop is requested before the lease ends, and that a node is reported over only when no worker of it can run any more.

Must not know agents: it is told what to call. Begin with `membership`, then `observer`.
"""
