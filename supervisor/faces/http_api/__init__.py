"""Offers the method table over HTTP, below `/api/v1`, and describes it as an OpenAPI document.

Guarantees that each route is the method of the table with its params and nothing else: no route has a handler of its own.
The HTTP status of an error is that of its class, and follows from nothing else.

Must not know rooms below the table. Begin with `routes`, then `openapi`; neither needs aiohttp or a daemon.
"""
