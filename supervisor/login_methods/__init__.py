"""Enters the methods about logins to remote MCP servers into the method table: start, finish, forget and list.

Guarantees nothing of its own: the table decides on rights and on the servers of a caller, and no answer has a token.
Must not keep a login: `supervisor.logins` does.

Begin with `login`.
"""
