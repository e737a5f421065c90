"""Encodes and decodes the Model Context Protocol, for both eras of its revisions.

Guarantees that invalid data of a server becomes a typed error or is left out, and that exposed names are unique and
independent of the order of listing. Values in, values out: it must not know a connection, a process or a clock. The
specification is https://modelcontextprotocol.io/specification.

Begin with `messages`; `catalog` is the listing of a server and the access to it, `caller` the origin of a request.
"""
