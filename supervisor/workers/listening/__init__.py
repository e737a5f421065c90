"""Holds the listening sockets of agents, so that no connection is lost while their workers come and go.

The room guarantees that the socket of an address is the same kernel object for as long as its agent listens there, over
restarts, crashes, rolling changes and reloads: connections that no worker has accepted wait in its backlog. Any number of
lives of an agent can have it at the same time.

It decides nothing about when an agent listens; `activation` does. It knows specs and units, no agents.

Begin with `sockets`. `owner` finds out who else has an address, `connections` whether a worker still serves some.
"""
