"""Serves the methods `memory.*` of the table: sessions and keys of agents.

Those of an agent that was removed are still shown, until they are cleared.
"""

import time
from typing import Any

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.memory.expiry import Expiry
from corral.supervisor.records.memory.listing import Listing
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract.errors import NotFound
from corral.worker.control.params import (
    MemoryCleanupParams,
    MemoryClearParams,
    MemoryExpireParams,
    MemoryFindParams,
    MemoryKeyParams,
    MemoryListParams,
    MemoryPutParams,
    MemoryShowParams,
    MemoryStatsParams,
    NoParams,
)
from corral.worker.control.results import Done
from corral.worker.control.state_results import (
    Item,
    Items,
    MemoryPool,
    MemoryPools,
    MemoryRemoved,
    MemoryStatistics,
    Session,
    SessionExpiry,
    Sessions,
    SessionShown,
    Value,
)
from corral.worker.methods.state import (
    MEMORY_CLEANUP,
    MEMORY_CLEAR,
    MEMORY_DELETE,
    MEMORY_EXPIRE,
    MEMORY_GET,
    MEMORY_POOLS,
    MEMORY_PUT,
    MEMORY_SEARCH,
    MEMORY_SESSIONS,
    MEMORY_SHOW,
    MEMORY_STATS,
)

from ..table.caller import Caller
from ..table.handlers import serve
from ..table.results import as_result


class MemoryMethods:
    """Serves the methods `memory.*`."""

    def __init__(self, agents: Agents, memory: Memory, memory_expiry: Expiry, memory_listing: Listing) -> None:
        self._agents = agents
        self._memory = memory
        self._memory_expiry = memory_expiry
        self._memory_listing = memory_listing

    @serve(MEMORY_SESSIONS)
    async def _sessions(self, params: MemoryListParams, caller: Caller) -> Sessions:
        found = await self._memory_listing.sessions(params.agent, params.limit, knows(caller.agents))
        return Sessions(sessions=as_result(found, list[Session]))

    @serve(MEMORY_SHOW)
    async def _show(self, params: MemoryShowParams, _caller: Caller) -> SessionShown:
        shown: dict[str, Any] = await self._memory.show(params.agent, params.session, params.last)
        return SessionShown(**shown)  # its parts are encoded JSON, which nothing decodes on its way

    @serve(MEMORY_PUT)
    async def _put(self, params: MemoryPutParams, _caller: Caller) -> Done:
        agent = self._agents.of(params.agent).name
        await self._memory.key_values.put(agent, params.session, params.key, params.value, ttl_s=params.ttl_s)
        return Done()

    @serve(MEMORY_GET)
    async def _get(self, params: MemoryKeyParams, _caller: Caller) -> Value:
        return Value(value=await self._memory.key_values.get(params.agent, params.session, params.key))

    @serve(MEMORY_DELETE)
    async def _delete(self, params: MemoryKeyParams, _caller: Caller) -> Done:
        if not await self._memory.key_values.delete(params.agent, params.session, params.key):
            text = f'cannot find key "{params.key}" of agent "{params.agent}"'
            raise NotFound(text, agent=params.agent, key=params.key)
        return Done()

    @serve(MEMORY_SEARCH)
    async def _search(self, params: MemoryFindParams, _caller: Caller) -> Items:
        items = await self._memory.key_values.search(params.agent, params.session, params.query, params.limit)
        return Items(items=as_result(items, list[Item]))

    @serve(MEMORY_CLEAR)
    async def _clear(self, params: MemoryClearParams, _caller: Caller) -> MemoryRemoved:
        return MemoryRemoved(**await self._memory.clear(params.agent, params.session))

    @serve(MEMORY_CLEANUP)
    async def _cleanup(self, params: MemoryCleanupParams, _caller: Caller) -> MemoryRemoved:
        return MemoryRemoved(**await self._memory_expiry.expire(time.time(), params.agent))

    @serve(MEMORY_EXPIRE)
    async def _expire(self, params: MemoryExpireParams, _caller: Caller) -> SessionExpiry:
        agent, session = params.agent, params.session
        at = await self._memory.expire_session(agent, session, params.ttl_s)
        return SessionExpiry(agent=agent, session=session, expires_at=at)

    @serve(MEMORY_POOLS)
    async def _pools(self, _params: NoParams, caller: Caller) -> MemoryPools:
        found = await self._memory_listing.pools(self._agents.agents, knows(caller.agents))
        return MemoryPools(pools=as_result(found, list[MemoryPool]))

    @serve(MEMORY_STATS)
    async def _stats(self, params: MemoryStatsParams, caller: Caller) -> MemoryStatistics:
        return as_result(await self._memory_listing.stats(params.agent, knows(caller.agents)), MemoryStatistics)
