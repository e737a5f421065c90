"""Serves the methods `tenant.*` of the table.

Guarantees that what is answered is in the store. Must not know how a process is started or a row is written.

Begin with `tenant`.
"""
