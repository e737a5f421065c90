"""Keeps the record of each deployment in the store and in memory, and publishes each of its steps.

The first record and the last are on disk when their call returns; steps between them may be lost with the daemon.
"""

import logging
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.store.sealed import seal, unseal
from corral.supervisor.records.store.store import Statement, Store
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract.errors import CorralError, Corrupted, NotFound
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Error, copied
from corral.worker.control.deployments import CheckState, Deployment, DeploymentCheck

KEPT_PER_AGENT = 50
"""Number of deployments that are kept of each agent."""

PUT = (
    "INSERT INTO deployment (number, agent, digest, record) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (number) DO UPDATE SET record = excluded.record"
)
TRIM = (
    "DELETE FROM deployment WHERE agent = ? AND number <= (SELECT number FROM deployment"
    " WHERE agent = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"
)

logger = logging.getLogger(__name__)


class Records:
    """Holds the records of all deployments, oldest first."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._records: dict[int, Deployment] = {}
        self._last = 0

    async def load(self) -> None:
        """Reads the records; a damaged one is left out, and logged."""
        rows = await self._store.read("SELECT number, record FROM deployment ORDER BY number")
        for number, blob in rows:
            self._last = max(self._last, number if isinstance(number, int) else 0)
            try:
                data = unseal(blob if isinstance(blob, bytes) else b"", f"deployment {number}")
                record = msgspec.json.decode(data, type=Deployment)
            except (Corrupted, msgspec.MsgspecError) as error:
                logger.error("cannot use deployment %s: its record is damaged: %s", number, error)
                continue
            self._records[record.deployment] = record

    def next_number(self) -> int:
        """Returns a number that no deployment has had."""
        self._last += 1
        return self._last

    def where(self, test: Callable[[Deployment], bool]) -> list[Deployment]:
        """Returns the records that pass a test, oldest first."""
        return [record for record in self._records.values() if test(record)]

    def of(self, number: int) -> Deployment:
        """Returns one record."""
        record = self._records.get(number)
        if record is None:
            raise NotFound(f"cannot find deployment {number}", deployment=number)
        return record

    async def lock_of(self, digest: str, tenant: str = "") -> str:
        """Returns the lock of the last version with these bytes that an owner has installed; "" if there is none.

        A lock is written by programs of the packages in it: that of one owner is no other's.
        """
        rows = await self._store.read(
            "SELECT lock FROM deployment WHERE digest = ? AND lock IS NOT NULL"
            " AND substr(agent, 1, instr(agent, '/')) = ?"
            " ORDER BY number DESC LIMIT 1",
            (digest, f"{tenant}/" if tenant else ""),
        )
        return str(rows[0][0]) if rows else ""

    def forget(self, tenant: str) -> None:
        """Drops the records of a tenant."""
        self._records = {
            number: record for number, record in self._records.items() if tenant_of(record.agent) != tenant
        }

    async def put(self, record: Deployment, *, lock: str = "") -> Deployment:
        """Keeps a record, durably, and publishes it; the oldest of its agent go beyond the bound."""
        statements = [_put(record)]
        if lock:
            statements.append(("UPDATE deployment SET lock = ? WHERE number = ?", (lock, record.deployment)))
        await self._store.write(*statements, (TRIM, (record.agent, record.agent, KEPT_PER_AGENT)))
        self._keep(record)
        ours = [r.deployment for r in self._records.values() if r.agent == record.agent]
        for number in ours[:-KEPT_PER_AGENT]:
            del self._records[number]
        return record

    def note(self, record: Deployment) -> Deployment:
        """Keeps a record for now, and publishes it."""
        self._store.post(_put(record))
        return self._keep(record)

    def check(self, record: Deployment, name: str, state: CheckState, message: str = "") -> Deployment:
        """Notes the result of a check."""
        found = DeploymentCheck(name=name, state=state, message=message)
        return self.note(replace(record, checks=[*record.checks, found]))

    async def fail(self, number: int, error: CorralError) -> Deployment:
        """Keeps the failure of a deployment; one that the store refuses is written by the next daemon."""
        record = replace(self.of(number), state="failed", error=Error.of(error), finished_at=utc_now())
        try:
            return await self.put(record)
        except CorralError as refused:
            logger.error("cannot keep the end of deployment %d: %s", number, refused)
            return self._keep(record)

    def _keep(self, record: Deployment) -> Deployment:
        before = self._records.get(record.deployment)
        self._records[record.deployment] = record
        if before is None or (before.state, before.step) != (record.state, record.step):
            self._bus.publish(
                "deployment.state",
                **copied(record, "agent deployment package version state step"),
                reason="" if record.error is None else record.error.message,
            )
        return record


def _put(record: Deployment) -> Statement:
    sealed = seal(msgspec.json.encode(record), compress=True)
    return (PUT, (record.deployment, record.agent, record.digest, sealed))
