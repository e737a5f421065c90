"""Decides whether a tenant may submit one more task, and with which limits it runs."""

import math
from collections.abc import Callable

from corral.worker.contract.errors import Overloaded

from ..registry.tenants import Tenants
from .room import DiskUse, Refusals
from .spending import NO_TASKS, Spending

RETRY_S = 0.1
"""Seconds, the least after which a refused caller is told to retry."""


class TaskLimits:
    """Holds each tenant of one daemon to its limits of tasks.

    The owner, the tenant "", has none. `now` is in seconds of a clock that never goes back.
    """

    def __init__(self, tenants: Tenants, refusals: Refusals, disk: DiskUse | None = None) -> None:
        self._tenants = tenants
        self._disk = disk
        self.refusals = refusals
        self._submitted: dict[str, Spending] = {}

    @property
    def has_tenants(self) -> bool:
        """Returns whether the owner shares the daemon with a tenant."""
        return bool(self._tenants.all())

    def check(
        self, tenant: str, agent: str, waiting: int, now: float | None, *, retry_after_s: Callable[[], float]
    ) -> None:
        """Returns if a tenant with `waiting` tasks may submit one more."""
        found = self._tenants.find(tenant) if tenant else None
        if found is None:
            return
        if self._disk is not None:
            self._disk.check(tenant, agent, "take a task for")
        limit = found.max_queue_size
        if limit and waiting >= limit:
            self._refuse(tenant, agent, "max_queue_size", limit, waiting, retry_after_s())
        limit, submitted = found.max_tasks_per_minute, self._submitted.get(tenant)
        if limit and submitted is not None and now is not None:
            wait_s = submitted.wait_s(limit, now)
            if wait_s > 0:
                self._refuse(tenant, agent, "max_tasks_per_minute", limit, int(submitted.used(now)), wait_s)

    def _refuse(self, tenant: str, agent: str, key: str, limit: int, used: int, wait_s: float) -> None:
        text = f'the tenant "{tenant}" has used {used} of {key} = {limit}'
        self.refusals.note(tenant, key, limit, used, text, agent=agent)
        raise Overloaded(
            f'cannot take a task for "{agent}": {text}',
            limit=key,
            value=limit,
            used=used,
            tenant=tenant,
            agent=agent,
            retry_after_s=math.ceil(max(wait_s, RETRY_S) * 1000 + 1) / 1000,
        )

    def note(self, tenant: str, now: float) -> None:
        """Counts a task of a tenant that has a limit per minute."""
        found = self._tenants.find(tenant) if tenant else None
        if found is not None and found.max_tasks_per_minute:
            self._submitted[tenant] = self._submitted.get(tenant, NO_TASKS).plus(1, now)

    def submitted(self, tenant: str, now: float) -> int:
        """Returns the number of tasks that a tenant submitted within the last minute."""
        return int(self._submitted.get(tenant, NO_TASKS).used(now))

    def longest_s(self, tenant: str) -> float:
        """Returns the seconds of the longest task of a tenant; 0 without a limit."""
        found = self._tenants.find(tenant) if tenant else None
        return 0.0 if found is None else found.max_task_duration

    def budget(self, tenant: str) -> tuple[int, int]:
        """Returns the tokens of a minute and the cents of a day of all agents of a tenant; 0 is no limit."""
        found = self._tenants.find(tenant) if tenant else None
        return (0, 0) if found is None else (found.max_tokens_per_minute, found.max_cost_cents_per_day)

    def forget(self, tenant: str) -> None:
        """Drops what was counted of a tenant that is gone."""
        self._submitted.pop(tenant, None)
        self.refusals.forget(tenant)
