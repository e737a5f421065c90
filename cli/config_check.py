"""Checks a configuration file as corrald does, in a process of its own."""

import subprocess
import sys

CHECK_S = 20.0
"""Seconds for one check."""


def problem_of(path: str | None = None) -> str:
    """Returns the mistakes that `corrald --check` finds, one on each line; empty if there are none."""
    check = [sys.executable, "-P", "-m", "corral.supervisor", "--check"]
    check += [] if path is None else ["--config", path]
    try:
        done = subprocess.run(
            check, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CHECK_S, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot check it: {error}"
    lines = [line.removeprefix("corrald: ") for line in done.stderr.strip().splitlines()]
    return "" if done.returncode == 0 else "\n".join(lines)
