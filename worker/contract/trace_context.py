"""Reads and writes the trace context of W3C, by which spans of several programs become one trace.

A *traceparent* is `00-TRACE-SPAN-FLAGS` in hexadecimal digits: see https://www.w3.org/TR/trace-context/. It is passed on as text;
one that is not valid is ignored, as that document asks for. Commands import this module: it must stay cheap.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

PATTERN = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"

KEY = "traceparent"
"""Name of the header, of the key of MCP's `_meta`, and of the key of params."""

VARIABLE = "TRACEPARENT"
"""Environment variable from which commands take it."""

_SAMPLED = 1

_matches = re.compile(PATTERN).match


class TraceContext(NamedTuple):
    """Represents one span as others name it: trace and span in hexadecimal digits, and the flags."""

    trace: str
    span: str
    flags: int = _SAMPLED

    @property
    def is_sampled(self) -> bool:
        """Returns whether the spans of this trace are recorded."""
        return bool(self.flags & _SAMPLED)

    def __str__(self) -> str:
        return f"00-{self.trace}-{self.span}-{self.flags:02x}"


def parse(value: object) -> TraceContext | None:
    """Returns the context that a traceparent names; None if it is none."""
    if not isinstance(value, str) or not _matches(value) or len(value) != 55:
        return None
    _, trace, span, flags = value.split("-")
    if not int(trace, 16) or not int(span, 16):
        return None
    return TraceContext(trace, span, int(flags, 16))


def is_silent(traceparent: str | None) -> bool:
    """Returns whether a valid traceparent says that its trace is not recorded; the cheapest question about one."""
    return traceparent is not None and traceparent[-1] in "02468ace"


def valid(value: object) -> str | None:
    """Returns a traceparent as it is; None if it is none."""
    found = parse(value)
    return None if found is None else str(found)


def of_environment(environ: Mapping[str, str] | None = None) -> str | None:
    """Returns the traceparent of this process's environment, None without a valid one."""
    return valid((os.environ if environ is None else environ).get(VARIABLE))
