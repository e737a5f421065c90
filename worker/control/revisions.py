"""Defines the params and results of `revision.*` and `agent.rollback`: the history of tables.

Values of environments, headers and secrets are hidden in every result. Knows no method.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..contract.records import Seconds
from .params import Etag
from .results import Table

Number = Annotated[int, Meta(ge=1, le=2**53)]
"""A revision's number; of one name they only grow."""

Why = Annotated[str, Meta(max_length=1000)]
"""Text of the caller about a change."""


class RevisionListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names an agent, MCP server, team or workflow, also a removed one; `limit` revisions are returned at most."""

    name: str
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class RevisionShowParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names one revision; without a number the current one."""

    name: str
    revision: Number | None = None


class RevisionDiffParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names the revisions to compare: `after` is the current one unless it is given, `before` the one in force before it."""

    name: str
    before: Number | None = None
    after: Number | None = None


class RollbackParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names the revision whose table is to be in force again; without a number the one that was current before.

    `version` names it by the version of its package instead. With `expected` it is refused unless the present table has that
    `etag` still. `dry_run` returns the keys that would differ, and changes nothing. With `wait` the call waits until the change is
    in force or taken back, at most `timeout_s`.
    """

    name: str
    revision: Number | None = None
    version: Annotated[str, Meta(max_length=100)] | None = None
    why: Why = ""
    expected: Etag | None = None
    dry_run: bool = False
    wait: bool = False
    timeout_s: Seconds | None = None


class Revision(Struct, frozen=True, kw_only=True):
    """Represents one revision without its table.

    `reason` says why it failed, or that its name was removed; `by` is a token, an agent, a user, or `file`; `of` is the
    revision that a rollback brought back. Times are RFC 3339, UTC; `settled_at` is null while it is rolling.
    """

    name: str
    revision: int
    kind: Literal["agent", "mcp", "team", "workflow"]
    state: Literal["rolling", "current", "superseded", "failed"]
    reason: str
    how: Literal["file", "add", "set", "reload", "rollback", "deploy"]
    by: str
    why: str
    package: str | None
    of: int | None
    at: str
    settled_at: str | None


class Revisions(Struct, frozen=True, kw_only=True):
    """Represents the result of `revision.list`, the newest first."""

    revisions: list[Revision]


class RevisionShown(Struct, frozen=True, kw_only=True):
    """Represents the result of `revision.show`."""

    revision: Revision
    spec: Table


class KeyChange(Struct, frozen=True, kw_only=True):
    """Represents one key that differs, such as `tasks.max_attempts`; a value is null where the table has no such key."""

    key: str
    before: object
    after: object


class RevisionDiff(Struct, frozen=True, kw_only=True):
    """Represents the result of `revision.diff`; `before` is null where there was no revision before."""

    name: str
    before: int | None
    after: int
    changes: list[KeyChange]


class RolledBack(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.rollback`.

    `revision` is the new revision, null where nothing had to change; `of` is the one whose table is in force again;
    `changed` are the keys whose values differ from before. While `rolling`, new workers are brought up, and the former table is
    in force.
    """

    name: str
    revision: int | None
    of: int
    changed: list[str]
    etag: str
    rolling: bool = False
