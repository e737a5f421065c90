"""An owner of units as the launcher reports to it."""

import asyncio

from corral.supervisor.workers.process.parent import Exit


class UnitOwner:
    """Keeps the reports of one unit."""

    def __init__(self) -> None:
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.empty = asyncio.Event()

    def exited(self, report: Exit) -> None:
        """Keeps the exit of the leader."""
        self.exit.set_result(report)

    def emptied(self, unit: str) -> None:
        """Notes that no process is left."""
        self.empty.set()
