"""Says which commit this copy of corral was built from."""

import os

DIGITS = 12
"""Digits of a commit that people see."""

GIT_S = 2.0
"""Seconds that git may take."""


def commit() -> str:
    """Returns the commit: what `git archive` wrote beside this file, else that of the checkout; empty where neither is known."""
    folder = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(folder, "commit.txt"), encoding="ascii") as file:
        written = file.read().strip()
    if not written.startswith("$"):
        return written[:DIGITS]
    checkout = os.path.dirname(os.path.dirname(folder))
    if not os.path.exists(os.path.join(checkout, ".git")):
        return ""
    import subprocess  # noqa: PLC0415 - start-up time: not in an installed copy

    command = ["git", "-C", checkout, "rev-parse", f"--short={DIGITS}", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def with_commit(version: str) -> str:
    """Returns the version as `--version` shows it: `1.0.0 (80d90c6ee0b1)`."""
    known = commit()
    return f"{version} ({known})" if known else version
