"""Erases what the store and the disk have of a tenant that is being removed.

Guarantees that a removal which a daemon has begun is finished by it or by the next one: the record of the tenant goes
last. Must not know a running worker: its processes are ended before.

Begin with `removal`.
"""
