"""Decodes the range of uids that tenants are given, and chooses one: pure functions of numbers."""

import re
from collections.abc import Collection

from ..decoding.shapes import accepts
from ..decoding.values import Refused

LEAST_UID = 1000
"""Number of the least uid of a range: those below it are the system's."""
MOST_UID = 4_294_967_293
"""Number of the greatest uid: the two above it mean nobody, see setresuid(2)."""
RANGE_MAX = 1_000_000
"""Number of uids in a range at most."""

RANGE = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")


@accepts('"FIRST-LAST"', {"type": "string", "pattern": f"^{RANGE.pattern}$"})
def uid_range(raw: object) -> str:
    """Decodes a range of uids, "FIRST-LAST"."""
    found = RANGE.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise Refused('write a range of uids such as "1900000000-1900065535"')
    first, last = map(int, found.groups())
    if not LEAST_UID <= first <= last <= MOST_UID:
        raise Refused(f"a range begins at {LEAST_UID} or above, and ends at {MOST_UID} or below")
    if last - first >= RANGE_MAX:
        raise Refused(f"a range has at most {RANGE_MAX} uids")
    return found.group()


def uids_of(text: str) -> range:
    """Returns the numbers of a range that `uid_range` has accepted."""
    first, last = text.split("-")
    return range(int(first), int(last) + 1)


def free_uid(uids: range, taken: Collection[int]) -> int | None:
    """Returns the least uid of a range that is not taken; None if all are."""
    return next((uid for uid in uids if uid not in taken), None)
