"""Serves the methods `approval.*` of the table: questions of tasks, which persons answer."""

from corral.supervisor.tenants.tokens.scope import APPROVAL, Rule, knows
from corral.worker.contract.approvals import Approval
from corral.worker.control.approvals import ApprovalAnswerParams, ApprovalListParams, ApprovalParams, Approvals

from ..table.caller import made_by
from ..table.faces import faces
from ..table.table import Caller, Control, method


@method(
    "approval.list",
    "read",
    ApprovalListParams,
    Approvals,
    scope=Rule("agent", lists=(("approvals", "agent"),)),
    faces=faces("GET /approvals", python="list_approvals", command="approvals list"),
)
async def _list(control: Control, params: ApprovalListParams, caller: Caller) -> Approvals:
    """Lists the open questions of tasks, the oldest first; with `ended` those that have ended, the newest first."""
    is_known = knows(caller.agents)
    if params.ended:
        found = await control.approvals.ended_ones(params.agent, params.task, params.limit, is_known)
        return Approvals(approvals=found, more=False)
    found = control.approvals.open(params.agent, params.task)
    if is_known is not None:
        found = [each for each in found if is_known(each.agent)]
    return Approvals(approvals=found[: params.limit], more=len(found) > params.limit)


@method(
    "approval.show",
    "read",
    ApprovalParams,
    Approval,
    scope=APPROVAL,
    faces=faces("GET /approvals/{approval}", python="show_approval", command="approvals show"),
)
async def _show(control: Control, params: ApprovalParams, _caller: Caller) -> Approval:
    """Returns a question of a task, with its answer where it has one."""
    return await control.approvals.show(params.approval)


@method(
    "approval.answer",
    "operate",
    ApprovalAnswerParams,
    Approval,
    recorded="always",
    recorded_keys=("agent", "task", "question", "answer"),
    scope=APPROVAL,
    faces=faces("POST /approvals/{approval}/answer", python="answer_approval", command="approvals allow"),
)
async def _answer(control: Control, params: ApprovalAnswerParams, caller: Caller) -> Approval:
    """Answers an open question of a task, which goes on with the answer; the first one counts, and null declines a form."""
    return await control.approvals.answer(params.approval, params.answer, made_by(caller))
