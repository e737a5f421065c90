"""Reads durations and sizes as other supervisors write them."""

import os
import re

_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)\s*")
_UNITS = {
    **dict.fromkeys(("us", "usec", "µs"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)


def seconds_of(value: object, unit_s: float = 1.0) -> float | None:
    """Returns the seconds of `90`, `1m30s` or `5min 20s`; a bare number counts `unit_s`. None: it is no duration."""
    text = str(value).strip() if value is not None else ""
    if not text or isinstance(value, bool):
        return None
    total, end = 0.0, 0
    for found in _PARTS.finditer(text):
        if found.start() != end or found[2].lower() not in _UNITS:
            return None
        total += float(found[1]) * (_UNITS[found[2].lower()] if found[2] else unit_s)
        end = found.end()
    return round(total, 6) if end == len(text) else None


def size_of(value: object) -> str | int | None:
    """Returns the size of `512m`, `1G` or `1048576`, in powers of 1024, as `512MiB`. None: it is no size, or 0."""
    found = _SIZE.fullmatch(str(value).strip()) if value is not None else None
    if found is None:
        return None
    size_bytes = int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return size_bytes or None


def local_zone() -> str | None:
    """Returns the name of the time zone of this machine; None: it is UTC, or not known."""
    zone = os.environ.get("TZ", "").removeprefix(":")
    if not zone:
        path = os.path.realpath("/etc/localtime")
        zone = path.partition("/zoneinfo/")[2]
    is_utc = zone in ("", "UTC", "Etc/UTC", "Universal", "Etc/Universal", "Zulu")
    return None if is_utc or not re.fullmatch(r"[A-Za-z0-9_+/-]+", zone) else zone
