"""Checks names, values and durations before an engine sees them, and makes the errors of operations."""

import re

from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, ResourceLimitExceeded, Timeout

from .interface import TTL_MIN_S, VALUE_BYTES_MAX

NAME_CHARS_MAX = 256
"""Number of characters of a key, a queue, a subject or an id."""

WORDS_MAX = 12
"""Number of words of a name."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")


def checked(name: str, what: str, *, wildcard: bool = False) -> str:
    """Returns the same name, of a `what`: "key", "queue", "subject", "id"."""
    bare = name.removesuffix("/*") if wildcard else name
    if len(name) > NAME_CHARS_MAX or name.count("/") >= WORDS_MAX:
        limit = f"{NAME_CHARS_MAX} characters and {WORDS_MAX} words"
        raise ResourceLimitExceeded(
            f'cannot use {what} "{name[:40]}...": it is above {limit}', limit=NAME_CHARS_MAX, value=len(name)
        )
    if not _NAME.fullmatch(bare):
        reason = "a name has words of letters, digits, _ and -, with / between"
        raise InvalidParams(f'cannot use {what} "{name}": {reason}', name=name, reason=reason)
    return name


def limited(value: bytes, what: str, name: str) -> bytes:
    """Returns the same value."""
    if len(value) > VALUE_BYTES_MAX:
        raise ResourceLimitExceeded(
            f'cannot store {what} "{name}": {len(value)} bytes are more than {VALUE_BYTES_MAX}',
            name=name,
            limit=VALUE_BYTES_MAX,
            value=len(value),
        )
    return value


def lease_seconds(ttl_s: int | None, key: str) -> int | None:
    """Returns the same duration."""
    if ttl_s is not None and ttl_s < TTL_MIN_S:
        reason = f"a lease has whole seconds, at least {TTL_MIN_S}"
        raise InvalidParams(f'cannot store key "{key}" for {ttl_s} s: {reason}', name=key, reason=reason)
    return ttl_s


def conflict(engine: str, key: str, wanted: int, present: int) -> Conflict:
    """Makes the error of a key that is at another revision."""
    at = f"it is at revision {present}" if present else "it does not exist"
    return Conflict(
        f'cannot store key "{key}" at revision {wanted}: {at}',
        engine=engine,
        name=key,
        revision=present,
        reason="revision",
    )


def no_answer(engine: str, what: str, name: str, reason: str, *, uncertain: bool) -> Timeout:
    """Makes the error of an operation that the engine did not answer in time."""
    return Timeout(
        f'cannot {what} "{name}": {engine}: {reason}', engine=engine, name=name, reason=reason, uncertain=uncertain
    )


def nobody(engine: str, subject: str) -> NotFound:
    """Makes the error of a request that nobody listens for."""
    return NotFound(f'cannot request "{subject}": nothing listens there', engine=engine, name=subject)


def bare(url: str) -> str:
    """Returns an address without userinfo."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
