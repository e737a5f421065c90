"""Finds the mounts by which paths of the machine exist in a file system of its own.

A path may lead through symbolic links, which are not there unless they are made: each link on the way becomes one, and
the file or folder at its end a mount at its real path. It reads links, and may block as long as their disk does.
"""

import os
from collections.abc import Iterable, Iterator

from .levels import Mount

HOPS = 40
"""Number of symbolic links that the kernel follows in one path, see path_resolution(7)."""


def visible(paths: Iterable[str], *, is_writable: bool = False) -> tuple[Mount, ...]:
    """Returns the mounts and links that make `paths` visible; one that begins with "-" may be missing."""
    found: dict[Mount, None] = {}
    for path in paths:
        is_optional, path = path.startswith("-"), path.removeprefix("-")
        for mount in _of(path, is_writable, is_optional):
            found[mount] = None
    return tuple(found)


def _of(path: str, is_writable: bool, is_optional: bool) -> Iterator[Mount]:
    """Yields the links on the way of one path, and the mount of its end."""
    waiting = [part for part in path.split("/") if part not in ("", ".")][::-1]
    here: str = ""
    hops = 0
    while waiting:
        part: str = waiting.pop()
        if part == "..":
            here = os.path.dirname(here) if here else ""
            continue
        here = f"{here.rstrip('/')}/{part}"
        try:
            target: str = os.readlink(here)
        except OSError:
            continue  # no link, or nothing that can be looked at: the mount says why
        hops += 1
        if hops > HOPS:
            break
        yield Mount(here, None, target=target)
        waiting += [part for part in target.split("/") if part not in ("", ".")][::-1]
        here = "" if target.startswith("/") else os.path.dirname(here)
    here = here or "/"
    if not is_optional or os.path.lexists(here):
        yield Mount(here, here, is_writable, is_optional)
