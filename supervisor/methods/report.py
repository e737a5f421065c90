"""Serves the methods `cost.list` and `task.log` of the table."""

from ...worker.control.reports import CostParams, Costs
from ..access.scope import Rule, knows
from ..api.faces import faces
from ..api.table import Caller, Control, method


@method(
    "cost.list",
    "read",
    CostParams,
    Costs,
    scope=Rule("agent"),
    faces=faces("GET /costs", python="list_costs", command="cost"),
)
async def _costs(control: Control, params: CostParams, caller: Caller) -> Costs:
    """Returns what ended tasks have used, summed by agent, session, tenant, day or hour; also of agents that were removed."""
    return await control.costs.listed(params, knows(caller.agents))
