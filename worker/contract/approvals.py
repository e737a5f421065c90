"""Defines the questions of tasks that a person answers: the record, and the worker's request.

Guarantees their types as every side reads them. Keys may be added, never changed or removed. Unknown keys of the worker's request are ignored.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .records import Seconds

ApprovalState = Literal["open", "answered", "expired", "withdrawn"]
ApprovalKind = Literal["question", "permission"]

QUESTION_CHARS = 4_000
OPTION_CHARS = 200
OPTIONS_MOST = 20
KEY_CHARS = 200
ANSWER_CHARS = 64_000

Option = Annotated[str, Meta(min_length=1, max_length=OPTION_CHARS)]
Answer = Annotated[str, Meta(max_length=ANSWER_CHARS)]


class Approval(Struct, frozen=True, kw_only=True):
    """Represents a question of a task: open, or ended by an answer, by its time limit, or with its task.

    `options` are the answers that are permitted; empty: any text. `detail` is what the question is about, any JSON value.
    An expired one has its `default` as `answer`, null where it has none. `answered_by` names the caller.
    One of a form may be declined (`can_decline`): it is answered, with null as `answer`. `server` is the MCP server that
    asks in a tool call of the task; such a question ends with that call.
    """

    id: int
    agent: str
    worker: str | None = None
    task: str
    key: str
    kind: ApprovalKind = "question"
    question: str
    options: list[str] = []
    detail: object = None
    default: str | None = None
    state: ApprovalState = "open"
    answer: str | None = None
    answered_by: str | None = None
    asked_at: str = ""
    expires_at: str = ""
    ended_at: str | None = None
    can_decline: bool = False
    server: str | None = None


class AskParams(Struct, frozen=True):
    """`task/ask` of a worker for its `task`; answered with the record when it has ended.

    The same `key` of the same task is the same question, so that a task which is begun again gets the answer that was
    given meanwhile; without a key the words of the question are it.
    """

    question: Annotated[str, Meta(min_length=1, max_length=QUESTION_CHARS)]
    options: Annotated[list[Option], Meta(max_length=OPTIONS_MOST)] = []
    detail: object = None
    default: Answer | None = None
    timeout_s: Seconds | None = None
    key: Annotated[str, Meta(min_length=1, max_length=KEY_CHARS)] | None = None
    kind: ApprovalKind = "question"
    task: str | None = None
    can_decline: bool = False
