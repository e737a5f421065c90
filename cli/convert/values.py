"""Reads single values as other supervisors write them: each returns the value as corral has it, or raises Unfit."""

import os
import pwd
import re

from .draft import FOREVER_S, Unfit, keys, ref

_UNITS = keys(
    {
        **{
            "ns nsec": 1e-9,
            "us usec µs μs": 1e-6,
            "ms msec": 1e-3,
            "s sec second seconds": 1.0,
            "m min minute minutes": 60.0,
        },
        **{"h hr hour hours": 3600.0, "d day days": 86_400.0, "w week weeks": 604_800.0, "M month months": 2_629_800.0},
        "y year years": 31_557_600.0,
    }
)
"""Seconds of each unit of systemd.time(7): case counts, M is a month. Those of the other programs are among them."""

_PART = rf"(\d+(?:\.\d+)?|\.\d+)\s*({'|'.join(sorted(_UNITS, reverse=True))}|)\s*"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtpe]?)i?b?", re.IGNORECASE)
YES, NO = ("true", "yes", "1", "on", "y", "t"), ("false", "no", "0", "off", "n", "f")


def text(value: object) -> str:
    """Returns a scalar as the text that is written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        raise Unfit("it is no single value")
    return "" if value is None else str(value)


def flag(value: object) -> bool:
    """Returns a boolean in any of its spellings."""
    word = text(value).lower()
    if word not in YES and word not in NO:
        raise Unfit("it is neither true nor false")
    return word in YES


def number(value: object) -> int:
    """Returns a whole number, and nothing that only begins with one."""
    if not re.fullmatch(r"[+-]?\d{1,18}", text(value)):
        raise Unfit("it is no whole number")
    return int(text(value))


def seconds(value: object, unit_s: float = 1.0) -> float:
    """Returns the seconds of `90`, `1m30s` or `5min 20s`; a bare number counts `unit_s`."""
    written = text(value).strip()
    if not re.fullmatch(f"(?:{_PART})+", written):
        raise Unfit("it is no duration")
    return round(
        sum(float(count) * (_UNITS[unit] if unit else unit_s) for count, unit in re.findall(_PART, written)), 6
    )


def milliseconds(value: object) -> float:
    """Returns the seconds of a duration whose bare number counts milliseconds."""
    return seconds(value, 0.001)


def time_limit(value: object) -> float:
    """Returns the seconds of a limit for which 0 and infinity say that there is none."""
    return FOREVER_S if text(value) == "infinity" else seconds(value) or FOREVER_S


def size(value: object) -> str | int:
    """Returns the size of `512m`, `1G` or `1048576`, in powers of 1024, as `512MiB`."""
    found = _SIZE.fullmatch(text(value).strip())
    if found is None:
        raise Unfit("it is no size in bytes")
    size_bytes = int(float(found[1]) * 1024 ** " kmgtpe".index(found[2].lower() or " "))
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return size_bytes


def signal(value: object) -> str:
    """Returns the name of a signal with SIG before it."""
    return "SIG" + text(value).upper().removeprefix("SIG")


def home_of(user: object) -> str:
    """Returns the home folder of a user of this machine, by name or number; None is the user of corrald."""
    if user is None:
        return ref("HOME")
    try:
        name = str(user)
        return (pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)).pw_dir
    except KeyError:
        raise Unfit(f"the home of {user} is not known: there is no such user on this machine") from None


def local_zone() -> str | None:
    """Returns the name of the time zone of this machine; None: it is UTC, or not known."""
    zone = os.environ.get("TZ", "").removeprefix(":")
    if not zone:
        zone = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    is_utc = zone in ("", "UTC", "Etc/UTC", "Universal", "Etc/Universal", "Zulu")
    return None if is_utc or not re.fullmatch(r"[A-Za-z0-9_+/-]+", zone) else zone
