"""Serves agents over A2A 1.0, the Agent2Agent protocol: a card, JSON-RPC, and HTTP with JSON, with server-sent events.

Guarantees that each request is calls of the method table with the rights of its token, so that a task of A2A is a task like
any other: queued, limited, stored, audited. Must not know how a task is run, nor sockets.

Begin with `messages` (pure: the two forms of a task), then `operations` (the calls), `bindings` (how they are said) and `face`.
"""
