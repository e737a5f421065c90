"""Serves every method of the table: one module a group, one function a method.

Each function takes its params as a Struct and returns a Struct, and asks the rooms below to do the work: nothing is
decided here about processes or queues. Rights, scope, audit and faces of a method are in its entry of the table, and are
enforced before its function is called. Methods know no transport. Begin with `all`, which has the whole table,
then `task`.
"""
