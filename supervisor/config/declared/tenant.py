"""Decodes `[tenants.NAME]` over the defaults of its tier, `[tiers.NAME]`, and the range of uids that tenants are given.

A limit of 0 is none. A key that the table of a tenant has wins over that of its tier. Errors name file, key, value and
reason. Whether a user exists is checked where a process is started.
"""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from corral.worker.contract.names import FULL, LOCAL, is_tenant_name

from ..decoding.decoder import STORE, Document, KeyPath
from ..decoding.keys import Fields, fields_of
from ..decoding.shapes import accepts
from ..decoding.values import Refused, duration, is_table, matching, size, whole

LEAST_UID = 1000
"""Number of the least uid of a range: those below it are the system's."""
MOST_UID = 4_294_967_293
"""Number of the greatest uid: the two above it mean nobody, see setresuid(2)."""
RANGE_MAX = 1_000_000
"""Number of uids in a range at most."""

RANGE = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")


@accepts('"FIRST-LAST"', {"type": "string", "pattern": f"^{RANGE.pattern}$"})
def uid_range(raw: object) -> str:
    """Decodes a range of uids, "FIRST-LAST"."""
    found = RANGE.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise Refused('write a range of uids such as "1900000000-1900065535"')
    first, last = map(int, found.groups())
    if not LEAST_UID <= first <= last <= MOST_UID:
        raise Refused(f"a range begins at {LEAST_UID} or above, and ends at {MOST_UID} or below")
    if last - first >= RANGE_MAX:
        raise Refused(f"a range has at most {RANGE_MAX} uids")
    return found.group()


def uids_of(text: str) -> range:
    """Returns the numbers of a range that `uid_range` has accepted."""
    first, last = text.split("-")
    return range(int(first), int(last) + 1)


def free_uid(uids: range, taken: Collection[int]) -> int | None:
    """Returns the least uid of a range that is not taken; None if all are."""
    return next((uid for uid in uids if uid not in taken), None)


Count = Annotated[int, whole(0, 1_000_000_000)]
Bytes = Annotated[int, size]
a_tier = matching(LOCAL, "the name of a tier")
a_pool = matching(FULL, "the name of a pool")
a_user = matching(r"[^\x00-\x20/:]{1,64}", "the name or the number of a user, as a string")


class Limits(Struct, frozen=True, kw_only=True):
    """Holds `[tiers.NAME]`: the limits of a tenant, for all its agents together; 0 is no limit."""

    max_agents: Count = 0
    """Agents and MCP servers, and workers of them that run at once."""
    max_processes: Count = 0
    """Processes of all its workers; with the pids controller processes and threads, and the kernel refuses forks beyond
    it."""
    max_memory_bytes: Bytes = 0
    """Memory of all its process trees; with the memory controller the kernel ends one worker when it is used up."""
    cpu_limit_percent: Annotated[int, whole(0, 1_000_000)] = 0
    """100 is one core; with the cpu controller the kernel holds the share of all its workers together."""
    max_disk_bytes: Bytes = 0
    """What it keeps: its folder, its logs and its rows in the store."""
    max_tasks_per_minute: Count = 0
    """Tasks that may be submitted within a minute."""
    max_queue_size: Count = 0
    """Tasks that may wait."""
    max_task_duration: Annotated[float, duration] = 0.0
    """The longest task."""
    max_tokens_per_minute: Count = 0
    """Tokens that its agents report within a minute."""
    max_cost_cents_per_day: Count = 0
    """Cost that its agents report within a day."""


class Tenant(Limits, frozen=True, kw_only=True):
    """`[tenants.NAME]`: a tenant with its limits, those of its `tier` among them; `source` is where its table came from.

    `user` is the account of its processes, None for a uid of its own. `written` has the keys of its own table.
    """

    name: str
    source: str = STORE
    tier: Annotated[str, a_tier] | None = None
    """The `[tiers.NAME]` with its defaults."""
    user: Annotated[str, a_user] | None = None
    """The user of its processes; by default a user number of its own, where the daemon may give one."""
    pool: Annotated[str, a_pool] | None = None
    """The `[pools.NAME]` of its agents that name none."""
    written: dict[str, object] = {}

    @property
    def limits(self) -> dict[str, int | float]:
        """Returns the limits that are set, by key."""
        found = {key: getattr(self, key) for key in TIER_KEYS}
        return {key: value for key, value in found.items() if value}


TIER_KEYS: Fields = fields_of(Limits)
TENANT_KEYS: Fields = fields_of(Tenant)


def decode_tiers(document: Document, tables: Mapping[str, object]) -> dict[str, Limits]:
    """Returns the tiers of a file; refused tables are noted, and left out."""
    found, _ = document.decode_named(
        "tiers", tables, lambda path, _, table: Limits(**document.decode(path, table, TIER_KEYS))
    )
    return found


def decode_tenants(
    document: Document, tables: Mapping[str, object], tiers: Mapping[str, Limits], known_tiers: Collection[str] = ()
) -> dict[str, Tenant]:
    """Returns the tenants of a file; refused tables are noted, and left out. `known_tiers` may have refused tables."""
    found, _ = document.decode_named(
        "tenants", tables, lambda _, name, table: _tenant(document, name, table, tiers, known_tiers)
    )
    return found


def decode_tenant(
    name: str, table: Mapping[str, object], tiers: Mapping[str, Limits], *, source: str = STORE
) -> Tenant:
    """Decodes one tenant from a table of the same shape as `[tenants.NAME]`."""
    document = Document(source, "")
    found: Tenant | None = None
    with document.collecting():
        found = _tenant(document, name, table, tiers, tiers)
    document.check()
    assert found is not None, "a table that is not decoded has a mistake"
    return found


def _tenant(
    document: Document, name: str, table: object, tiers: Mapping[str, Limits], known_tiers: Collection[str]
) -> Tenant:
    path: KeyPath = ("tenants", name)
    if not is_tenant_name(name):
        reason = "a tenant's name has 1 to 32 small letters, digits and -, and starts with a letter"
        raise document.error(path, name, reason)
    own: dict[str, Any] = document.decode(path, table, TENANT_KEYS)
    tier = own.get("tier")
    if tier is not None and tier not in tiers and tier not in known_tiers:
        raise document.error((*path, "tier"), tier, f"no tier has this name: write [tiers.{tier}]")
    defaults = msgspec.structs.asdict(tiers.get(tier or "", Limits()))
    written: dict[str, object] = dict(table) if is_table(table) else {}
    return Tenant(**{**defaults, **own}, name=name, source=document.part_of(path).source, written=written)
