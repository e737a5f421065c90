"""The methods `audit.*` of the table: who did what, and whether that is still as it was written."""

import fnmatch
import re
from collections.abc import Callable

from ...worker.contract import codec
from ...worker.contract.errors import InvalidParams
from ...worker.contract.shapes import AuditParams, VerifyParams
from ..audit.hash_chain import Record, parse_position
from ..audit.log import stamp
from .table import Caller, Control, method

RECORDS = 100
"""On a page, when nobody says how many."""


def _filter(params: AuditParams) -> Callable[[Record], bool]:
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
        )

    return is_wanted


def _is_about(record: Record, name: str) -> bool:
    """Whether it is about an agent or a worker, or something that one of them did."""
    who = codec.as_object(record.get("who")) or {}
    words = [*(codec.as_array(record.get("names")) or ()), record.get("server")]
    words += [who.get("agent"), who.get("worker")]
    told = codec.as_object(record.get("told")) or {}
    for value in told.values():  # what a reload touched
        words += codec.as_array(value) or codec.as_object(value) or ()
    return any(
        word in (name, "*") or (isinstance(word, str) and word.rpartition("-")[0] == name)
        for word in words
    )


@method("audit.list", "operate", AuditParams)
async def _list(control: Control, params: AuditParams, _caller: Caller) -> object:
    """Who did what, oldest first: the newest `n`, or those after `since`; `next` is the next `before`, or `since`."""
    n = RECORDS if params.n is None else params.n
    if params.since is not None and params.before is not None:
        raise InvalidParams("cannot list from both ends: give since or before", key="before")
    records, following = await control.audit.page(
        n, _filter(params), after=params.since, before=params.before
    )
    return {"records": records, "next": following}


@method("audit.verify", "operate", VerifyParams)
async def _verify(control: Control, params: VerifyParams, _caller: Caller) -> object:
    """Goes through the whole chain of hashes; `wrong` tells the first record that is not as it was written."""
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
    return await control.audit.verify(expected)
