"""Decides which memory server the daemon starts: the user's own `cortex`, or the built-in one.

It decides from its arguments alone; the caller checks whether a file is executable.
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
    """Returns the command line of the memory server.

    A program named by `explicit` or `$CORTEX_BINARY` is used as written: if it cannot be started, the user gets the
    error, and no other program is started instead. A program found in ./dist, ../dist or PATH must be executable, and
    is looked for only for an ordinary user: root and systemd must not start a file that happens to lie there.
    """
    named = explicit or environ.get("CORTEX_BINARY")
    if named:
        return (named, *args)
    if ordinary_user:
        # An empty or relative entry of PATH means the current directory, whose owner may vary.
        entries = (e for e in environ.get("PATH", "").split(":") if e.startswith("/"))
        for place in (f"{folder}/dist", f"{folder}/../dist", *entries):
            candidate = f"{place.rstrip('/')}/cortex"
            if is_executable(candidate):
                return (candidate, *args)
    return (python, "-P", "-m", "corral.mcp.cortex", *args)
