"""Keeps the history of what agents, MCP servers, teams and workflows were: one revision for each change of a table.

Guarantees that at most one revision of a name is current, that it is the table in force, that both change in one commit
of the store, and that numbers of a name only grow. Must not know what a table means, and changes no worker.

Begin with `revisions`; `revision_rows` has the statements, `record` decides.
"""
