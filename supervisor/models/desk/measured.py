"""Tells tasks what calls of models have used, so that a task ends with the usage of all its calls."""

from collections.abc import Callable, Collection

from corral.supervisor.tasks.run.accounting import Measured
from corral.supervisor.tasks.run.table import Records
from corral.worker.contract.records import Task

from .desk import ModelDesk
from .process import ModelGateway
from .under_way import CallsUnderWay


class MeasuredCalls(Measured):
    """Joins the gateway, which measures, with the calls of one daemon that are under way."""

    def __init__(self, gateway: ModelGateway, desk: ModelDesk, under_way: CallsUnderWay, records: Records) -> None:
        self._gateway = gateway
        self._desk = desk
        self._under_way = under_way
        self._records = records
        self._listeners: list[Callable[[Task], None]] = []

    def subscribe(self, listener: Callable[[Task], None]) -> None:
        """Calls `listener` with each ended task of an earlier daemon whose usage is in its record alone."""
        self._listeners.append(listener)

    def settle(self) -> None:
        """Takes in at once what was measured until now."""
        self._gateway.settle()

    async def settled(self, task: str) -> None:
        """Returns when no call of a task is under way, or after a moment."""
        await self._under_way.settled(task)

    async def recover(self, tasks: Collection[str]) -> None:
        """Counts what an earlier daemon has not counted any more, also of these tasks, which have ended."""
        for task in await self._desk.recover(tasks, self._records.find):
            for listener in self._listeners:
                listener(task)
