"""Accepts connections, on the unix socket and over HTTP, and hands their requests on.

Guarantees that every peer is identified before its first request is read (credentials and descent on the
socket, a bearer token and local names over HTTP), that connections, requests and streams are bounded, and that
the control socket answers when the daemon is out of descriptors.

Must not know the methods: the unix socket calls the table of `api`, HTTP the tools that it is given. Begin
with `unix`, then `http`, which is imported only where HTTP is on.
"""
