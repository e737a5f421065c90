"""Finds tenants by name: the tables of the file, and what the store has of each.

The store has a record of a tenant that was added at run time, of one whose limits were set, that is suspended, or that
has a uid of its own. The keys that were set at run time win over those of the file. A tenant is known as long as the file or
the store has a table of it.
"""

import contextlib
import logging
import os
import pwd
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.declared.tenant import Tenant, decode_tenant, free_uid, uids_of
from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.records.store.sealed import seal, unseal
from corral.supervisor.records.store.store import Store
from corral.supervisor.workers.process.launch import TenantLimits
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    Corrupted,
    NotFound,
    PermissionDenied,
    ResourceLimitExceeded,
)
from corral.worker.contract.names import tenant_of

logger = logging.getLogger(__name__)


class Kept(Struct, frozen=True, kw_only=True):
    """Represents what the store has of a tenant.

    `added` is whether its table came at run time; else `table` has the keys that were set over those of the file.
    `uid` is the number of its own account, None before it got one. `created_at` is in Unix seconds. `runtime_id` is made
    once for each life of a tenant. `removing` means that a removal has begun, which a later daemon takes up.
    """

    added: bool = False
    table: dict[str, object] = {}
    suspended: bool = False
    uid: int | None = None
    created_at: float = 0.0
    runtime_id: str = ""
    removing: bool = False


class Tenants:
    """Holds the tenants of one daemon."""

    def __init__(self, store: Store, in_force: InForce) -> None:
        self._store = store
        self._in_force = in_force
        self._kept: dict[str, Kept] = {}
        self._found: dict[str, Tenant] = {}
        self._known_config: Config | None = None
        self._on_change: list[Callable[[str], None]] = []
        self._removals: set[str] = set()

    @contextlib.contextmanager
    def removal(self, name: str) -> Generator[None]:
        """Marks the removal of a tenant as under way: a second one could erase a tenant that is added after the first."""
        if name in self._removals:
            words = "its removal is under way"
            raise Conflict(f'cannot remove tenant "{name}": {words}', name=name, reason="removing")
        self._removals.add(name)
        try:
            yield
        finally:
            self._removals.discard(name)

    async def load(self) -> None:
        """Reads the records; a damaged one is logged, and its tenant suspended so that no limit of it is exceeded."""
        for name, blob in await self._store.read("SELECT name, record FROM tenant ORDER BY name"):
            assert isinstance(name, str), "the key is text"
            try:
                data = unseal(blob if isinstance(blob, bytes) else b"", f'tenant "{name}"')
                self._kept[name] = msgspec.json.decode(data, type=Kept)
            except (Corrupted, msgspec.MsgspecError) as error:
                logger.error('tenant "%s" is suspended: its record is damaged: %s', name, error)
                self._kept[name] = Kept(suspended=True)

    def subscribe(self, on_change: Callable[[str], None]) -> Callable[[], None]:
        """Subscribes `on_change` to the names of tenants whose record changed; returns the function that unsubscribes."""
        self._on_change.append(on_change)
        return partial(self._on_change.remove, on_change)

    # -- look-up

    def all(self) -> dict[str, Tenant]:
        """Returns the tenants by name, with the limits in force."""
        config = self._in_force.config
        if config is not self._known_config:
            self._found = self._laid_over(config)
            self._known_config = config
        return self._found

    def find(self, name: str, config: Config | None = None) -> Tenant | None:
        """Returns a tenant with the limits in force, or those under another configuration; None if there is none."""
        return (self.all() if config is None else self._laid_over(config)).get(name)

    def of(self, name: str) -> Tenant:
        """Returns a tenant."""
        found = self.find(name)
        if found is None:
            raise NotFound(f'cannot find tenant "{name}"', name=name, known=sorted(self.all()))
        return found

    def kept_names(self) -> list[str]:
        """Returns the names of the records that the store has, sorted; a name is there although the file has no table any more."""
        return sorted(self._kept)

    def kept(self, name: str) -> Kept:
        """Returns what the store has of a tenant, or an empty record."""
        return self._kept.get(name, Kept())

    def with_uid(self, uid: int) -> str:
        """Returns the tenant whose account this is; "" for none."""
        found = (name for name, kept in self._kept.items() if kept.uid == uid)
        return next(found, "") or next(self._with_user(uid), "")

    def _with_user(self, uid: int) -> Iterator[str]:
        wanted = {str(uid)}
        with suppress(KeyError):
            wanted.add(pwd.getpwuid(uid).pw_name)
        return (name for name, tenant in self.all().items() if tenant.user in wanted)

    def is_suspended(self, name: str) -> bool:
        """Returns whether a tenant may not work: it is suspended, being removed, or no table of it is left. "" is the owner."""
        if not name:
            return False
        kept = self.kept(name)
        return kept.suspended or kept.removing or self.find(name) is None

    def check_known(self, name: str) -> None:
        """Refuses the full name of something that is to be added where its tenant is not declared, or is being removed."""
        tenant = tenant_of(name)
        if not tenant:
            return
        if self.find(tenant) is None:
            words = f'there is no tenant "{tenant}"; "corral tenant add {tenant}" makes it'
            raise NotFound(f'cannot add "{name}": {words}', name=name, tenant=tenant)
        if self.kept(tenant).removing:
            words = f'the tenant "{tenant}" is being removed'
            raise Conflict(f'cannot add "{name}": {words}', name=name, reason="removing")

    def check_active(self, name: str, what: str) -> None:
        """Refuses work for the full name of an agent whose tenant is suspended; `what` is what cannot be done."""
        tenant = tenant_of(name)
        if tenant and self.is_suspended(tenant):
            raise PermissionDenied(
                f'cannot {what} "{name}": the tenant "{tenant}" is suspended',
                name=name,
                tenant=tenant,
                reason="suspended",
            )

    # -- changes

    def lacks_uid(self, name: str) -> bool:
        """Returns whether a tenant is to have a uid of the range, and has none."""
        if self._in_force.config.daemon.tenant_uids is None or self.of(name).user is not None:
            return False
        return self.kept(name).uid is None

    async def prepare(self, names: Iterable[str]) -> None:
        """Gives each tenant that has none the number of its life, and its uid if there is a range; it is on disk when this returns."""
        for name in names:
            tenant = self.find(name)
            kept = self.prepared(name, self.kept(name), tenant is None or tenant.user is None)
            if kept != self.kept(name):
                await self.keep(name, kept)

    def prepared(self, name: str, kept: Kept, needs_uid: bool) -> Kept:
        """Returns a record with the number of its life, and with a uid if it needs one and there is a range."""
        if not kept.runtime_id:
            began = kept.created_at or time.time()
            kept = replace(kept, runtime_id=secrets.token_hex(8), created_at=began)
        text = self._in_force.config.daemon.tenant_uids
        if kept.uid is not None or not needs_uid or text is None or os.getuid() != 0:
            return kept
        uids = uids_of(text)
        uid = free_uid(uids, {each.uid for each in self._kept.values() if each.uid})
        if uid is None:
            raise ResourceLimitExceeded(
                f'cannot give tenant "{name}" a uid: all {len(uids)} of tenant_uids are taken',
                limit="tenant_uids",
                value=len(uids),
            )
        return replace(kept, uid=uid)

    async def keep(self, name: str, kept: Kept) -> None:
        """Stores the record of a tenant; it is on disk when this returns."""
        record = seal(msgspec.json.encode(kept), compress=False)
        sql = (
            "INSERT INTO tenant (name, record) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET record = excluded.record"
        )
        await self._store.write((sql, (name, record)))
        self._kept[name] = kept
        self._changed(name)

    async def forget(self, name: str) -> None:
        """Removes the record of a tenant; that of the file, if there is one, is in force as it stands."""
        await self._store.write(("DELETE FROM tenant WHERE name = ?", (name,)))
        self._kept.pop(name, None)
        self._changed(name)

    def _changed(self, name: str) -> None:
        self._known_config = None
        for listener in list(self._on_change):
            listener(name)

    def _laid_over(self, config: Config) -> dict[str, Tenant]:
        found = dict(config.tenants)
        for name, kept in self._kept.items():
            base = config.tenants.get(name)
            if base is None and not kept.added:
                continue
            table = {**(base.written if base else {}), **kept.table}
            try:
                tenant = decode_tenant(name, table, config.tiers)
            except CorralError as error:  # its tier is gone, or a later version has other bounds
                logger.error('the limits of tenant "%s" are not in force: %s', name, error)
                tenant = base or Tenant(name=name)
            found[name] = replace(tenant, source=base.source if base else STORE)
        return found


def limits_in_kernel(tenant: Tenant | None) -> TenantLimits:
    """Returns the limits that a slice has: bytes of memory, percent of one core, processes; 0 is no limit."""
    if tenant is None:
        return 0, 0, 0
    return tenant.max_memory_bytes, tenant.cpu_limit_percent, tenant.max_processes
