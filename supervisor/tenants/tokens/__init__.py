"""Decides about access: tokens with rights, agents and an end, and the number of changes that a caller may make.

A token is kept as its SHA-256, in the daemon's store, and looked up in memory: a change counts from the next
request on. The method table (`api`) has the right that each call needs, and `transport` decides which peers of the socket
have rights by their uid. It knows no connection and no method.
"""
