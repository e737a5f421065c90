"""Defines a revision, its cause, and what is known of a name without reading its revisions."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

Kind: TypeAlias = Literal["agent", "mcp", "team", "workflow"]
How: TypeAlias = Literal["file", "add", "set", "reload", "rollback", "deploy"]
State: TypeAlias = Literal["rolling", "current", "superseded", "failed"]


class Cause(Struct, frozen=True):
    """Explains why a table changes: `how` it came, `by` which caller, `why` in its words, and from which package.

    `of` is the number of the revision that a rollback brings back.
    """

    how: How
    by: str
    why: str = ""
    package: str | None = None
    of: int | None = None


class Draft(Struct, frozen=True):
    """Represents a revision to be written.

    `is_stored` says that the table is kept in the store, as what is added at run time is, and not in the file alone;
    `base` is the fingerprint of the file's own table that it overrides, if it does. `is_settled` says that nothing has to
    come up for it: it is current at once.
    """

    name: str
    kind: Kind
    table: Mapping[str, object]
    cause: Cause
    is_stored: bool = True
    base: str | None = None
    is_settled: bool = False


class Revision(Struct, frozen=True, kw_only=True):
    """Represents one revision; times are seconds since 1970, `settled_at` is None while it is rolling."""

    name: str
    number: int
    kind: Kind
    state: State
    reason: str
    cause: Cause
    table: Mapping[str, object]
    is_stored: bool
    base: str | None
    at: float
    settled_at: float | None
    resumes: int = 0
    """Number of daemons that have taken it up again, after the one that began it."""


class Head(Struct, frozen=True):
    """Represents what is known of a name at all times: its last number, and which revisions are current and rolling."""

    last: int = 0
    current: int | None = None
    rolling: int | None = None
