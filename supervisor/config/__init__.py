"""Decodes what users write to checked values, and keeps the secrets that it names.

May import: machine, mcp.pool.
Rooms, each importing only those before it: decoding, secrets, declared, spec.
Begin with `decoding.keys`, how a key is defined once, then `spec.spec`, the keys, and `spec.loader`, how a file becomes a Config.
"""
