"""Drives a daemon from a program, over the control socket of the daemon.

Guarantees that a broken connection is an `Unreachable` with a reason, that a call is never sent twice, and that a
program which embeds a daemon leaves nothing of it behind. It must not know the daemon's own packages. Begin with
`runtime` (`corral.AgentRuntime`, asyncio) or `sync` (blocking, without asyncio: the `corral` command uses it).

Programs import `Client` and the names beside it from this package; they are loaded on first use (PEP 562), so that
importing one module of the room imports no other.
"""

TYPE_CHECKING = False  # as type checkers know it; importing typing takes milliseconds
if TYPE_CHECKING:
    from .sync import SOCKET_PATH_BYTES_MAX, Client, await_daemon, default_socket

__all__ = ["SOCKET_PATH_BYTES_MAX", "Client", "await_daemon", "default_socket"]

if not TYPE_CHECKING:  # else a checker would accept any name

    def __getattr__(name: str) -> object:
        """Imports a name of `sync` on first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import sync  # noqa: PLC0415  a module of the room must not import the others

        return getattr(sync, name)
