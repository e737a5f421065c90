"""Decodes the tables of names that others refer to: tenants and tiers, memory pools, models, stores, and the cluster.

Guarantees that a name is one, that a table without a key that it needs is refused with an example, and that no error and
no answer has the secrets of an address. Decides and does nothing: it must not know a process, a clock or the store.

Begin with `tenant`, then `pools`, which says how a tenant's own tables refer to names.
"""
