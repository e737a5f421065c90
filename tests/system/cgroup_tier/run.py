"""Boots a user-mode-linux guest and runs the tests of this folder in it, or those that are named.

    .venv/bin/python -P tests/system/cgroup_tier/run.py [--bound SECONDS] [PYTEST-ARGUMENT…]

The exit status is that of pytest; 75 where this machine cannot boot a guest, with the reason. See tests/support/uml_guest.py.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path += [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "support"),
]  # `python -P` leaves out where the harness is

import uml_guest

HERE = Path(__file__).parent
BOUND_S = 900.0
CANNOT = 75


def in_guest(folder: Path, *arguments: str, bound_s: float, echo: bool = False) -> tuple[int, str]:
    """The exit status and the output of pytest in a guest, with these arguments."""
    python = str(Path(sys.prefix) / "bin" / "python")
    pytest = [python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
    return uml_guest.Guest(folder).run([*pytest, *arguments], bound_s=bound_s, echo=echo)


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the tests of cgroup controllers in a guest.")
    parser.add_argument("--bound", type=float, default=BOUND_S, help="seconds for all of it")
    own, arguments = parser.parse_known_args()
    if lacking := uml_guest.missing():
        print(f"cannot boot a guest: {lacking}", file=sys.stderr)
        return CANNOT
    if not any(word.startswith("tests/") for word in arguments):
        arguments = [*arguments, str(HERE.relative_to(uml_guest.ROOT))]
    with tempfile.TemporaryDirectory(prefix="corral-guest-") as folder:
        return in_guest(Path(folder), *arguments, bound_s=own.bound, echo=True)[0]


if __name__ == "__main__":
    sys.exit(main())
