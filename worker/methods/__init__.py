"""Defines every method that a client may call, once: name, right, params, result, and what each face needs to offer it.

The method table, HTTP, OpenAPI, OpenRPC, MCP, the clients, the reference pages and the completion are made from these
definitions; the daemon serves each by the function that `supervisor.api` registers for it. A definition knows no daemon.

Begin with `method`; `table` has all of them.
"""
