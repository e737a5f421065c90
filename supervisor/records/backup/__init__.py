"""Saves the running set and the state: the export as TOML, the archive of the state folder, and its restoration.

Guarantees that an export is what `corral add --file` takes, and has no value of a secret unless it was written as
plain text; that an archive holds all that was acknowledged before it was asked for; and that a state folder is the old or the restored one,
whole, whatever ends the process. It must not know transports. Begin with `export` and `archive`.
"""
