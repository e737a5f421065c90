"""Keeps what models have answered for agents with a memo, as steps of their tasks, and answers from that.

An answer from the record has cost nothing: it is in no sum, and no limit holds it back. It is told as the outcome `recorded`.
"""

import time
from collections.abc import Mapping
from typing import Any

from corral.supervisor.records.telemetry.tracing import ModelCall, Tracing
from corral.supervisor.tasks.run.backlog import Backlog
from corral.supervisor.tasks.run.steps import MEMO, Steps
from corral.worker.contract.errors import CorralError
from corral.worker.contract.worker_messages import StepParams

from .desk import Recall
from .ledger import Ledger

RECORDED = "recorded"
"""Outcome of a call that was answered from the record of its task."""


class Answers:
    """Keeps the answers of models of one daemon; belongs to the loop's thread."""

    def __init__(self, backlog: Backlog, steps: Steps, ledger: Ledger, tracing: Tracing) -> None:
        self._backlog = backlog
        self._steps = steps
        self._ledger = ledger
        self._tracing = tracing

    async def recall(self, asked: Recall) -> Mapping[str, object] | None:
        """Returns the message with the recorded answer of a call, None where it has to be made."""
        entry, began = asked.entry, time.monotonic()
        try:
            place = await entry.memo_now().take(entry.task, self._steps, asked.request)
            if place is None or not place.is_answered:
                return None
            (step,) = await self._steps.of(entry.task, place.number - 1, 1)
        except CorralError as error:
            return {"op": "refuse", "status": 503, "reason": error.message}
        entry.is_measured = True  # its agent may report the usage of the answer as its own
        self._ledger.outcomes[asked.model.name, RECORDED] += 1
        name, kind, agent = asked.model.model or asked.model.name, asked.model.kind, entry.task.agent
        spent = ModelCall(name, kind, agent, entry.task.id, time.monotonic() - began, (0, 0), RECORDED)
        self._tracing.modelled(asked.above, spent)
        return {"op": "recorded", "unit": asked.unit, "step": step.name, "answer": step.result}

    async def keep(self, told: Mapping[str, Any]) -> None:  # Any: JSON
        """Keeps an answer that a worker is about to get; it is durable when this returns, unless it is too long or too much."""
        entry = self._backlog.find(told["task"])
        attempt = None if entry is None else entry.attempt
        life = None if attempt is None else attempt.supervisor.life
        if entry is None or attempt is None or life is None or life.unit != told["unit"]:
            return  # its worker is gone, and with it who asked
        memo, section = entry.memo_now(), attempt.supervisor.spec.tasks
        if told.get("answer") is None:
            memo.tell(entry.task, f"it has more than {section.max_step_bytes} bytes (max_step_bytes)")
            return
        place = memo.place(told["request"], section.max_steps)
        if place is None:
            memo.tell(entry.task, f"it has {section.max_steps} steps already (max_steps)")
            return
        times = {"at": told["at"], "duration_s": told["duration_s"]}
        ended = StepParams(entry.task.id, place.number, place.name, MEMO, **times, result=told["answer"])
        try:
            await self._steps.put(entry.task, ended, section.max_step_bytes)
        except CorralError as error:
            memo.tell(entry.task, error.message)
