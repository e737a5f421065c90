"""Gives each tenant the user and the folder of its processes, and applies the rules of `floor` at each start.

A folder is STATE_DIR/tenants/TENANT, of mode 0700. It belongs to the uid of the tenant where the daemon is root and
`[daemon] tenant_uids` or the `user` of the tenant says so, else to the user of all agents. The folder above it belongs to
the daemon, so that no tenant can put a link in the place of another's folder.
"""

import asyncio
import logging
import os
import pwd
from pathlib import Path

from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.process.launch import Order
from corral.worker.contract.errors import CorralError, SpawnFailed
from corral.worker.contract.names import tenant_of

from .floor import Identity, Standing, floored
from .tenants import Tenants, limits_in_kernel

FOLDER_MODE = 0o700

logger = logging.getLogger(__name__)


class Accounts:
    """Holds the accounts of the tenants of one daemon."""

    def __init__(self, tenants: Tenants, state_dir: Path, default_user: str | None) -> None:
        self._tenants = tenants
        self.root = state_dir / "tenants"
        self._default_user = default_user
        self._is_root = os.getuid() == 0

    async def prepare(self) -> None:
        """Gives each tenant its uid; one that can have none is logged, and starts nothing."""
        try:
            await self._tenants.prepare(self._tenants.all())
        except CorralError as error:
            logger.error("%s", error)

    def folder(self, name: str) -> Path:
        """Returns the folder of a tenant, which is there once a process of it was started."""
        return self.root / name

    def standing(self, name: str) -> Standing:
        """Returns what the processes of a tenant run as."""
        tenant, folder = self._tenants.of(name), str(self.folder(name))
        uid = self._tenants.kept(name).uid
        if not self._is_root:
            return Standing(tenant=name, folder=folder)
        if tenant.user is not None:
            return Standing(tenant=name, folder=folder, user=tenant.user)
        if uid is not None:
            return Standing(tenant=name, folder=folder, user=str(uid), identity=(uid, uid, [uid]))
        return Standing(tenant=name, folder=folder, user=self._default_user)

    def why_shared(self, name: str) -> str:
        """Returns why the processes of a tenant have no user of their own; "" where they have one."""
        if not self._is_root:
            return "the daemon is no root, so that all its processes have its own user"
        if self._tenants.of(name).user is not None or self._tenants.kept(name).uid is not None:
            return ""
        return "neither [daemon] tenant_uids nor the user of the tenant is set"

    async def given(self, order: Order) -> Order:
        """Gives what is a tenant's its user, its folder and the limits of the tenant: a launch step."""
        name = tenant_of(order.spec.name)
        if not name:
            return order
        spec, identity = await asyncio.to_thread(self.floor, order.spec)
        return order._replace(spec=spec, identity=identity, tenant_limits=limits_in_kernel(self._tenants.find(name)))

    def floor(self, spec: Spec) -> tuple[Spec, Identity | None]:
        """Returns the spec that a process is started with, and its identity where its user is a number alone.

        Makes the folder of its tenant, if it is not there; may block as long as the disk does.
        """
        name = tenant_of(spec.name)
        if not name:
            return spec, None
        if self._tenants.is_suspended(name):
            raise SpawnFailed(
                f'cannot start "{spec.name}": the tenant "{name}" is suspended',
                result="exec-failed",
                agent=spec.name,
                tenant=name,
                reason="suspended",
                retryable=False,
            )
        if self._is_root and self._tenants.lacks_uid(name):
            raise SpawnFailed(
                f'cannot start "{spec.name}": the tenant "{name}" has no uid of tenant_uids',
                result="exec-failed",
                agent=spec.name,
                tenant=name,
                limit="tenant_uids",
                retryable=True,
            )
        standing = self.standing(name)
        self._make_folder(spec, standing)
        return floored(spec, standing), standing.identity

    def _make_folder(self, spec: Spec, standing: Standing) -> None:
        try:
            self.root.mkdir(mode=FOLDER_MODE, exist_ok=True)
            if self._is_root:
                self.root.chmod(0o711)  # tenants pass through it to their own
            folder = Path(standing.folder)
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            owner = _owner(standing)
            found = folder.lstat()
            if owner is not None and (found.st_uid, found.st_gid) != owner:
                os.chown(folder, *owner, follow_symlinks=False)
        except (OSError, KeyError) as error:
            why = error.strerror if isinstance(error, OSError) else f"no such user: {error}"
            raise SpawnFailed(
                f'cannot start "{spec.name}": cannot make folder "{standing.folder}": {why}',
                result="exec-failed",
                agent=spec.name,
                path=standing.folder,
                retryable=isinstance(error, OSError),
            ) from None


def _owner(standing: Standing) -> tuple[int, int] | None:
    """Returns uid and gid of the folder; None where they are the daemon's own."""
    if standing.identity is not None:
        return standing.identity[:2]
    if standing.user is None:
        return None
    user = standing.user
    entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid
