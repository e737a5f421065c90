"""Defines packages: the format of `.corral` files, how they are built, signed and read, and the store of a daemon.

A package is a canonical archive: its manifest determines each byte of it, up to the compression. A reader computes what has
to come next and compares, so that an archive by another tool, or a hostile one, is refused at its first different byte.
Guarantees that reading needs bounded time, memory and disk, and that a stored package is whole or not there.
The room does not know how a package is installed or deployed (`deployment` does).

Begin with `manifest`; `archive` reads and writes, `builder` makes one of a folder, `store` keeps those of a daemon.
"""
