"""Refuses what would be kept for a tenant that keeps more than its `max_disk_bytes`."""

from corral.worker.contract.errors import ResourceLimitExceeded

from ..registry.tenants import Tenants
from .refusals import Refusals

KEY = "max_disk_bytes"


class DiskUse:
    """Holds how much each tenant was seen to keep on disk."""

    def __init__(self, tenants: Tenants, refusals: Refusals) -> None:
        self._tenants = tenants
        self._refusals = refusals
        self._used_bytes: dict[str, int] = {}
        self._file_bytes: dict[str, int] = {}

    def limit(self, tenant: str) -> int:
        """Returns the bytes that a tenant may keep; 0 without a limit."""
        found = self._tenants.find(tenant) if tenant else None
        return 0 if found is None else found.max_disk_bytes

    def limited(self) -> list[str]:
        """Returns the tenants with a limit."""
        return [name for name, each in self._tenants.all().items() if each.max_disk_bytes]

    def note(self, tenant: str, used_bytes: int, file_bytes: int) -> None:
        """Takes what a look has found: all that is kept, and the files that its processes wrote."""
        self._used_bytes[tenant] = used_bytes
        self._file_bytes[tenant] = file_bytes

    def files(self, tenant: str) -> int:
        """Returns the bytes of the files that processes of a tenant wrote, as of the last look."""
        return self._file_bytes.get(tenant, 0)

    def used(self, tenant: str) -> int:
        """Returns the bytes that a tenant kept at the last look; 0 before the first."""
        return self._used_bytes.get(tenant, 0)

    def check(self, tenant: str, agent: str, what: str) -> None:
        """Returns if more may be kept for a tenant; `what` is the thing that is to be done for `agent`."""
        limit = self.limit(tenant)
        used = self._used_bytes.get(tenant, 0) if limit else 0
        if not limit or used < limit:
            return
        text = f'the tenant "{tenant}" keeps {used} bytes on disk, and {KEY} is {limit}'
        self._refusals.note(tenant, KEY, limit, used, text, agent=agent)
        raise ResourceLimitExceeded(
            f'cannot {what} "{agent}": {text}', limit=KEY, value=limit, used=used, tenant=tenant, agent=agent
        )

    def forget(self, tenant: str) -> None:
        """Drops the figure of a tenant that is gone."""
        self._used_bytes.pop(tenant, None)
        self._file_bytes.pop(tenant, None)
