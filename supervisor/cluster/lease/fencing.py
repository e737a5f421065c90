"""Orders fencing tokens, so that a write of a node that comes back late is refused.

A token is an integer that grows over all nodes: the revision at which the engine stored an assignment. Each record has the
token of its last writer. An older token never replaces a newer one; the same token may write again.
"""

from typing import Literal

from msgspec import Struct


class Record(Struct, frozen=True):
    """Represents a record of the cluster: the token of its last writer, and whether it has ended for good."""

    token: int = 0
    is_final: bool = False


Verdict = Literal["write", "late", "ended"]


def judge(record: Record, token: int) -> Verdict:
    """Returns whether a writer with `token` may write: not if a newer one wrote, and nothing ends twice."""
    if token < record.token:
        return "late"
    return "ended" if record.is_final else "write"


def written(record: Record, token: int, *, is_final: bool = False) -> Record:
    """Returns the record after a write that `judge` permits."""
    assert judge(record, token) == "write", "a write that is refused is not performed"
    return Record(token, is_final)
