"""Formats times for people: in the zone of this machine, short where the day is today.

Programs get the time that the daemon sent, in UTC; so does a person that asks for it.
"""

from datetime import datetime

MILLISECONDS = 23
"""Characters of a time with its milliseconds, without a zone."""


def local(stamp: str) -> str:
    """Returns an RFC 3339 time in local time, with milliseconds; other texts as they are."""
    when = _local(stamp)
    return stamp if when is None else when.isoformat(" ", "milliseconds")[:MILLISECONDS]


def brief(stamp: str, now: float) -> str:
    """Returns an RFC 3339 time in local time, in seconds where it is today, else in minutes with its day."""
    when = _local(stamp)
    if when is None:
        return stamp
    if when.date() == datetime.fromtimestamp(now).date():
        return when.strftime("%H:%M:%S")
    return when.strftime("%Y-%m-%d %H:%M")


def line_time(stamp: str, now: float) -> str:
    """Returns an RFC 3339 time in local time: with milliseconds where it is today, else in seconds with its day."""
    when = _local(stamp)
    if when is None:
        return stamp
    today = datetime.fromtimestamp(now).date()
    if when.date() == today:
        return when.isoformat(" ", "milliseconds")[len("2026-01-01 ") : MILLISECONDS]
    return when.strftime("%m-%d %H:%M:%S" if when.year == today.year else "%Y-%m-%d %H:%M:%S")


def _local(stamp: str) -> datetime | None:
    try:
        when = datetime.fromisoformat(stamp)
        return when.astimezone() if when.tzinfo else None
    except (ValueError, OverflowError):
        return None
