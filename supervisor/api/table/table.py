"""Answers calls by the one method table of the daemon: `Control.call` takes each through its steps.

A call is admitted by the rights of its caller, its tenant, its scope and the number of its changes; changes and refusals are
recorded in the audit, with as much of params and errors as may be shown. Every transport calls `Control.call`. A method is
an entry of the table with its params as a Struct, a permission and a docstring.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from time import perf_counter

import msgspec
from msgspec import Struct

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.secrets.secrets import MASK, masked
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.labels import is_glob
from corral.supervisor.records.audit.hash_chain import digest
from corral.supervisor.records.audit.log import Audit, refusal_key
from corral.supervisor.records.logs.daemon_log import log_outcome
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tasks.worker_api.requests import convert
from corral.supervisor.tasks.worker_api.tool_calls import ToolCalls
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.tenants.tokens.change_rate import ChangeRate
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract import codec
from corral.worker.contract.errors import (
    CorralError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Overloaded,
    PermissionDenied,
)
from corral.worker.control.access import permits
from corral.worker.methods.daemon import DAEMON_UPGRADE
from corral.worker.methods.method import AnyMethod

from ..metrics.statistics import Statistics
from .cluster import JoinedCluster
from .handlers import Caller, Handler, recorded_values, turn_key
from .inventory import Inventory
from .scoping import AgentScope, Scope, WholeScope

UNLIMITED = frozenset({"daemon.emergency_stop", "daemon.reload", "daemon.stop", "daemon.upgrade", "package.upload"})
"""Changes that are no part of max_changes_per_minute: an emergency, the ways to another limit, and the parts of a package,
whose `package.add` counts."""


class Admission:
    """Admits the calls of one daemon."""

    def __init__(
        self,
        in_force: InForce,
        tenants: Tenants,
        accounts: Accounts,
        registry: Registry,
        logs: LogStore,
        inventory: Inventory,
        audit: Audit,
    ) -> None:
        self._in_force = in_force
        self._tenants = tenants
        self._accounts = accounts
        self._registry = registry
        self._logs = logs
        self._inventory = inventory
        self._audit = audit
        self._rate = ChangeRate()
        self._loop = asyncio.get_running_loop()

    def scope(self, method: AnyMethod, caller: Caller) -> Scope:
        """Returns what a call is to be restricted to; refuses one whose tenant may not make it, or whose caller lacks the right."""
        if caller.tenant:
            self._check_tenant(method, caller.tenant)
        if not permits(caller.permission, method.access.permission):
            words = f'cannot call "{method.name}": {caller.name} may only {caller.permission}'
            raise PermissionDenied(words, method=method.name, needs=method.access.permission)
        if caller.agents is None:
            return WholeScope()
        folder = str(self._accounts.folder(caller.tenant)) if caller.tenant else ""
        return AgentScope(method, caller.agents, caller.tenant, folder, self._registry, self._logs, self._inventory)

    def _check_tenant(self, method: AnyMethod, tenant: str) -> None:
        """Refuses a tenant that is not there, and the changes of one that is suspended."""
        if self._tenants.find(tenant) is None:
            raise NotFound(f'cannot find tenant "{tenant}"', name=tenant, known=[])
        if method.access.permission != "read" and self._tenants.is_suspended(tenant):
            words = f'cannot call "{method.name}": tenant "{tenant}" is suspended'
            raise PermissionDenied(words, method=method.name, tenant=tenant, reason="suspended")

    async def check_change(self, method: AnyMethod, caller: Caller) -> None:
        """Refuses a change beyond the rate of its caller, and one that needs a record while none can be stored."""
        if method.name not in UNLIMITED:
            limit = self._in_force.config.daemon.max_changes_per_minute
            token = caller.who.get("token")  # an HTTP client chooses its other name itself
            name = refusal_key(caller.who) if token is None else f"token {token}"
            wait_s = self._rate.take(name, limit, self._loop.time())
            if wait_s:
                words = f'cannot call "{method.name}": {caller.name} has made {limit} changes within a minute'
                raise Overloaded(words, limit="max_changes_per_minute", value=limit, retry_after_s=round(wait_s, 3))
        if method.access.recorded == "or-refused":
            await self._audit.require(f'call "{method.name}"')


NAMES_KEPT = 50
"""Number of names of one call in its record; its params have all, or their digest."""

MAX_NAME = 100
"""Characters of a name: no agent has a longer one."""

MAX_MESSAGE = 300
"""Characters of an error's message in a record."""

MAX_PARAMS_BYTES = 4096
"""Bytes of JSON in a record; longer params are kept as their SHA-256."""

MAX_DENIED_NAMES = 5

MAX_DENIED_BYTES = 512
"""Bytes of JSON in the record of a denied call, so that an unprivileged caller cannot flood the log."""


UNDONE = (InvalidParams, NotFound, PermissionDenied)
"""Errors after which a method has done nothing. Others may come after a part was done (a store that no longer takes
writes, a start that was stopped meanwhile): each of those has a record of its own."""


class CallAudit:
    """Keeps the records of the calls of one daemon."""

    def __init__(self, audit: Audit, tool_calls: ToolCalls, registry: Registry) -> None:
        self._audit = audit
        self._tool_calls = tool_calls
        self._registry = registry

    def begin(self, method: AnyMethod, params: Mapping[str, object], caller: Caller) -> "Change | None":
        """Returns the change that a call makes, None where it makes none that is recorded."""
        is_dry = params.get("dry_run") is True and "dry_run" in method.params.__struct_fields__
        if method.access.recorded not in ("always", "or-refused") or is_dry:
            return None
        return Change(self._audit, self._registry, method, params, caller)

    def note_refused(self, method: AnyMethod, params: Mapping[str, object], caller: Caller, error: CorralError) -> None:
        """Records that a change or a tool call was refused before anything was done, unless it was just before."""
        if method.access.recorded == "by-itself":
            self._tool_calls.note_refused(params.get("name"), caller.who, error)
        elif method.access.recorded != "never":
            record = _refused_record(method.name, params, caller.who, error)
            if self._audit.refuse(record, refusal_key(caller.who)):
                self._audit.add(record)


class Change:
    """Represents one change, from its call on."""

    def __init__(
        self, audit: Audit, registry: Registry, method: AnyMethod, params: Mapping[str, object], caller: Caller
    ) -> None:
        self._audit = audit
        self._registry = registry
        self._method = method
        self._params = params
        self._caller = caller
        self._at = utc_now()
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    async def recorded(self, serving: Awaitable[object], asked: Struct) -> object:
        """Awaits the change; its record is durable before this returns or raises.

        It is not durable where the store takes no write within seconds; where the same call is refused to
        the caller once more; and where the caller hangs up, since the method may go on.
        """
        caller = self._caller
        # A caller that is restricted has only the names that are left to it.
        own = self._params if caller.agents is None else codec.as_object(msgspec.to_builtins(asked)) or {}
        called = _record_of(self._method.name, self._params, caller.who)
        called |= {"names": self._resolved(own), "at": self._at}

        def record(result: str, **facts: object) -> dict[str, object]:
            return {**called, "result": result, "duration_s": round(self._loop.time() - self._started, 6), **facts}

        try:
            result = await serving
        except CorralError as error:
            failed = record(error.name, **failure_of(error))
            if not isinstance(error, UNDONE) or self._audit.refuse(failed, refusal_key(caller.who)):
                await self._audit.keep(failed)
            raise
        except asyncio.CancelledError:  # it hung up: no caller waits
            self._audit.add(record("Cancelled"))
            raise
        except Exception:  # a defect of ours: the record is kept all the same
            await self._audit.keep(record("InternalError"))
            raise
        facts = recorded_values(result, self._method.access.recorded_keys)
        await self._audit.keep(record("ok", **({"told": bounded(facts)} if facts else {})))
        return result

    def _resolved(self, params: Mapping[str, object]) -> list[object]:
        """Returns the names that the change is about: globs and selectors as what they choose now."""
        names = names_of(params)
        selector = params.get("selector")
        plain = [each for each in names if isinstance(each, str) and each != "*"]
        if selector is None and (params.get("all") is True or not any(map(is_glob, plain))):
            return names
        try:
            found = self._registry.chosen(plain, selector if isinstance(selector, str) else None, groups=True)
        except CorralError:  # the method refuses it
            return names
        return [*found[:NAMES_KEPT]]


def _record_of(name: str, params: Mapping[str, object], who: Mapping[str, object]) -> dict[str, object]:
    return {"action": name, "who": dict(who), "names": names_of(params), "params": bounded(open_params(name, params))}


def _refused_record(
    name: str, params: Mapping[str, object], who: Mapping[str, object], error: CorralError
) -> dict[str, object]:
    """Returns the record of a call that was refused; that of a denied one is short."""
    record = {**_record_of(name, params, who), "at": utc_now(), "result": error.name, **failure_of(error)}
    if isinstance(error, PermissionDenied):
        record["names"] = names_of(params)[:MAX_DENIED_NAMES]
        record["params"] = bounded(open_params(name, params), MAX_DENIED_BYTES)
    return record


OPEN_OF_SECRETS = frozenset({"name", "agents", "replace", "restart", "force", "rights", "expires_s", "overlap_s"})
"""Keys of the methods `secret.*`, `token.*` and `auth.*` whose values may be shown: a mistyped key must not show a secret."""


def open_params(name: str, params: Mapping[str, object]) -> Mapping[str, object]:
    """Returns the params that logs and the audit may see, before any is masked by its own key."""
    if not name.startswith(("secret.", "token.", "auth.")):
        return params
    return {key: value if key in OPEN_OF_SECRETS else MASK for key, value in params.items()}


def names_of(params: Mapping[str, object]) -> list[object]:
    """Returns the names that a call is about; `*` for all."""
    if params.get("all") is True:
        return ["*"]
    found = [params.get("name")]
    found += codec.as_array(params.get("names")) or []
    added = codec.as_array(params.get("agents")) or []
    found += [(codec.as_object(each) or {}).get("name") for each in added[:NAMES_KEPT]]
    return [each[:MAX_NAME] for each in found[:NAMES_KEPT] if isinstance(each, str)]


def bounded(value: Mapping[str, object], limit: int = MAX_PARAMS_BYTES) -> dict[str, object]:
    """Returns params or a result as the audit may show them: without secrets, and as a digest where they are long."""
    sha256, size_bytes = digest(value)
    if sha256 is None or size_bytes > limit:
        return {"sha256": sha256, "bytes": size_bytes}
    return codec.as_object(masked(value)) or {}


def failure_of(error: CorralError) -> dict[str, object]:
    """Returns the record of an error; without the message of InvalidParams, which quotes a value that may be a secret."""
    if isinstance(error, InvalidParams):
        return {"code": error.code, "key": str(error.data.get("key", ""))[:MAX_MESSAGE]}
    return {"code": error.code, "message": error.message[:MAX_MESSAGE]}


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

    def goes_on(self, name: str) -> bool:
        """Returns whether another program may serve a call of this method anew: it only reads, or is the upgrade itself."""
        method = self.methods.get(name)
        return method is not None and (method.access.permission == "read" or name == DAEMON_UPGRADE.name)

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
