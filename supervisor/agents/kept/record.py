"""Defines a revision and its cause, and decides how the history of one name goes on: values in, values out."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from corral.worker.contract import codec

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


DAEMON_ENDED = "the daemon ended"
"""Text of the reason of a revision that had not come up when the daemon ended."""

RESUMES_MAX = 2
"""Number of daemons that take up one revision again: a table that ends its daemon must not do so for ever."""

REMOVED = "removed"
"""Text of the reason of the last revision of a name that was removed."""

BY_FILE = "file"
"""Text that names the configuration file as the one who made a change."""


class InForce(NamedTuple):
    """Represents a table that the daemon has at its start, from the file or from the store."""

    name: str
    kind: Kind
    table: Mapping[str, object]
    is_stored: bool
    base: str | None = None


class Alignment(NamedTuple):
    """Describes what becomes of the open revisions of a name at the start of a daemon.

    `current` is the number that is current then, unless `draft` has to be written; `succeeded` is the one that was rolling.
    `resumed` was rolling, too, and goes on: its workers are brought up again.
    """

    current: int | None = None
    resumed: Revision | None = None
    succeeded: Revision | None = None
    failed: tuple[Revision, ...] = ()
    draft: Draft | None = None


def given_up(by: int) -> str:
    """Returns the reason of a revision that was still rolling when revision `by` was made."""
    return f"revision {by} was made before it had come up"


def recorded(head: Head, number: int, *, is_settled: bool) -> Head:
    """Returns the head after revision `number` was written; one that was rolling is given up by it."""
    last = max(head.last, number)
    return Head(last, number) if is_settled else Head(last, head.current, number)


def taken_back(head: Head, number: int, former: Head) -> Head:
    """Returns the head after revision `number` could not be written; its number is not given again."""
    current = former.current if head.current == number else head.current
    return Head(head.last, current, former.rolling if head.rolling in (number, None) else head.rolling)


def settled(head: Head, number: int, succeeded: bool) -> Head | None:
    """Returns the head after the end of a rolling revision; None where `number` is not rolling any more."""
    if head.rolling != number:
        return None
    return Head(head.last, number if succeeded else head.current)


def removed(head: Head) -> Head:
    """Returns the head after the name was removed: it counts on from there when it is added again."""
    return Head(head.last)


def aligned(opened: Sequence[Revision], present: InForce | None) -> Alignment:
    """Returns what becomes of the current and the rolling revision of a name whose table in force is `present`."""
    current = next((each for each in opened if each.state == "current"), None)
    rolling = [each for each in opened if each.state == "rolling"]
    if present is None:
        return Alignment(failed=tuple(rolling))
    fits = next((each for each in rolling if _is_same(each, present)), None)
    failed = tuple(each for each in rolling if each is not fits)
    if fits is not None:
        return Alignment(fits.number, succeeded=fits, failed=failed)
    if current is not None and _is_same(current, present):
        resumed = next((each for each in rolling if is_resumed(each)), None)
        return Alignment(current.number, resumed, failed=tuple(each for each in failed if each is not resumed))
    cause = Cause("add", "") if present.is_stored else Cause("file", BY_FILE)
    name, kind, table, is_stored, base = present
    return Alignment(failed=failed, draft=Draft(name, kind, table, cause, is_stored, base, is_settled=True))


def is_resumed(rolling: Revision) -> bool:
    """Returns whether a revision that was rolling when a daemon ended is taken up by the next one.

    That is one that a caller was told of. One of the file is in force at the start, without a roll; a deployment that had
    not proved itself is not tried again.
    """
    return rolling.cause.how in ("add", "set", "rollback") and rolling.resumes < RESUMES_MAX


def _is_same(revision: Revision, present: InForce) -> bool:
    """Returns whether a revision has the table in force, kept where it is; tables are compared as JSON."""
    is_same_place = (revision.is_stored, revision.base) == (present.is_stored, present.base)
    return is_same_place and revision.kind == present.kind and same(revision.table, present.table)


def same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Returns whether two tables are equal as JSON."""
    return codec.decode(codec.encode(dict(one))) == codec.decode(codec.encode(dict(other)))
