"""Connects to one MCP server: handshake, lists, requests and subscriptions, over pipes or streamable HTTP.

Guarantees that every request ends with a result, a typed error that names the server, or Timeout, that messages of a
server reach only the caller they concern, and that one session works with all revisions of both eras. It must not know
a daemon, a pool or how a process is started.

Begin with `session`; `http_bridge` is a process of its own, which connects a remote server to pipes.
"""
