"""Puts the forms of an MCP server, which asks during a tool call of a task, to a person as questions of that task.

The clocks of the task stand still meanwhile, as with its own questions. A question ends with the call: nothing takes its
answer afterwards.
"""

import secrets
import time
from collections.abc import Mapping

from corral.mcp.protocol import forms
from corral.worker.contract.approvals import QUESTION_CHARS, AskParams
from corral.worker.contract.errors import MethodNotFound

from ..run.backlog import Entry
from ..run.dispatcher import Dispatcher
from .approvals import Approvals

ELICIT = "elicitation/create"

CAPABILITIES: Mapping[str, object] = {"elicitation": {"form": {}}}
"""Capabilities of the caller of a tool for a task: a person fills in forms."""

LEAST_S = 1.0
"""Seconds that a question is open at least, however little of its call is left."""

RESERVE_S = 2.0
"""Seconds before the end of a call in which its last question expires, so that the server is told; a tenth of a short call."""


class ServerQuestions:
    """Asks the questions of one tool call."""

    def __init__(
        self,
        approvals: Approvals,
        dispatcher: Dispatcher,
        entry: Entry,
        worker: str,
        server: str,
        limit_s: float,
        started: float,
    ) -> None:
        self._approvals = approvals
        self._dispatcher = dispatcher
        self._entry = entry
        self._worker = worker
        self._server = server
        self._ends_at = started + limit_s - min(RESERVE_S, limit_s / 10)

    async def ask_within_request(self, method: str, params: Mapping[str, object]) -> object:
        """Returns the response to a form, while the request of the call waits for it: its time limit holds."""
        return await self.ask(method, params, self._ends_at)

    async def ask(self, method: str, params: Mapping[str, object], ends_at: float | None = None) -> dict[str, object]:
        """Returns the response to a form; its questions expire at `ends_at`, else as those of tasks."""
        attempt = self._entry.attempt
        if method != ELICIT or attempt is None:
            reason = "no-task" if attempt is None else "not-declared"
            text = f'cannot ask "{method}" for MCP server "{self._server}": '
            text += "its task does not run any more" if attempt is None else "forms are asked alone"
            raise MethodNotFound(text, method=method, reason=reason, server=self._server)
        form = secrets.token_hex(8)

        async def put(asked: forms.Asked) -> forms.Reply:
            field = asked.field
            question = AskParams(
                f"MCP server {self._server} asks: {field.question}"[:QUESTION_CHARS],
                list(forms.options_of(field)),
                default=field.default,
                timeout_s=None if ends_at is None else max(ends_at - time.monotonic(), LEAST_S),
                key=f"mcp-{form}-{asked.number}-{asked.attempt}",
                can_decline=True,
            )
            with self._dispatcher.question(self._entry, attempt, question.question):
                record = await self._approvals.ask(self._entry.task, self._worker, question, self._server)
            return forms.Reply(record.state, record.answer)

        return await forms.fill(params, put)
