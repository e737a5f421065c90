"""Decides what a caller whose token names agents may know: pure functions of its globs and of names.

None in place of the globs means that nothing is restricted, and no glob that nothing may be known. A name that is out of scope is answered as one that is not there, so that
nothing here says which of the two it is.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...worker.contract.access import RIGHTS, Rights


def lesser(one: Rights, other: Rights) -> Rights:
    """Returns the one of two rights that permits less."""
    return min(one, other, key=RIGHTS.index)


def is_in_scope(name: str, globs: Sequence[str] | None) -> bool:
    """Returns whether a caller with these globs may know an agent, server, team or workflow."""
    return globs is None or any(fnmatchcase(name, glob) for glob in globs)
