"""Defines the params and results of the methods `approval.*`."""

from typing import Annotated

from msgspec import Meta, Struct

from ..contract.approvals import Answer, Approval

ApprovalNumber = Annotated[int, Meta(ge=1, le=2**53)]


class ApprovalListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects questions: those of an agent or a task, or all; open ones, or with `ended` those that have ended."""

    agent: str | None = None
    task: str | None = None
    ended: bool = False
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000


class ApprovalParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a question."""

    approval: ApprovalNumber


class ApprovalAnswerParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Answers a question: one of its options, in any case; any text where it has none.

    "allow" means the option of consent, whichever word it has: allow, yes, approve or ok; "deny" that of refusal: deny,
    no, reject or refuse. null declines the form that the question belongs to (`can_decline`).
    """

    approval: ApprovalNumber
    answer: Answer | None


class Approvals(Struct, frozen=True, kw_only=True):
    """Lists questions; `more` says whether there are others beyond the limit."""

    approvals: list[Approval]
    more: bool = False
