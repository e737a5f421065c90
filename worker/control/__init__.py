"""Defines the params and results of the daemon's methods, as clients send and get them.

Guarantees that each is a typed Struct, so that the method table, OpenRPC, OpenAPI and the clients say the same. It
must not know any side: no method is called here.

Begin with `params` and `results`; `access` has the rights.
"""
