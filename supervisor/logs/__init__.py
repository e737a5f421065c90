"""Captures, stores, compresses, reads and forwards what workers print."""
