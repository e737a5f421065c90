"""Serves the methods `approval.*` of the table: questions of tasks, which persons answer."""

from corral.supervisor.tasks.worker_api.approvals import Approvals as ApprovalDesk
from corral.supervisor.tenants.tokens.scope import knows
from corral.worker.contract.approvals import Approval
from corral.worker.control.approvals import ApprovalAnswerParams, ApprovalListParams, ApprovalParams, Approvals
from corral.worker.methods.approval import APPROVAL_ANSWER, APPROVAL_LIST, APPROVAL_SHOW

from ..table.caller import Caller, made_by
from ..table.handlers import serve


class ApprovalMethods:
    """Serves the methods `approval.*`."""

    def __init__(self, approvals: ApprovalDesk) -> None:
        self._approvals = approvals

    @serve(APPROVAL_LIST)
    async def _list(self, params: ApprovalListParams, caller: Caller) -> Approvals:
        is_known = knows(caller.agents)
        if params.ended:
            found = await self._approvals.ended_ones(params.agent, params.task, params.limit, is_known)
            return Approvals(approvals=found, more=False)
        found = self._approvals.open(params.agent, params.task)
        if is_known is not None:
            found = [each for each in found if is_known(each.agent)]
        return Approvals(approvals=found[: params.limit], more=len(found) > params.limit)

    @serve(APPROVAL_SHOW)
    async def _show(self, params: ApprovalParams, _caller: Caller) -> Approval:
        return await self._approvals.show(params.approval)

    @serve(APPROVAL_ANSWER)
    async def _answer(self, params: ApprovalAnswerParams, caller: Caller) -> Approval:
        return await self._approvals.answer(params.approval, params.answer, made_by(caller))
