"""Defines the methods about questions of agents to a person."""

from ..contract.approvals import Approval
from ..control.approvals import ApprovalAnswerParams, ApprovalListParams, ApprovalParams, Approvals
from .faces import faces
from .method import Signature, access, method
from .rules import APPROVAL, Rule

APPROVAL_LIST = method(
    Signature("approval.list", ApprovalListParams, Approvals),
    access("read", Rule("agent", lists=(("approvals", "agent"),))),
    faces("GET /approvals", python="list_approvals", command="approvals list"),
    "Lists the open questions of tasks, the oldest first; with `ended` those that have ended, the newest first.",
    example={"agent": "crawler"},
)

APPROVAL_SHOW = method(
    Signature("approval.show", ApprovalParams, Approval),
    access("read", APPROVAL),
    faces("GET /approvals/{approval}", python="show_approval", command="approvals show"),
    "Returns a question of a task, with its answer where it has one.",
    example={"approval": 7},
)

APPROVAL_ANSWER = method(
    Signature("approval.answer", ApprovalAnswerParams, Approval),
    access("operate", APPROVAL, recorded="always", recorded_keys=("agent", "task", "question", "answer")),
    faces("POST /approvals/{approval}/answer", python="answer_approval", command="approvals allow"),
    "Answers an open question of a task, which goes on with the answer; the first one counts, and null declines a form.",
    example={"approval": 7, "answer": "allow"},
)
