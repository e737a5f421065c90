"""Accepts connections: the unix socket and HTTP."""
