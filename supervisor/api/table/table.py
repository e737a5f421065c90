"""Defines the one method table of the daemon: each method with its permission, its params and its handler.

Every transport calls `Control.call`. A method is a function of the
table with its params as a Struct, a permission and a docstring; `rpc.discover` returns the table as an
OpenRPC document, from which the reference page of the protocol is made.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from corral.mcp.pool.pool import Pool
from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.deployment.deployments import Deployments
from corral.supervisor.agents.external.logins import Logins
from corral.supervisor.agents.external.stores import Stores
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.packages.store import Packages
from corral.supervisor.config.secrets.secrets import masked
from corral.supervisor.config.spec.labels import is_glob
from corral.supervisor.models.desk.listing import ModelListing
from corral.supervisor.records.audit.log import Audit, refusal_key
from corral.supervisor.records.backup.backups import Backups
from corral.supervisor.records.logs.daemon_log import log_outcome
from corral.supervisor.records.memory.expiry import Expiry
from corral.supervisor.records.memory.listing import Listing
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.worker_api.approvals import Approvals
from corral.supervisor.tasks.worker_api.pubsub import WorkerPubsub
from corral.supervisor.tasks.worker_api.requests import convert
from corral.supervisor.tasks.worker_api.tool_calls import ToolCalls
from corral.supervisor.tasks.workflows.schedules import Schedules
from corral.supervisor.tenants.quotas.disk_use import DiskUse
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.tenants.tokens.change_rate import ChangeRate
from corral.supervisor.tenants.tokens.scope import bound
from corral.supervisor.tenants.tokens.tokens import Tokens
from corral.supervisor.workers.supervision.shared import Shared, utc_now
from corral.worker.contract import codec
from corral.worker.contract.errors import (
    CorralError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Overloaded,
    PermissionDenied,
)
from corral.worker.control.access import Rights
from corral.worker.methods.method import AnyMethod, Method
from corral.worker.methods.rules import Rule

from ..metrics.statistics import Statistics
from ..metrics.view import MetricsView
from ..reports.costs import CostSums
from .call_record import NAMES_KEPT, bounded, failure_of, names_of, open_params, record_of, refused_record
from .caller import Caller as Caller
from .caller import check_rights, turn_key
from .quotas import Quotas
from .results import recorded_values
from .scoping import Scope, ScopedCaller
from .services import Cluster, Execs, Services
from .status import DaemonFacts, StatusReport
from .status_cache import StatusCache
from .status_feed import StatusFeed

Permission = Rights

logger = logging.getLogger(__name__)

UNLIMITED = frozenset({"daemon.emergency_stop", "daemon.reload", "daemon.stop", "package.upload"})
"""Changes that are no part of max_changes_per_minute: an emergency, the ways to another limit, and the parts of a package,
whose `package.add` counts."""

UNDONE = (InvalidParams, NotFound, PermissionDenied)
"""Errors after which a method has done nothing. Others may come after a part was done (a store that no longer takes
writes, a start that was stopped meanwhile): each of those has a record of its own."""


P = TypeVar("P", bound=Struct)
A = TypeVar("A")

Serve: TypeAlias = Callable[["Control", P, Caller], Awaitable[A]]
"""A function that serves a method, with its params and its answer."""

HANDLERS: dict[str, Serve[Any, object]] = {}
"""The functions that serve the methods, by the names of those; filled by the modules that `daemon_methods.all` imports."""


def serve(method: Method[P, A]) -> Callable[[Serve[P, A | Raw]], Serve[P, A | Raw]]:
    """Returns a decorator for the function that serves a method. It returns the method's result, or its encoded form."""

    def enter(handler: Serve[P, A | Raw]) -> Serve[P, A | Raw]:
        HANDLERS[method.name] = handler
        return handler

    return enter


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """Answers calls for one daemon. The methods of the table reach the rooms through it."""

    shared: Shared
    agents: Agents
    hibernation: Hibernation
    tasks: Tasks
    schedules: Schedules
    memory: Memory
    memory_expiry: Expiry
    memory_listing: Listing
    pool: Pool
    tool_calls: ToolCalls
    pubsub: WorkerPubsub
    audit: Audit
    packages: Packages
    costs: CostSums
    approvals: Approvals
    logins: Logins
    tokens: Tokens
    tenants: Tenants
    accounts: Accounts
    statistics: Statistics
    metrics: MetricsView
    quotas: Quotas
    turns: CallTurns
    stores: Stores
    models: ModelListing
    daemon: DaemonFacts
    status: StatusReport
    status_cache: StatusCache
    status_feed: StatusFeed
    backups: Backups
    services: Services
    deployments: Deployments
    disk_use: DiskUse
    execs: Execs
    methods: Mapping[str, AnyMethod]
    handlers: Mapping[str, Serve[Any, object]]
    optional_cluster: Cluster | None = None
    change_rate: ChangeRate = field(default_factory=ChangeRate)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    @property
    def cluster(self) -> Cluster:
        """Returns the cluster that the daemon has joined."""
        if self.optional_cluster is None:
            raise NotFound(
                "cannot find a cluster: the daemon has joined none; write [cluster] in its configuration", key="cluster"
            )
        return self.optional_cluster

    async def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """Returns the result of a method, a Struct, Raw or plain values; logs the call at DEBUG."""
        begun = perf_counter()  # the loop's own time is in milliseconds
        if not self.turns.is_next(caller.tenant):
            await self.turns.wait(caller.tenant, turn_key(caller))
        try:
            if not logger.isEnabledFor(logging.DEBUG):
                return await self.answer(name, params, caller)
            facts = {"caller": caller.name, "method": name, "params": masked(open_params(name, params))}
            return await log_outcome(logger, "call", facts, self.answer(name, params, caller))
        finally:
            if name in self.methods:  # others may have any name
                self.statistics.served(name, perf_counter() - begun)

    async def answer(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """Returns the result of a method, a Struct, Raw or plain values; from the node of the cluster that has what it is about."""
        entry = self._entry(name)
        if self.optional_cluster is None:
            return await self._answer_here(entry, params, caller)
        return await self.optional_cluster.routed(
            entry.name,
            entry.faces.streams,
            entry.access.permission == "read",
            params,
            caller,
            lambda own: self._answer_here(entry, own, caller),
        )

    async def answer_here(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """Returns the result of a method as this daemon answers it, for a caller on another node of its cluster."""
        return await self._answer_here(self._entry(name), params, caller)

    def _entry(self, name: str) -> AnyMethod:
        entry = self.methods.get(name)
        if entry is None:
            raise MethodNotFound(f'cannot call "{name}": there is no such method', method=name)
        return entry

    async def _answer_here(self, entry: AnyMethod, params: Mapping[str, object], caller: Caller) -> object:
        """Admits a call or records its refusal, then serves it, with a record where it is a change."""
        at, started = utc_now(), self.loop.time()
        is_dry = params.get("dry_run") is True and "dry_run" in entry.params.__struct_fields__
        is_change = entry.access.recorded in ("always", "or-refused") and not is_dry
        try:
            asked = await self._admitted(entry, params, caller)
            if is_change:
                await self._check_change(entry, caller)
        except CorralError as error:
            self.note_refused(entry.name, params, caller, error)
            raise
        if not is_change:
            return await self._served(entry, asked, caller)
        # A caller that is restricted has only the names that are left to it.
        own = params if caller.agents is None else codec.as_object(msgspec.to_builtins(asked)) or {}
        record = {**record_of(entry.name, params, caller.who), "names": self._resolved(own), "at": at}
        return await self._recorded(entry, self._served(entry, asked, caller), record, started)

    async def _admitted(self, entry: AnyMethod, params: Mapping[str, object], caller: Caller) -> Struct:
        """Returns the params as the method takes them, restricted to the tenant and the agents of the caller."""
        if caller.tenant:
            self._check_tenant(entry, caller.tenant)
        check_rights("method", entry.name, entry.access.permission, caller)
        asked = convert(params, entry.params, entry.name)
        if caller.agents is not None:
            scope = self._scope(caller.agents, caller.tenant)
            asked = await scope.restricted(entry.name, _rule(entry, caller), asked)
        return asked

    def _check_tenant(self, entry: AnyMethod, tenant: str) -> None:
        """Refuses a tenant that is not there, and the changes of one that is suspended."""
        if self.tenants.find(tenant) is None:
            raise NotFound(f'cannot find tenant "{tenant}"', name=tenant, known=[])
        if entry.access.permission != "read" and self.tenants.is_suspended(tenant):
            raise PermissionDenied(
                f'cannot call "{entry.name}": tenant "{tenant}" is suspended',
                method=entry.name,
                tenant=tenant,
                reason="suspended",
            )

    async def _check_change(self, entry: AnyMethod, caller: Caller) -> None:
        """Refuses a change beyond the rate of its caller, and one that needs a record while none can be stored."""
        if entry.name not in UNLIMITED:
            self._check_rate(entry, caller)
        if entry.access.recorded == "or-refused":
            await self.audit.require(f'call "{entry.name}"')

    def _check_rate(self, entry: AnyMethod, caller: Caller) -> None:
        limit = self.agents.config.daemon.max_changes_per_minute
        token = caller.who.get("token")  # an HTTP client chooses its other name itself
        name = refusal_key(caller.who) if token is None else f"token {token}"
        wait_s = self.change_rate.take(name, limit, self.loop.time())
        if wait_s:
            raise Overloaded(
                f'cannot call "{entry.name}": {caller.name} has made {limit} changes within a minute',
                limit="max_changes_per_minute",
                value=limit,
                retry_after_s=round(wait_s, 3),
            )

    async def _served(self, entry: AnyMethod, asked: Struct, caller: Caller) -> object:
        """Calls the handler; a caller with a tenant or some agents alone learns nothing of others from its answer."""
        if self.optional_cluster is not None:
            placed = self.optional_cluster.placed_call(entry.name, asked, caller)
            if placed is not None and (answer := await placed) is not None:
                return answer
        if caller.agents is None:
            return await self.handlers[entry.name](self, asked, caller)
        scope, rule = self._scope(caller.agents, caller.tenant), _rule(entry, caller)
        if rule is not None and rule.sends:
            caller = ScopedCaller(caller, caller.agents, rule)
        try:
            return scope.result(rule, await self.handlers[entry.name](self, asked, caller))
        except CorralError as error:
            raise scope.error(error) from None

    def _scope(self, globs: Sequence[str], tenant: str) -> Scope:
        registry, schedules = self.agents.registry, self.schedules
        folder = str(self.accounts.folder(tenant)) if tenant else ""
        return Scope(
            globs, tenant, registry, self.tasks, self.shared, schedules, self.approvals, self.deployments, folder
        )

    async def _recorded(
        self, entry: AnyMethod, serving: Awaitable[object], called: Mapping[str, object], started: float
    ) -> object:
        """Awaits a change; its record is durable before this returns or raises.

        It is not durable where the store takes no write within seconds; where the same call is refused to
        the caller once more; and where the caller hangs up, since the method may go on.
        """

        def record(result: str, **facts: object) -> dict[str, object]:
            return {**called, "result": result, "duration_s": round(self.loop.time() - started, 6), **facts}

        try:
            result = await serving
        except CorralError as error:
            failed = record(error.name, **failure_of(error))
            who = codec.as_object(called["who"]) or {}
            if not isinstance(error, UNDONE) or self.audit.refuse(failed, refusal_key(who)):
                await self.audit.keep(failed)
            raise
        except asyncio.CancelledError:  # it hung up: no caller waits
            self.audit.add(record("Cancelled"))
            raise
        except Exception:  # a defect of ours: the record is kept all the same
            await self.audit.keep(record("InternalError"))
            raise
        facts = recorded_values(result, entry.access.recorded_keys)
        await self.audit.keep(record("ok", **({"told": bounded(facts)} if facts else {})))
        return result

    def _resolved(self, params: Mapping[str, object]) -> list[object]:
        """Returns the names that a call is about, for its record: globs and selectors as what they choose now."""
        names = names_of(params)
        selector = params.get("selector")
        plain = [each for each in names if isinstance(each, str) and each != "*"]
        if selector is None and (params.get("all") is True or not any(map(is_glob, plain))):
            return names
        try:
            found = self.agents.registry.chosen(plain, selector if isinstance(selector, str) else None, groups=True)
        except CorralError:  # the method refuses it
            return names
        return [*found[:NAMES_KEPT]]

    def note_refused(self, name: str, params: Mapping[str, object], caller: Caller, error: CorralError) -> None:
        """Records that a change or a tool call was refused before anything was done, unless it was just before."""
        entry = self.methods.get(name)
        if entry is not None and entry.access.recorded == "by-itself":
            self.tool_calls.note_refused(params.get("name"), caller.who, error)
        elif entry is not None and entry.access.recorded != "never":
            record = refused_record(name, params, caller.who, error)
            if self.audit.refuse(record, refusal_key(caller.who)):
                self.audit.add(record)

    def runs(self, task: str) -> bool:
        """Returns whether a task waits for a worker here, or runs on one."""
        return self.tasks.find(task) is not None

    def has_schedule(self, name: str) -> bool:
        """Returns whether this daemon has a schedule of this name."""
        return any(each.name == name for each in self.schedules.list())

    async def has(self, names: Sequence[str], task: str) -> bool:
        """Returns whether this daemon has all of these agents, servers, teams, workflows or workers, or this task."""
        if task:
            try:
                await self.tasks.show(task)
            except NotFound:
                return False
            return True
        registry = self.agents.registry
        return bool(names) and all(
            name in registry.agents or name in registry.groups or registry.supervisor(name) is not None
            for name in names
        )


def _rule(entry: AnyMethod, caller: Caller) -> Rule | None:
    """Returns the rule that restricts a call; that of a caller bound to a tenant, whose token names agents, is the narrower one."""
    is_whole = caller.agents == bound(None, caller.tenant)
    return entry.access.tenant if caller.tenant and (is_whole or entry.access.scope is not None) else entry.access.scope
