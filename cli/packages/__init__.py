"""Implements the commands about packages: they are built and signed here, and handed to the daemon in chunks.

Building needs no daemon. Files and addresses are read by the command, as the user that runs it: the daemon fetches nothing.

Begin with `package`.
"""
