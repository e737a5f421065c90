"""An interpreter of another installation, as far as an upgrade sees it: run by the wrapper that `other_program` writes.

other_program.py FAULT -P -m corral.supervisor OPTIONS: with "fails" and "hangs" it cannot take up what another one has left.
"""

import sys
import time

from corral.supervisor import __main__ as program
from corral.supervisor.daemon import run
from corral.supervisor.daemon.upgrade import replacement


async def _fail(_: object) -> None:
    raise RuntimeError("a defect of the new version")


async def _hang(_: object) -> None:
    time.sleep(1000)


def main() -> None:
    fault = sys.argv[1]
    del sys.argv[1:5]
    if fault == "refuses" and any(each.startswith("--prove") for each in sys.argv):
        sys.exit("corrald: cannot read this")
    if any(each.startswith("--take-up") for each in sys.argv):
        replacement.ADOPTION_S = 2.0
        if fault in ("fails", "hangs"):
            setattr(run, "load", _fail if fault == "fails" else _hang)  # noqa: B010  # a name that it imports
    program.main()


if __name__ == "__main__":
    main()
