"""Defines params and results of the methods that export, import, and back up."""

from typing import Annotated

from msgspec import Meta, Struct

from ..contract.records import Error
from .params import Addition, Selector


class ExportParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects what is exported: all, or names, globs and labels, with the schedules of what they choose."""

    names: list[str] | None = None
    selector: Selector | None = None


class Exported(Struct, frozen=True, kw_only=True):
    """Represents an export: `toml` is its text, `names` what is in it, in order.

    `secrets` are the names of the secrets that it refers to. `hidden` are the variables that stand for values which the
    caller may not see.
    """

    toml: str
    names: list[str]
    secrets: list[str]
    hidden: list[str]


class ImportParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies agents, servers, teams, workflows and schedules to add: all are added, or none.

    The tables have the shape of those of the configuration file. `environment` has the values of `${NAME}` in those of
    teams and schedules; without it nothing is expanded. Relative paths of schedules are relative to `directory`.
    """

    agents: Annotated[list[Addition], Meta(max_length=10_000)] = []
    teams: dict[str, dict[str, object]] = {}
    workflows: dict[str, dict[str, object]] = {}
    schedules: dict[str, dict[str, object]] = {}
    start: bool = True
    wait: bool = True
    directory: str | None = None
    environment: dict[str, str] | None = None


class Imported(Struct, frozen=True, kw_only=True):
    """Represents what was added, by kind; `failures` has the agents that did not start, which are added all the same."""

    agents: list[str]
    teams: list[str]
    workflows: list[str]
    schedules: list[str]
    failures: dict[str, Error]


class BackupParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a backup: with the logs or without, with the secrets in plain text or without."""

    logs: bool = False
    secrets: bool = True


class BackupMade(Struct, frozen=True, kw_only=True):
    """Represents an archive that `backup.read` hands out, until it is discarded or no call was about it for 10 minutes.

    `size` and `sha256` are those of the archive, `content_bytes` the size of what is in it. `left` has the entries of the
    state folder that are not in it, with the reasons, but for those that are made anew by each daemon.
    """

    id: str
    size: int
    sha256: str
    files: int
    content_bytes: int
    created_at: str
    left: dict[str, str]
    duration_s: float


class BackupReadParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies the bytes of an archive from `offset` on."""

    id: str
    offset: Annotated[int, Meta(ge=0)] = 0


class BackupPiece(Struct, frozen=True, kw_only=True):
    """Represents a part of an archive: `data` is base64. `last` is true at the end."""

    data: str
    offset: int
    last: bool


class BackupDiscardParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names an archive."""

    id: str
