"""An interpreter of another installation, as far as an upgrade sees it: run by the wrapper that `other_program` writes.

other_program.py FAULT -P -m corral.supervisor OPTIONS: with "fails" and "hangs" it cannot take up what another one has left;
with "lingers" it takes long for what it does before the next one is executed.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from corral.supervisor import __main__ as program
from corral.supervisor.daemon import run
from corral.supervisor.daemon.composition.life import settle
from corral.supervisor.daemon.upgrade import replacement
from corral.supervisor.records.store.store import Store

LINGER_S = 1.0


async def _fail(_: object) -> None:
    raise RuntimeError("a defect of the new version")


async def _hang(_: object) -> None:
    time.sleep(1000)


def _linger() -> None:
    """Lets it take long for what it does last."""

    def late(act: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def acts(*what: object) -> None:
            await asyncio.sleep(LINGER_S)
            await act(*what)

        return acts

    setattr(Store, "close", late(Store.close))  # noqa: B010  # a method
    setattr(run, "settle", late(settle))  # noqa: B010  # a name that it imports


def main() -> None:
    fault = sys.argv[1]
    del sys.argv[1:5]
    if fault == "refuses" and any(each.startswith("--prove") for each in sys.argv):
        sys.exit("corrald: cannot read this")
    if fault == "lingers":
        _linger()
    if any(each.startswith("--take-up") for each in sys.argv):
        replacement.ADOPTION_S = 2.0
        if fault in ("fails", "hangs"):
            setattr(run, "load", _fail if fault == "fails" else _hang)  # noqa: B010  # a name that it imports
    program.main()


if __name__ == "__main__":
    main()
