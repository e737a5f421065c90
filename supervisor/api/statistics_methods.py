"""The method `statistics.show` of the table."""

from ...worker.contract.shapes import StatusParams
from .table import Caller, Control, method


@method("statistics.show", "read", StatusParams)
async def _show(control: Control, params: StatusParams, _caller: Caller) -> object:
    """Processes, tasks and tool calls since the daemon started: in total, and of each agent and server or of `names`."""
    return await control.daemon.statistics.shown(params.names)
