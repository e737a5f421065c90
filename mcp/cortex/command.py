"""Which memory server the daemon starts: the user's own `cortex`, or the built-in one.

It decides from what it is given; whether a file can be executed is asked of the caller.
"""

from collections.abc import Callable, Mapping, Sequence


def command(
    explicit: str | None,
    args: Sequence[str],
    environ: Mapping[str, str],
    *,
    ordinary_user: bool,
    is_executable: Callable[[str], bool],
    python: str,
    folder: str = ".",
) -> tuple[str, ...]:
    """The command line of the memory server.

    What is named, by `explicit` or `$CORTEX_BINARY`, is taken as it is written: when it cannot be
    started, that is an error for the user to see, not a reason to start something else. What is only
    found (in ./dist, ../dist, PATH) must be executable, and is looked for only for an ordinary user:
    root and systemd must not start what somebody left lying about.

    Args:
        explicit: `[mcp] cortex_binary_path`, if it is set.
        args: `[mcp] cortex_args`.
        environ: the daemon's environment: CORTEX_BINARY and PATH.
        ordinary_user: neither root nor started by systemd.
        is_executable: whether a path is a file that can be executed.
        python: the interpreter for the built-in server.
        folder: what ./dist and ../dist are relative to.
    """
    named = explicit or environ.get("CORTEX_BINARY")
    if named:
        return (named, *args)
    if ordinary_user:
        # An empty or relative entry of PATH means the current directory: whoever owns that may change.
        entries = (e for e in environ.get("PATH", "").split(":") if e.startswith("/"))
        for place in (f"{folder}/dist", f"{folder}/../dist", *entries):
            candidate = f"{place.rstrip('/')}/cortex"
            if is_executable(candidate):
                return (candidate, *args)
    return (python, "-P", "-m", "corral.mcp.cortex", *args)
