"""Serves the methods `audit.*` of the table: lists the records of changes, and verifies their chain."""

import fnmatch
import re
from collections.abc import Callable

from corral.supervisor.records.audit.hash_chain import Record, parse_position
from corral.supervisor.records.audit.log import Audit, stamp
from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.names import tenant_of
from corral.worker.control.params import AuditParams, VerifyParams
from corral.worker.control.results import AuditPage, AuditVerdict
from corral.worker.methods.events import AUDIT_LIST, AUDIT_VERIFY

from ..table.caller import Caller
from ..table.handlers import serve
from ..table.results import as_result

RECORDS = 100
"""Number of records on a page, unless `n` asks for more."""


class AuditMethods:
    """Serves the methods `audit.*`."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    @serve(AUDIT_LIST)
    async def _list(self, params: AuditParams, caller: Caller) -> AuditPage:
        n = RECORDS if params.n is None else params.n
        if params.since is not None and params.before is not None:
            raise InvalidParams("cannot list from both ends: give since or before", key="before")
        records, next_place = await self._audit.page(
            n, _filter(params, caller.tenant), after=params.since, before=params.before
        )
        return AuditPage(records=records, next=next_place)

    @serve(AUDIT_VERIFY)
    async def _verify(self, params: VerifyParams, _caller: Caller) -> AuditVerdict:
        expected = None
        if params.head is not None:
            try:
                expected = parse_position(params.head)
            except ValueError:
                raise InvalidParams(
                    f'cannot look for "{params.head}": a head is NUMBER:HASH, with 64 digits of hash',
                    key="head",
                    value=params.head,
                ) from None
        return as_result(await self._audit.verify(expected), AuditVerdict)


def _filter(params: AuditParams, tenant: str) -> Callable[[Record], bool]:
    actions = [re.compile(fnmatch.translate(glob)) for glob in params.actions or ()]
    since = None if params.since_time is None else stamp(params.since_time)
    until = None if params.until_time is None else stamp(params.until_time)

    def is_wanted(record: Record) -> bool:
        at, action = str(record.get("at")), str(record.get("action"))
        return (
            (since is None or at >= since)
            and (until is None or at < until)
            and (not actions or any(each.match(action) for each in actions))
            and (params.name is None or _is_about(record, params.name))
            and (not tenant or _is_of(record, tenant))
        )

    return is_wanted


def _is_of(record: Record, tenant: str) -> bool:
    """Returns whether a record is one of a tenant: of its callers and agents, or about nothing but what is its own."""
    who = codec.as_object(record.get("who")) or {}
    if who.get("tenant") == tenant or tenant_of(str(who.get("agent") or "")) == tenant:
        return True
    names = codec.as_array(record.get("names")) or []
    return bool(names) and all(tenant_of(str(each)) == tenant for each in names)


def _is_about(record: Record, name: str) -> bool:
    """Returns whether a record is about an agent or a worker, or one of its actions."""
    who = codec.as_object(record.get("who")) or {}
    words = [*(codec.as_array(record.get("names")) or ()), record.get("server")]
    words += [who.get("agent"), who.get("worker")]
    results = codec.as_object(record.get("told")) or {}
    for value in results.values():  # what a reload touched
        words += codec.as_array(value) or codec.as_object(value) or ()
    return any(word in (name, "*") or (isinstance(word, str) and word.rpartition("-")[0] == name) for word in words)
