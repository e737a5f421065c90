"""Holds the tenants of a daemon: those of the file, and those that were added or changed at run time.

Guarantees that what was acknowledged is in the store. Must not know a worker.

Begin with `tenants`: it finds a tenant by name.
"""
