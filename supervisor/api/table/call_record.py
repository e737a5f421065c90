"""Makes the audit records of calls: which of their params and errors may be shown, and how much of them.

It must not know the table or a handler.
"""

from collections.abc import Mapping

from corral.supervisor.config.secrets.secrets import MASK, masked
from corral.supervisor.records.audit.hash_chain import digest
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, PermissionDenied

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


def record_of(name: str, params: Mapping[str, object], who: Mapping[str, object]) -> dict[str, object]:
    """Returns what the record of a call says of the call itself."""
    return {"action": name, "who": dict(who), "names": names_of(params), "params": bounded(open_params(name, params))}


def refused_record(
    name: str, params: Mapping[str, object], who: Mapping[str, object], error: CorralError
) -> dict[str, object]:
    """Returns the record of a call that was refused; that of a denied one is short."""
    record = {**record_of(name, params, who), "at": utc_now(), "result": error.name, **failure_of(error)}
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
