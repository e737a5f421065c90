"""Serves the methods `approval.*` of the table: questions of tasks, which persons answer."""

from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract.approvals import Approval
from corral.worker.control.approvals import ApprovalAnswerParams, ApprovalListParams, ApprovalParams, Approvals
from corral.worker.methods.approval import APPROVAL_ANSWER, APPROVAL_LIST, APPROVAL_SHOW

from ..table.caller import made_by
from ..table.table import Caller, Control, serve


@serve(APPROVAL_LIST)
async def _list(control: Control, params: ApprovalListParams, caller: Caller) -> Approvals:
    is_known = knows(caller.agents)
    if params.ended:
        found = await control.approvals.ended_ones(params.agent, params.task, params.limit, is_known)
        return Approvals(approvals=found, more=False)
    found = control.approvals.open(params.agent, params.task)
    if is_known is not None:
        found = [each for each in found if is_known(each.agent)]
    return Approvals(approvals=found[: params.limit], more=len(found) > params.limit)


@serve(APPROVAL_SHOW)
async def _show(control: Control, params: ApprovalParams, _caller: Caller) -> Approval:
    return await control.approvals.show(params.approval)


@serve(APPROVAL_ANSWER)
async def _answer(control: Control, params: ApprovalAnswerParams, caller: Caller) -> Approval:
    return await control.approvals.answer(params.approval, params.answer, made_by(caller))
