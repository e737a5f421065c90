"""Serves the methods of the table about the daemon, its tenants, its records and its state.

Each function takes its params as a Struct and returns a Struct, and asks the rooms below to do the work. Rights, scope, audit
and faces of a method are in its entry of the table, and are enforced before its function is called. Methods know no transport.
Begin with `daemon`.
"""
