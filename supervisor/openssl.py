"""Has the daemon begin without OpenSSL: 4.6 MB that few daemons ever need (checks and alerts by https, digests of much data).

It is imported before all else, for what that does: asyncio, uvloop and hashlib, which would load OpenSSL when they are imported,
are imported here, with stand-ins in its place. asyncio and hashlib have another way of their own then, where this Python has one;
uvloop wants the names of what it would need for TLS, which `tls` does without it. Whoever imports `ssl` later has the real one.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

OWN_DIGESTS = (
    "_md5",
    "_sha1",
    "_blake2",
    "_sha3",
    *(("_sha2",) if sys.version_info >= (3, 12) else ("_sha256", "_sha512")),
)
"""Of Python itself, which some distributions leave out."""


class _Never(Exception):
    """In place of classes of `ssl`: nothing is one of them."""


class _StandIn(ModuleType):
    """`ssl`, as far as uvloop names things of it."""

    SSLContext = MemoryBIO = SSLError = CertificateError = _Never
    SSLWantReadError = SSLSyscallError = SSLZeroReturnError = _Never
    create_default_context = _Never
    SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_SYSCALL = 2, 3, 5

    def __getattr__(self, name: str) -> object:
        """What another release may want, at the price of the real one."""
        if name.startswith("__"):  # the import system asks for such
            raise AttributeError(name)
        sys.modules.pop("ssl", None)
        found: object = getattr(importlib.import_module("ssl"), name)
        return found


def _put_off() -> None:
    if "ssl" in sys.modules or "_hashlib" in sys.modules:
        return  # it is loaded already
    absent = dict.fromkeys(
        ("_hashlib", "ssl") if all(map(importlib.util.find_spec, OWN_DIGESTS)) else ("ssl",)
    )
    sys.modules.update(absent)  # type: ignore[arg-type]  # None is how a module is said not to be there
    try:
        for name in ("hashlib", "hmac", "asyncio"):
            importlib.import_module(name)
        sys.modules["ssl"] = _StandIn("ssl")
        importlib.import_module("uvloop")
    finally:
        for name in absent:
            if isinstance(sys.modules.get(name), _StandIn | None):
                sys.modules.pop(name, None)


_put_off()
