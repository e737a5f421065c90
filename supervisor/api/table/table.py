"""Answers calls by the one method table of the daemon: `Control.call` takes each through its steps.

Every transport calls `Control.call`. A method is an entry of the table with its params as a Struct, a permission and a
docstring; `rpc.discover` returns the table as an OpenRPC document.
"""

import logging
from collections.abc import Mapping
from time import perf_counter

from msgspec import Struct

from corral.supervisor.config.secrets.secrets import masked
from corral.supervisor.records.logs.daemon_log import log_outcome
from corral.supervisor.tasks.worker_api.requests import convert
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.worker.contract.errors import CorralError, MethodNotFound
from corral.worker.methods.method import AnyMethod

from ..metrics.statistics import Statistics
from .admission import Admission
from .call_record import CallAudit, open_params
from .caller import Caller, turn_key
from .cluster import JoinedCluster
from .handlers import Handler
from .scoping import Scope

logger = logging.getLogger(__name__)


class Control:
    """Answers the calls of one daemon."""

    def __init__(
        self,
        methods: Mapping[str, AnyMethod],
        handlers: Mapping[str, Handler],
        admission: Admission,
        audit: CallAudit,
        turns: CallTurns,
        statistics: Statistics,
        joined: JoinedCluster,
    ) -> None:
        assert handlers.keys() == methods.keys(), "each method has one function that serves it"
        self.methods = methods
        self._handlers = handlers
        self._admission = admission
        self._audit = audit
        self._turns = turns
        self._statistics = statistics
        self._joined = joined

    async def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """Returns the result of a method, a Struct, Raw or plain values: waits for the caller's turn, and counts and logs the call."""
        begun = perf_counter()  # the loop's own time is in milliseconds
        if not self._turns.is_next(caller.tenant):
            await self._turns.wait(caller.tenant, turn_key(caller))
        try:
            if not logger.isEnabledFor(logging.DEBUG):
                return await self._routed(name, params, caller)
            facts = {"caller": caller.name, "method": name, "params": masked(open_params(name, params))}
            return await log_outcome(logger, "call", facts, self._routed(name, params, caller))
        finally:
            if name in self.methods:  # others may have any name
                self._statistics.served(name, perf_counter() - begun)

    async def _routed(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """Returns the answer of the node of the cluster that has what a call is about."""
        method = self._method(name)

        async def here(own: Mapping[str, object]) -> object:
            return await self._answer(method, own, caller)

        return await self._joined.cluster.routed(
            name, method.faces.streams, method.access.permission == "read", params, caller, here
        )

    async def answer_here(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """Returns the result of a method as this daemon answers it, for a caller on another node of its cluster."""
        return await self._answer(self._method(name), params, caller)

    async def _answer(self, method: AnyMethod, params: Mapping[str, object], caller: Caller) -> object:
        """Admits a call or records its refusal, then serves it, with a record where it is a change."""
        change = self._audit.begin(method, params, caller)
        try:
            scope = self._admission.scope(method, caller)
            asked = await scope.restricted(convert(params, method.params, method.name))
            if change is not None:
                await self._admission.check_change(method, caller)
        except CorralError as error:
            self.note_refused(method.name, params, caller, error)
            raise
        serving = self._served(method, asked, caller, scope)
        return await (serving if change is None else change.recorded(serving, asked))

    async def _served(self, method: AnyMethod, asked: Struct, caller: Caller, scope: Scope) -> object:
        """Calls the handler, and takes out of its answer what the caller may not know."""
        placed = self._joined.cluster.placed_call(method.name, asked, caller)
        if placed is not None and (answer := await placed) is not None:
            return answer
        return await scope.serve(self._handlers[method.name], asked, caller)

    def note_refused(self, name: str, params: Mapping[str, object], caller: Caller, error: CorralError) -> None:
        """Records that a change or a tool call was refused before anything was done, unless it was just before."""
        if (method := self.methods.get(name)) is not None:
            self._audit.note_refused(method, params, caller, error)

    def _method(self, name: str) -> AnyMethod:
        method = self.methods.get(name)
        if method is None:
            raise MethodNotFound(f'cannot call "{name}": there is no such method', method=name)
        return method
