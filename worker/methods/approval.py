"""Defines the methods about questions of agents to a person."""

from ..contract.approvals import Approval
from ..control.approvals import ApprovalAnswerParams, ApprovalListParams, ApprovalParams, Approvals
from .faces import faces
from .method import method
from .rules import APPROVAL, Rule

APPROVAL_LIST = method(
    "approval.list",
    "read",
    ApprovalListParams,
    Approvals,
    scope=Rule("agent", lists=(("approvals", "agent"),)),
    faces=faces("GET /approvals", python="list_approvals", command="approvals list"),
    doc="Lists the open questions of tasks, the oldest first; with `ended` those that have ended, the newest first.",
    example={"agent": "crawler"},
)

APPROVAL_SHOW = method(
    "approval.show",
    "read",
    ApprovalParams,
    Approval,
    scope=APPROVAL,
    faces=faces("GET /approvals/{approval}", python="show_approval", command="approvals show"),
    doc="Returns a question of a task, with its answer where it has one.",
    example={"approval": 7},
)

APPROVAL_ANSWER = method(
    "approval.answer",
    "operate",
    ApprovalAnswerParams,
    Approval,
    recorded="always",
    recorded_keys=("agent", "task", "question", "answer"),
    scope=APPROVAL,
    faces=faces("POST /approvals/{approval}/answer", python="answer_approval", command="approvals allow"),
    doc="Answers an open question of a task, which goes on with the answer; the first one counts, and null declines a form.",
    example={"approval": 7, "answer": "allow"},
)
