"""Parses the challenges of a `WWW-Authenticate` header (RFC 9110, 11.6.1), as far as MCP uses them.

Values in, values out.
"""

import re

from msgspec import Struct

MAX_CHARS = 4096
"""Characters of a header that are looked at."""

_PART = re.compile(
    r"""[\s,]*(?:
        (?P<key>[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))
      | (?P<scheme>[!#$%&'*+.^_`|~0-9A-Za-z-]+)
    )""",
    re.VERBOSE,
)


class Challenge(Struct, frozen=True, kw_only=True):
    """Represents what a server demands: where its metadata is, and which scopes the request needs."""

    status: int = 401
    scheme: str = "bearer"
    resource_metadata: str = ""
    scope: str = ""
    error: str = ""

    @property
    def wants_more_scope(self) -> bool:
        """Returns True if the token was good, and its scopes did not suffice."""
        return self.error == "insufficient_scope"


def parse(status: int, header: str) -> Challenge:
    """Returns the challenge of a 401 or 403 for a bearer token; one without parameters where the header has none."""
    found: dict[str, str] = {}
    scheme = ""
    for part in _PART.finditer(header[:MAX_CHARS]):
        if part["scheme"] is not None:
            scheme = part["scheme"].lower()
        elif scheme in ("bearer", "dpop"):
            value = part["plain"] if part["quoted"] is None else re.sub(r"\\(.)", r"\1", part["quoted"])
            found.setdefault(part["key"].lower(), value)
    return Challenge(
        status=status,
        resource_metadata=found.get("resource_metadata", ""),
        scope=" ".join(found.get("scope", "").split()),
        error=found.get("error", ""),
    )
