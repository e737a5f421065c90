"""Decodes what users write to checked values, and keeps the secrets that it names.

May import: machine, mcp.pool.
Rooms, each importing only those before it: decoding, secrets, declared, spec.
Begin with `spec.spec` for the shapes, `spec.loader` for how a file becomes a Config.
"""
