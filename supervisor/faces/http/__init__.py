"""Serves HTTP: one listener whose faces lie under prefixes of the path, such as `/mcp` and `/api/v1`.

Guarantees that each request names a host that is served, comes from no foreign page, and brings a token, before
a face sees it; that connections, heads, bodies and streams are bounded in number, length and time; and that each
error has one answer, in JSON, with the status of its class.

Must not know the daemon: the faces, and the function that says what a token is worth, are given to the server by
`supervisor/daemon/composition/web.py`. It is imported only where HTTP is on. Begin with `face`, then `server`.
"""
