"""Represents what tasks have cost and logged, and requests for approval."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..contract.approvals import Answer, Approval
from ..contract.records import Moment

CostGroup = Literal["agent", "session", "tenant", "day", "hour"]
"""By what cost is summed; days and hours are those of UTC."""


class CostParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects cost by the hour in which tasks ended, in seconds of the Unix epoch, and by agent; `limit` sums are returned at most.

    Older than a week, cost is known by day and agent only.
    """

    by: CostGroup = "agent"
    since: Moment | None = None
    until: Moment | None = None
    agent: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000


class Cost(Struct, frozen=True, kw_only=True):
    """Represents what tasks have used. Tokens and cents are what their agents have reported.

    `name` is the agent or tenant, null for all; `at` is when the day or hour begins. `failed` are those of `tasks` that
    neither succeeded nor were cancelled. `cpu_ms` is the processor time of their workers.
    """

    name: str | None
    session: str | None
    at: str | None
    tasks: int
    failed: int
    tokens: int
    cost_cents: float
    cpu_ms: float


class Costs(Struct, frozen=True, kw_only=True):
    """Represents the result of `cost.list`: the most expensive first, days and hours in order; `total` is of all that were selected.

    `since` is the beginning of the first hour that counts.
    """

    by: CostGroup
    since: str | None
    costs: list[Cost]
    total: Cost


TaskStep = Literal["queued", "started", "progress", "log", "call", "delegated", "retried", "ended"]
"""The kind of an entry in the log of a task."""


class TaskLogParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a task. With `follow` entries are sent as they come, until it has ended; `lines` log lines are returned at most, the last."""

    task: str
    follow: bool = False
    lines: Annotated[int, Meta(ge=0, le=5_000)] = 1_000


class TaskLogEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Represents one moment of a task.

    `after_s` is the time since the task came, `duration_s` that which a call, an attempt or a delegated task took. `name` is the
    tool, or the agent that a task was delegated to; `task` is the delegated one. `outcome` is that of a call, or the state in which a
    task ended. `memory_bytes` is the peak of an attempt, or what the worker used.
    """

    at: str
    step: TaskStep
    after_s: float
    text: str = ""
    attempt: int | None = None
    worker: str | None = None
    level: str | None = None
    name: str | None = None
    task: str | None = None
    outcome: str | None = None
    duration_s: float | None = None
    memory_bytes: int | None = None
    cpu_ms: float | None = None
    tool_calls: int | None = None
    tokens_used: int | None = None
    cost_cents: float | None = None


class TaskLog(Struct, frozen=True, kw_only=True):
    """Represents the result of `task.log`: the entries in order of time, none with `follow`, which has sent them."""

    task: str
    state: str
    entries: list[TaskLogEntry]


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


InboxKind = Literal["question", "gave-up", "budget", "failed", "done"]
"""The need of an item: an open question, a worker that gave up, a budget that is used up, a task that failed or succeeded."""


INBOX_RANKS: dict[str, int] = {"question": 0, "gave-up": 1, "budget": 1, "failed": 1, "done": 2}
"""Place of each kind in the inbox, within which the newest is first."""


class InboxItem(Struct, frozen=True, kw_only=True):
    """Represents what waits for a person. `text` is the question, the error, or the objective of a task that succeeded.

    `approval` is the number of a question, with the answers that are permitted, `options`. One that was `seen` is
    listed for as long as it is needed.
    """

    id: str
    kind: InboxKind
    at: str
    agent: str
    worker: str | None = None
    task: str | None = None
    text: str
    approval: int | None = None
    options: list[str] = []
    expires_at: str | None = None
    seen: bool = False


class InboxListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects items: those of an agent, or all."""

    agent: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000


class InboxItems(Struct, frozen=True, kw_only=True):
    """Lists items, the newest need first: questions, other needs, good ends. `needs_you` counts all but good ends and what was seen.

    `more` says whether there are others beyond the limit.
    """

    items: list[InboxItem]
    needs_you: int
    more: bool = False


class InboxSeenParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names items by their ids, or with `all` takes all."""

    items: Annotated[list[str], Meta(max_length=10_000)] = []
    all: bool = False


class InboxSeen(Struct, frozen=True, kw_only=True):
    """Represents the result of `inbox.seen`: the ids."""

    seen: list[str]


class Approvals(Struct, frozen=True, kw_only=True):
    """Lists questions; `more` says whether there are others beyond the limit."""

    approvals: list[Approval]
    more: bool = False
