"""Defines the params and results of `tenant.*`: tenants with their limits, and what keeps each apart from the others.

It must not know how tenants are kept.
"""

from typing import Annotated

from msgspec import Meta, Struct

from ..contract.names import TENANT

TenantName = Annotated[str, Meta(pattern=f"^{TENANT}$")]


class TenantAddParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Specifies a tenant by its table in `spec`, with the keys of `[tenants.NAME]`; with `new` it must not be there yet."""

    name: TenantName
    spec: dict[str, object] = {}
    new: bool = False


class TenantSetParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Gives new values to keys of the table of a tenant; null takes a key out."""

    name: str
    spec: dict[str, object]


class TenantNameParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a tenant."""

    name: str


class TenantShowParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a tenant; a caller that is bound to one may leave its name out."""

    name: str | None = None


class Layer(Struct, frozen=True):
    """Describes one layer that keeps the processes of a tenant apart; `detail` has the value, or the reason for its lack."""

    name: str
    in_force: bool
    detail: str = ""


class TenantRecord(Struct, frozen=True, kw_only=True):
    """Represents a tenant.

    `runtime_id` is the same for as long as the tenant is there, and never comes again. `uid` is null where its processes have
    no user of their own. `limits` are those in force, with the defaults of the tier, by key; a key that is absent is no limit.
    `folder` is the folder of its agents. `agents`, `servers` and `workers` are counts, of workers those that have a process.
    `source` is the file that has its table, or `store`.
    """

    name: str
    runtime_id: str
    source: str
    suspended: bool = False
    tier: str | None = None
    user: str | None = None
    uid: int | None = None
    pool: str | None = None
    folder: str | None = None
    created_at: str | None = None
    limits: dict[str, int | float] = {}
    agents: int = 0
    servers: int = 0
    workers: int = 0


class TenantShown(Struct, frozen=True, kw_only=True):
    """Represents a tenant in full: the names of all that it has, and the layers between its processes and others'."""

    tenant: TenantRecord
    spec: dict[str, object] = {}
    agents: list[str] = []
    servers: list[str] = []
    groups: list[str] = []
    layers: list[Layer] = []


class TenantAdded(Struct, frozen=True, kw_only=True):
    """Represents a tenant that is there now: `created` is true if it was not before, `restarted` names agents that had given up."""

    tenant: TenantRecord
    created: bool
    restarted: list[str] = []


class TenantChanged(Struct, frozen=True, kw_only=True):
    """Represents a tenant that was changed, with the keys that differ."""

    tenant: TenantRecord
    keys: list[str] = []


class TenantSwitched(Struct, frozen=True, kw_only=True):
    """Represents a tenant that was suspended or resumed, with the workers that were stopped or started for it."""

    tenant: TenantRecord
    workers: list[str] = []


class Tenants(Struct, frozen=True):
    """Lists tenants by name."""

    tenants: list[TenantRecord]


class TenantRemoved(Struct, frozen=True, kw_only=True):
    """Names the tenant that is gone, with the counts of what was erased, by kind."""

    removed: list[str]
    erased: dict[str, int] = {}
