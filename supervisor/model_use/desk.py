"""Decides whether a worker may call a model, which models may answer, and for which task that counts.

A call is refused with the status of HTTP and a reason: 401 for a key that is not one of a running worker, 404 for a model
that its agent may not use, 429 for a limit or a budget that is used up, with the seconds to wait. Budgets are those that
reported usage counts against, too.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...worker.contract.errors import NotFound
from ...worker.contract.names import tenant_of
from ...worker.contract.trace_context import parse
from ..agents.agents import Agents
from ..lifecycle.state_machine import State
from ..models.declared import DeclaredModel
from ..models.keys import Keys
from ..models.usage import Usage
from ..supervision.worker_supervisor import WorkerSupervisor
from ..task_rules.boundaries import overspent
from ..tasks.accounting import Accounting, Budgets
from ..tasks.backlog import Backlog, Entry
from ..telemetry.tracing import ModelCall, Tracing
from .ledger import Ledger
from .under_way import Call, CallsUnderWay

GONE = frozenset({State.INITIAL, State.TERMINATED})
"""States of a worker whose last process is no more."""
TASK_CHARS = 64
"""Characters of the id of a task in a key or a header."""
LAST_S = 300.0
"""Seconds for which the end of the last call tells the state of a model."""


class LastCall(NamedTuple):
    """Represents the end of the last call of a model that reached its provider."""

    at: float
    is_ok: bool
    reason: str


class ModelDesk:
    """Decides about the calls of one daemon, and counts them.

    Args:
        keys: reads the keys of workers.
        models: returns the models of the configuration in force.
        agents: finds workers.
        backlog: finds tasks.
        accounting: is report what tasks use.
        budgets: are the limits of agents and tenants.
        ledger: sums.
        under_way: the calls that were let pass.
        untasked: called with agent, tokens and cents of a call that counts for no task.
        tracing: makes the span of each call.
    """

    def __init__(
        self,
        keys: Keys,
        models: Callable[[], Mapping[str, DeclaredModel]],
        agents: Agents,
        backlog: Backlog,
        accounting: Accounting,
        budgets: Budgets,
        ledger: Ledger,
        under_way: CallsUnderWay,
        untasked: Callable[[str, int, float], None],
        tracing: Tracing | None = None,
    ) -> None:
        self._keys = keys
        self._models = models
        self._agents = agents
        self._backlog = backlog
        self._accounting = accounting
        self._budgets = budgets
        self.ledger = ledger
        self._untasked = untasked
        self._under_way = under_way
        self._tracing = tracing or Tracing()
        self.last: dict[str, LastCall] = {}
        """The last call of each model."""

    @property
    def in_flight(self) -> int:
        """Returns the number of calls under way."""
        return len(self._under_way)

    def decide(self, asked: Mapping[str, Any]) -> Mapping[str, object]:  # Any: JSON
        """Returns the answer for a call: `go` with the unit and the models that may answer, or `refuse`."""
        claim = self._keys.read(str(asked["key"]))
        supervisor = None if claim is None else self._running(claim.unit)
        if claim is None or supervisor is None:
            reason = "this key is not that of a worker that runs"
            return self._refuse("", "key", 401, reason if asked["key"] else "no key was given")
        name, spec = str(asked["model"]), supervisor.spec
        tenant, models = tenant_of(spec.name), self._models()
        model = models.get(name)
        if model is None or name not in spec.models or not model.is_for(tenant):
            reason = f'the agent "{spec.name}" has no model "{name}"'
            return self._refuse("", "model", 404, reason, {"models": list(spec.models)})
        try:
            entry = self._task(
                supervisor, claim.task or str(asked["task"]), str(asked["traceparent"])
            )
        except NotFound as error:
            return self._refuse(name, "task", 401, error.message)
        if (refusal := self._over_budget(name, supervisor, entry)) is not None:
            return refusal
        chosen = [model, *(models[each] for each in model.fallback if each in models)]
        chosen = [each for each in chosen if each.is_for(tenant)]
        unspent = [each for each in chosen if self.ledger.exceeded(each) is None]
        if not unspent:
            found = self.ledger.exceeded(model)
            assert found is not None, "it has just been so"
            key, limit, used, wait_s = found
            reason = f'the model "{name}" has used {used:g} of {key} = {limit:g}'
            facts = {"limit": key, "value": limit, "used": used, "model": name}
            return self._refuse(name, key, 429, reason, facts, retry_after_s=wait_s)
        # Counted here, not by the gateway alone: a limit can be passed by no more than this lets pass.
        free = [
            each
            for each in unspent
            if self._under_way.of_model(each.name) < each.max_concurrent_calls
        ]
        if not free:
            key = "max_concurrent_calls"
            value = unspent[0].max_concurrent_calls
            reason = f'the model "{unspent[0].name}" has {key} = {value} under way'
            facts = {"limit": key, "value": value, "model": unspent[0].name}
            return self._refuse(name, key, 429, reason, facts, retry_after_s=1.0)
        if entry is not None:
            entry.is_measured = True
        task = None if entry is None else entry.task.id
        above = self._above(entry, str(asked["traceparent"]))
        call = Call(spec.name, task, {each.name: each for each in free}, above)
        self._under_way.add(asked["call"], call)
        return {"op": "go", "unit": claim.unit, "models": [each.name for each in free]}

    def used(self, report: Mapping[str, Any]) -> None:  # Any: JSON
        """Counts what a call has used."""
        call = self._under_way.take(report["call"])
        if call is None:
            return  # it was refused
        if "model" in report:  # else it was never passed on
            self._count(call, report)
        self._under_way.ended(call)

    def _count(self, call: Call, report: Mapping[str, Any]) -> None:  # Any: JSON
        model = call.models.get(report["model"]) or next(iter(call.models.values()))
        usage = Usage(
            input=report["input"],
            cached=report["cached"],
            cache_write=report["cache_write"],
            output=report["output"],
        )
        outcome, status = str(report["outcome"]), int(report["status"])
        cents = self.ledger.add(
            model, call.agent, usage, outcome=outcome, is_estimated=bool(report["estimated"])
        )
        spent = ModelCall(
            model.model or model.name,
            model.kind,
            call.agent,
            call.task,
            float(report["duration_s"]),
            (usage.tokens - usage.output, usage.output),
            outcome,
        )
        self._tracing.modelled(call.above, spent)
        if outcome != "cancelled":
            is_ok = outcome == "ok" or (400 <= status < 500 and status not in (401, 403, 429))
            reason = "" if is_ok else "it was cut" if outcome == "cut" else f"status {status}"
            self.last[model.name] = LastCall(time.monotonic(), is_ok, reason)
        if not usage.tokens and not cents:
            return
        entry = None if call.task is None else self._backlog.find(call.task)
        if entry is not None and not entry.is_ending:
            self._accounting.record_measured(entry, usage.tokens, cents)
        else:
            self._budgets.charge(call.agent, usage.tokens, cents)
            self._untasked(call.agent, usage.tokens, cents)

    def lost(self) -> None:
        """Counts the calls under way, of which nothing is known any more, as lost."""
        for call in self._under_way.drain():
            self.ledger.outcomes[next(iter(call.models)), "lost"] += 1

    def _running(self, unit: str) -> WorkerSupervisor | None:
        """Returns the worker that is this unit now."""
        worker = unit.partition("#")[0]
        agent = self._agents.agents.get(worker.rpartition("-")[0])
        for supervisor in () if agent is None else agent.lives:
            life = supervisor.life
            if supervisor.worker.state not in GONE and life is not None and life.unit == unit:
                return supervisor
        return None

    def _task(self, supervisor: WorkerSupervisor, named: str, traceparent: str) -> Entry | None:
        """Returns the task that a call is for: the named one, that of its trace, else the only one of its worker.

        Raises:
            NotFound: its worker does not run the task that it names.
        """
        if named:
            return self._accounting.task_of(supervisor, named[:TASK_CHARS])
        if len(supervisor.running) > 1 and (context := parse(traceparent)) is not None:
            running = filter(None, map(self._backlog.find, supervisor.running))
            found = [entry for entry in running if _trace(entry) == context.trace]
            if len(found) == 1:
                return found[0]
        return self._accounting.task_of(supervisor, None)

    def _above(self, entry: Entry | None, given: str) -> str | None:
        """Returns the traceparent of the span above a call: that of the caller where it is in the trace of its task."""
        own, attempt = parse(given), None
        if entry is not None:
            attempt = self._tracing.of_attempt(entry.task)
            found = parse(attempt)
            if own is None or found is None or own.trace != found.trace:
                return attempt
        return None if own is None else str(own)

    def _over_budget(
        self, name: str, supervisor: WorkerSupervisor, entry: Entry | None
    ) -> Mapping[str, object] | None:
        """Returns the refusal of a call whose task, agent or tenant has used what it may."""
        spec = supervisor.spec
        if entry is not None:
            over = overspent(
                entry.task, entry.children_tokens, entry.children_cost_cents, is_reached=True
            )
            if over is not None:
                facts = {key: over.data[key] for key in ("limit", "value", "used", "task")}
                return self._refuse(name, str(facts["limit"]), 429, over.message, facts)
        found = self._budgets.exceeded(spec)
        if found is None:
            return None
        whose, excess, wait_s = found
        owner = " ".join(f'the {key} "{value}"' for key, value in whose.items())
        facts = {"limit": excess.key, "value": excess.limit, "used": excess.used or 0, **whose}
        reason = f"{owner}: {excess.message}"
        return self._refuse(name, excess.key, 429, reason, facts, retry_after_s=wait_s)

    def _refuse(
        self,
        model: str,
        key: str,
        status: int,
        reason: str,
        facts: Mapping[str, object] | None = None,
        *,
        retry_after_s: float | None = None,
    ) -> Mapping[str, object]:
        self.ledger.refused[model, key] += 1
        return {
            "op": "refuse",
            "status": status,
            "reason": reason,
            "retry_after_s": retry_after_s,
            "facts": dict(facts or {}),
        }


def _trace(entry: Entry) -> str | None:
    context = parse(entry.task.traceparent)
    return None if context is None else context.trace
