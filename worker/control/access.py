"""Defines the params and results of `token.*` and `auth.*`: tokens with their rights and agents, and the identity of a caller.

The text of a token is in one result alone, that of the call that made it. It must not know how tokens are kept.
"""

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from ..contract.names import FULL, TENANT

Rights = Literal["read", "operate", "admin"]

RIGHTS: tuple[Rights, ...] = get_args(Rights)
"""Each includes those before it."""


def permits(held: Rights, needed: Rights) -> bool:
    """Returns whether a right includes another."""
    return RIGHTS.index(held) >= RIGHTS.index(needed)


TokenName = Annotated[str, Meta(pattern=f"^{FULL}$")]
TenantName = Annotated[str, Meta(pattern=f"^{TENANT}$")]
Globs = Annotated[list[Annotated[str, Meta(min_length=1, max_length=100)]], Meta(min_length=1, max_length=100)]
Lifetime = Annotated[float, Meta(ge=1, le=3_153_600_000)]
Overlap = Annotated[float, Meta(ge=0, le=2_592_000)]


class TokenAddParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a new token: its rights, for agents that match one of the globs `agents` (all where it is null), for `expires_s` seconds or without end.

    With `tenant` it is one of that tenant, `TENANT/NAME`, and its agents are those of the tenant.
    """

    name: TokenName
    rights: Rights
    agents: Globs | None = None
    expires_s: Lifetime | None = None
    tenant: TenantName | None = None


class TokenNameParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a token."""

    name: str


class TokenRotateParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a token; its text before is valid for `overlap_s` seconds more. `expires_s` sets a new end, else it keeps its own."""

    name: str
    overlap_s: Overlap = 0
    expires_s: Lifetime | None = None


class LoginParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Gives the token, the tenant, or both, that restrict this connection."""

    token: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    tenant: TenantName | None = None


class TokenRecord(Struct, frozen=True, kw_only=True):
    """Represents a token without its text: times in UTC, null for one that never was or never will be.

    `agents` are globs, null for all. `tenant` is null for a token of the owner. `created_by` is the caller as the audit names it; `last_used` is exact to a minute. `expired` is true once `expires_at` is over.
    """

    name: str
    rights: Rights
    agents: list[str] | None = None
    created_at: str = ""
    created_by: str = ""
    expires_at: str | None = None
    last_used: str | None = None
    expired: bool = False
    tenant: str | None = None


class NewToken(TokenRecord, frozen=True, kw_only=True):
    """Represents a token with its text, which is shown once."""

    token: str


class TokenList(Struct, frozen=True):
    """Lists tokens by name."""

    tokens: list[TokenRecord]


class TokenRemoved(Struct, frozen=True):
    """Names the tokens that are no longer valid."""

    removed: list[str]


class Whoami(Struct, frozen=True, kw_only=True):
    """Describes the caller: its token or its process, its rights, its agents (globs, null for all), its tenant, and the face it came through."""

    name: str
    rights: Rights
    agents: list[str] | None = None
    via: Literal["socket", "http"] = "socket"
    token: str | None = None
    tenant: str | None = None
    node: str | None = None
    """Of the cluster that the daemon has joined."""
