"""Records changes and refused calls in the audit: how they ended, and as much of params and errors as may be shown.

It must not know a handler.
"""

import asyncio
from collections.abc import Awaitable, Mapping

import msgspec
from msgspec import Struct

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.secrets.secrets import MASK, masked
from corral.supervisor.config.spec.labels import is_glob
from corral.supervisor.records.audit.hash_chain import digest
from corral.supervisor.records.audit.log import Audit, refusal_key
from corral.supervisor.tasks.worker_api.tool_calls import ToolCalls
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound, PermissionDenied
from corral.worker.methods.method import AnyMethod

from .caller import Caller
from .results import recorded_values

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
    """Returns what the record of a call says of the call itself."""
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
