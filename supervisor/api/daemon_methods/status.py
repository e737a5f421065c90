"""Serves `daemon.status`, `daemon.follow`, `statistics.show` and `quota.list`."""

import time
from typing import TYPE_CHECKING

import msgspec

from corral.supervisor.tenants.tokens.scope import is_in_scope
from corral.worker.contract.records import Statistics, Status
from corral.worker.control.params import NoParams, StatisticsParams, StatusParams
from corral.worker.control.results import Done, QuotaList
from corral.worker.methods.daemon import DAEMON_FOLLOW, DAEMON_STATUS, QUOTA_LIST, STATISTICS_SHOW

from ..table.caller import Caller
from ..table.handlers import serve
from ..table.results import as_result
from ..table.tenant_view import own_statistics

if TYPE_CHECKING:
    pass
from corral.supervisor.agents.membership.agents import Agents

from ..metrics.statistics import Statistics as Counts
from ..table.quotas import Quotas
from ..table.status import StatusReport
from ..table.status_cache import StatusCache
from ..table.status_feed import StatusFeed


class StatusMethods:
    """Serves status, statistics and quotas."""

    def __init__(
        self,
        agents: Agents,
        status: StatusReport,
        status_cache: StatusCache,
        status_feed: StatusFeed,
        statistics: Counts,
        quotas: Quotas,
    ) -> None:
        self._agents = agents
        self._status = status
        self._status_cache = status_cache
        self._status_feed = status_feed
        self._statistics = statistics
        self._quotas = quotas

    @serve(DAEMON_STATUS)
    async def _daemon_status(self, params: StatusParams, caller: Caller) -> Status | msgspec.Raw:
        if params == StatusParams():
            return self._status_cache.status()
        names = self._chosen(params)
        if caller.tenant:
            return self._status.own(names or [], failed=params.failed)
        return self._status.status(names, failed=params.failed)

    @serve(DAEMON_FOLLOW)
    async def _daemon_follow(self, _params: NoParams, caller: Caller) -> Done:
        def whole() -> Status | msgspec.Raw:
            if caller.agents is None:
                return self._status_cache.status()
            known = [*self._agents.agents, *self._agents.groups.by_name]
            own = [each for each in known if is_in_scope(each, caller.agents)]
            return self._status.own(own) if caller.tenant else self._status.status(own)

        caller.follow(self._status_feed.run(caller, whole))
        return Done()

    def _chosen(self, params: StatusParams | StatisticsParams) -> list[str] | None:
        """Returns the names that the params choose; None for all."""
        if params.names is None and params.selector is None:
            return None
        return self._agents.registry.chosen(params.names or [], params.selector, groups=True)

    @serve(STATISTICS_SHOW)
    async def _statistics_show(self, params: StatisticsParams, caller: Caller) -> Statistics:
        shown = as_result(await self._statistics.shown(self._chosen(params)), Statistics)
        return own_statistics(shown) if caller.tenant else shown

    @serve(QUOTA_LIST)
    async def _quota_list(self, params: StatisticsParams, _caller: Caller) -> QuotaList:
        return QuotaList(quotas=self._quotas.shown(self._chosen(params), time.monotonic()))
