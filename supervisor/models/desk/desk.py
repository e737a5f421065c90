"""Decides whether a worker may call a model, which models may answer, and for which task that counts.

A call is refused with the status of HTTP and a reason: 401 for a key that is not one of a running worker, 404 for a model
that its agent may not use, 429 for a limit or a budget that is used up, with the seconds to wait. Budgets are those that
reported usage counts against, too.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.records.telemetry.tracing import ModelCall, Tracing
from corral.supervisor.tasks.rules.boundaries import overspent
from corral.supervisor.tasks.run.accounting import Accounting
from corral.supervisor.tasks.run.backlog import Entry
from corral.supervisor.tasks.run.cluster import is_on_engine
from corral.supervisor.tenants.quotas.spending import MINUTE_S
from corral.supervisor.workers.lifecycle.state_machine import State
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import NotFound
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import Task
from corral.worker.contract.trace_context import parse

from ..gateway.call_journal import Account, Noted, prices_of
from ..gateway.keys import Keys
from ..gateway.usage import Usage
from .journals import COUNTED, Journals, Opened
from .ledger import Ledger
from .under_way import SETTLE_S, Call, CallsUnderWay

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


class Recall(NamedTuple):
    """Represents a call that may have been answered in an earlier beginning of its task: no limit was looked at yet."""

    unit: str
    entry: Entry
    request: str
    model: DeclaredModel
    above: str | None


class ModelDesk:
    """Decides about the calls of one daemon, and counts them."""

    def __init__(
        self,
        keys: Keys,
        agents: Agents,
        accounting: Accounting,
        ledger: Ledger,
        journals: Journals,
        under_way: CallsUnderWay,
        tracing: Tracing,
    ) -> None:
        self._keys = keys
        self._agents = agents
        self._accounting = accounting
        self._backlog = accounting.backlog
        self._budgets = accounting.budgets
        self.ledger = ledger
        self._journals = journals
        self._under_way = under_way
        self._tracing = tracing
        self._untasked_listeners: list[Callable[[str, int, float], None]] = []
        self.last: dict[str, LastCall] = {}
        """The last call of each model."""

    def subscribe(self, listener: Callable[[str, int, float], None]) -> None:
        """Calls `listener` with the agent, tokens and cents of each call that belongs to no task."""
        self._untasked_listeners.append(listener)

    @property
    def in_flight(self) -> int:
        """Returns the number of calls under way."""
        return len(self._under_way)

    def decide(self, asked: Mapping[str, Any], *, is_new: bool = False) -> Mapping[str, object] | Recall:  # Any: JSON
        """Returns the answer for a call: `go` with the unit and the models that may answer, or `refuse`.

        For an agent with a memo the gateway has to ask again with the name of the `request`; unless the call `is_new`, the
        record of its task comes before all limits.
        """
        claim = self._keys.read(str(asked["key"]))
        supervisor = None if claim is None else self._running(claim.unit)
        if claim is None or supervisor is None:
            reason = "this key is not that of a worker that runs"
            return self._refuse("", "key", 401, reason if asked["key"] else "no key was given")
        name, spec = str(asked["model"]), supervisor.spec
        tenant, models = tenant_of(spec.name), self._agents.config.models
        model = models.get(name)
        if model is None or name not in spec.models or not model.is_for(tenant):
            reason = f'the agent "{spec.name}" has no model "{name}"'
            return self._refuse("", "model", 404, reason, {"models": list(spec.models)})
        try:
            entry = self._task(supervisor, claim.task or str(asked["task"]), str(asked["traceparent"]))
        except NotFound as error:
            return self._refuse(name, "task", 401, error.message)
        above = self._above(entry, str(asked["traceparent"]))
        has_memo = spec.memo and entry is not None and entry.task.durable and not is_on_engine(entry.task.id)
        if has_memo and "request" not in asked:
            return {"op": "read", "unit": claim.unit}
        if has_memo and not is_new and entry is not None:
            return Recall(claim.unit, entry, str(asked["request"]), model, above)
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
        free = [each for each in unspent if self._under_way.of_model(each.name) < each.max_concurrent_calls]
        if not free:
            key = "max_concurrent_calls"
            value = unspent[0].max_concurrent_calls
            reason = f'the model "{unspent[0].name}" has {key} = {value} under way'
            facts = {"limit": key, "value": value, "model": unspent[0].name}
            return self._refuse(name, key, 429, reason, facts, retry_after_s=1.0)
        if entry is not None:
            entry.is_measured = True
        task = None if entry is None else entry.task.id
        call = Call(spec.name, task, {each.name: each for each in free}, above)
        self._under_way.add(asked["call"], call)
        account = Account(agent=spec.name, task=task, prices={each.name: each.prices for each in free})
        return {
            "op": "go",
            "unit": claim.unit,
            "models": [each.name for each in free],
            "account": msgspec.to_builtins(account),
            "keeps": spec.tasks.max_step_bytes if has_memo else 0,
        }

    def used(self, report: Mapping[str, Any]) -> bool:  # Any: JSON
        """Counts what a call has used; returns whether calls are to begin in a new journal."""
        call = self._under_way.take(report["call"])
        if call is None:
            return False  # it was refused
        if "model" in report:  # else it was never passed on
            self._count(call, report)
        self._under_way.ended(call)
        return "journal" in report and self._journals.count(report["journal"], report["position"])

    def journal(self) -> Opened:
        """Returns a new journal, in which the gateway notes the calls that begin from now on."""
        return self._journals.open()

    def closed(self, journal: str) -> None:
        """Notes that all calls of a journal have ended, and are counted."""
        self._journals.finish(journal)

    def _count(self, call: Call, report: Mapping[str, Any]) -> None:  # Any: JSON
        model = call.models.get(report["model"]) or next(iter(call.models.values()))
        usage = Usage(
            input=report["input"], cached=report["cached"], cache_write=report["cache_write"], output=report["output"]
        )
        outcome, status = str(report["outcome"]), int(report["status"])
        self._charge(
            Account(agent=call.agent, task=call.task),
            model.name,
            usage,
            usage.cost_cents(model.prices),
            outcome=outcome,
            is_estimated=bool(report["estimated"]),
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

    def _charge(
        self,
        account: Account,
        model: str,
        usage: Usage,
        cents: float,
        *,
        outcome: str,
        is_estimated: bool,
        has_record: bool = False,
    ) -> None:
        """Adds a call to all sums; `has_record` is true if the record of its task, which has ended, has its usage."""
        self.ledger.add(model, account.agent, usage, cents, outcome=outcome, is_estimated=is_estimated)
        if not usage.tokens and not cents:
            return
        entry = None if account.task is None else self._backlog.find(account.task)
        if entry is not None and not entry.is_ending:
            estimated = usage.tokens if is_estimated else 0
            self._accounting.record_measured(entry, usage.tokens, cents, estimated=estimated)
            return
        self._budgets.charge(account.agent, usage.tokens, cents)
        if not has_record:
            for listener in self._untasked_listeners:
                listener(account.agent, usage.tokens, cents)

    def lost(self) -> None:
        """Counts the calls under way as lost, with what the journals know of them."""
        for name in self._journals.unfinished():
            counted = self._journals.counted(name)
            for noted in (each for each in self._journals.read(name).calls if _is_uncounted(each, counted)):
                self._recover(noted)
                call = self._under_way.take(noted.last.call)
                if call is not None:
                    self._under_way.ended(call)
            self._journals.finish(name)
        for call in self._under_way.drain():  # they were not passed on
            self.ledger.outcomes[next(iter(call.models)), "lost"] += 1

    async def recover(self, tasks: Collection[str], find: Callable[[str], Awaitable[Task | None]]) -> list[Task]:
        """Counts what an earlier daemon has not counted any more; returns the ended tasks whose usage is in their record alone."""
        await self._journals.load()
        now, uncounted = time.time(), list[Noted]()
        for name in self._journals.all():
            counted = self._journals.counted(name)
            for noted in self._journals.read(name).calls:
                line = noted.last
                if _is_uncounted(noted, counted):
                    uncounted.append(noted)
                elif 0 <= now - line.at < MINUTE_S and line.usage.tokens:
                    self.ledger.add_to_minute(line.model, line.usage.tokens, now - line.at)
                    self._budgets.restore_tokens(noted.account.agent, line.usage.tokens, now - line.at)
        named = {noted.account.task for noted in uncounted} - {None}
        ended: dict[str, Task] = {}
        for task_id in {*tasks, *filter(None, named)}:
            record = None if self._backlog.find(task_id) else await find(task_id)
            if record is not None:
                ended[task_id] = record
        found = {task_id: ended[task_id] for task_id in tasks if task_id in ended}
        for noted in uncounted:
            record = ended.get(noted.account.task or "")
            has_record = record is not None and _has_usage(record, noted)
            self._recover(noted, has_record=has_record)
            if record is not None and has_record:
                found[record.id] = record
        # In the same turn of the loop as the figures, so in their transaction.
        for name in self._journals.unfinished():
            self._journals.finish(name)
        return list(found.values())

    def _recover(self, noted: Noted, *, has_record: bool = False) -> None:
        account, line = noted.account, noted.last
        self._charge(
            account,
            line.model,
            line.usage,
            line.usage.cost_cents(prices_of(account, line.model)),
            outcome=line.outcome or "lost",
            is_estimated=line.is_estimated,
            has_record=has_record,
        )

    def _running(self, unit: str) -> WorkerSupervisor | None:
        """Returns the worker that is this unit now."""
        agent = self._agents.agents.get(unit.partition("#")[0].rpartition("-")[0])
        for supervisor in () if agent is None else agent.lives:
            life = supervisor.life
            if supervisor.worker.state not in GONE and life is not None and life.unit == unit:
                return supervisor
        return None

    def _task(self, supervisor: WorkerSupervisor, named: str, traceparent: str) -> Entry | None:
        """Returns the task that a call is for: the named one, that of its trace, else the only one of its worker."""
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

    def _over_budget(self, name: str, supervisor: WorkerSupervisor, entry: Entry | None) -> Mapping[str, object] | None:
        """Returns the refusal of a call whose task, agent or tenant has used what it may."""
        spec = supervisor.spec
        if entry is not None:
            over = overspent(entry.task, entry.children_tokens, entry.children_cost_cents, is_reached=True)
            if over is not None:
                facts = {key: over.data[key] for key in ("limit", "value", "used", "task")}
                return self._refuse(name, str(facts["limit"]), 429, over.message, facts)
        found = self._budgets.exceeded(spec)
        if found is None:
            return None
        whose, excess, wait_s = found
        owner = " ".join(f'the {key} "{value}"' for key, value in whose.items())
        facts = {"limit": excess.key, "value": excess.limit, "used": excess.used or 0, **whose}
        return self._refuse(name, excess.key, 429, f"{owner}: {excess.message}", facts, retry_after_s=wait_s)

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


def _is_uncounted(noted: Noted, counted: int) -> bool:
    return counted != COUNTED and (not noted.end or noted.end > counted)


def _has_usage(record: Task, noted: Noted) -> bool:
    """Returns whether the record of an ended task has the usage of a call: one that had its end before it."""
    if not noted.end or record.finished_at is None:
        return False
    return noted.last.at <= datetime.fromisoformat(record.finished_at).timestamp() + SETTLE_S


def _trace(entry: Entry) -> str | None:
    context = parse(entry.task.traceparent)
    return None if context is None else context.trace
