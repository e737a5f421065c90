"""Accepts connections on the unix socket and hands their requests on.

Guarantees that every peer is identified by its credentials and its descent before its first request is read, that
connections and requests are bounded, and that the control socket answers when the daemon is out of descriptors.

Must not know the methods: it calls the table of the group `api`, and the tools of the room `mcp`. HTTP is the room `http`.
Begin with `unix`.
"""
