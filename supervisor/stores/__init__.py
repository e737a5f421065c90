"""Knows the declared stores: databases and knowledge that agents use, `[stores.NAME]` of the configuration.

Guarantees that no answer, event or error has userinfo, a query or a resolved secret of an address, and that each probe ends
within its time. A store is given to workers as an address: there is no database client here.

Must not know agents, nor the bus: it is told who uses which store, and calls what publishes. Begin with `declared`, the
values, then `stores`, which probes them.
"""
