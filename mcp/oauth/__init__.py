"""Gets access tokens for remote MCP servers: the client side of the authorization of MCP.

Guarantees that a token, a code or a key goes only to the authorization server that it is for, that every answer of a peer
is bounded in size and time, and that each refusal has a typed reason. It must not know a daemon, nor where tokens are kept.

Begin with `flow`, which has the steps; `metadata` and `records` are pure. `program` is a process of its own,
in which a daemon runs one step.
"""
