"""Decides whether a new task is accepted, and with which record: all that precedes the queue.

A refusal names its reason and, for a full queue, the seconds after which to retry. Changes no queue, writes nothing. Which
agent a task is for is decided in `routing`.
"""

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Sequence

from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.spec.job import job_task
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.tenants.quotas.fair_share import has_room
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.worker.contract.errors import InvalidParams, Overloaded, ResourceLimitExceeded, ShuttingDown
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.contract.records import Boundaries, Task, TaskKind, TaskParams, copied
from corral.worker.contract.trace_context import valid

from ..rules.boundaries import normalised
from ..rules.payload import RECORD_MARGIN_BYTES, check_format, check_input, words_bytes
from .backlog import Entry, Origin
from .record_writer import RecordWriter
from .routing import Routing
from .task_rules import TaskRules

ENDS_KEPT = 1_000
"""Number of ends from which the rate of a queue is computed."""

ROOM = 0.05
"""Fraction of the places that is likely to be free when a refused caller may retry."""

RATE_S = 60.0
"""Seconds of ends from which the rate of a queue is computed."""


NOT_OF_JOBS = ("input", "context", "session", "sticky_key", "output_format")
"""Params of a task that only a handler can use."""


COPIED = (
    "objective input context output_format required_capabilities idempotency_key sticky_key session durable retry when_down"
    " queue_timeout_s"
)
"""Fields of its params that a task has as they are."""


class Admission:
    """Accepts or refuses the new tasks of one daemon."""

    def __init__(
        self,
        writer: RecordWriter,
        agents: Agents,
        routing: Routing,
        rules: TaskRules,
        tenants: TaskLimits,
        tracing: Tracing,
    ) -> None:
        self._backlog = writer.backlog
        self._agents = agents
        self._registry = agents.registry
        self._routing = routing
        self.kind = routing.kind
        self._rules = rules
        self._tenants = tenants
        self._tracing = tracing
        self._loop = asyncio.get_running_loop()
        self._ids = _Ids()
        self._began = self._loop.time()
        self._ends: deque[tuple[float, str]] = deque(maxlen=ENDS_KEPT)
        self.refused = Counter[str]()
        """Number of tasks for which a queue had no place, by agent, or by the key of the queue of all."""
        writer.subscribe_to_ends(self._note_end)

    def check(
        self, params: TaskParams, tenant: str = "", *, is_taken: bool = False
    ) -> tuple[TaskParams, TaskKind, list[Agent]]:
        """Returns the normalised params of a task, its kind, and the agents that it may be for: none for a group.

        One that the cluster has accepted, and this node has taken, is for a worker here. A capability is looked for among
        the agents and groups of `tenant` alone, "" for the owner's. The names that a tenant gives are its own.
        """
        self.check_open()
        if params.agent is None:
            params = self._routing.for_group(params, tenant)
        elif tenant:
            params = self._routing.own_name(params, params.agent, tenant)
        self._agents.tenants.check_active(params.agent or qualified("", tenant), "give a task to")
        kind: TaskKind = "task" if is_taken else self.kind(params.agent)
        if kind == "job" and not params.objective:
            params = job_of(self._registry.of(params.agent or "").spec, params)
        params = normalised(params)
        if params.output_format is not None:
            check_format(params.output_format)
        if kind == "job":
            agent = self._registry.of(params.agent or "")
            for key in NOT_OF_JOBS:
                if getattr(params, key):
                    text = f'cannot run job "{agent.name}" with {key}: its command is not given any'
                    raise InvalidParams(text, key=key, agent=agent.name)
            self._check_room(agent)
        return params, kind, self._routing.candidates(params, tenant) if kind == "task" else []

    def check_open(self) -> None:
        """Returns while the daemon accepts tasks."""
        if self._registry.draining:
            raise ShuttingDown("cannot take the task: the daemon is stopping")
        if self._agents.emergency.in_force is not None:
            self._agents.emergency.check("take the task")

    def choose(self, able: Sequence[Agent], params: TaskParams) -> str:
        """Returns the agent that is given the task, whose queue has a place for it."""
        agent = self._routing.choose(able, params)
        self._check_room(agent)
        return agent.name

    def check_input(self, name: str, value: object) -> None:
        """Returns if an input matches the `input_schema` of its agent, team or workflow, or there is none."""
        agent = self._registry.agents.get(name)
        found = self._agents.groups.by_name.get(name) if agent is None else agent.spec
        if found is not None and found.input_schema is not None:
            check_input(name, found.input_schema, value)

    def _check_room(self, agent: Agent) -> None:
        name, limit = agent.name, agent.spec.tasks.max_queue_size
        if self._backlog.queued(name) >= limit:
            self.refused[name] += 1
            raise Overloaded(
                f'cannot queue a task for "{name}": {limit} are waiting',
                limit="max_queue_size",
                value=limit,
                agent=name,
                retry_after_s=self._retry_after_s(limit, name),
            )

    def check_tenant(self, name: str, *, is_step: bool) -> None:
        """Returns if the tenant of an agent, team or workflow may submit one more task; a step is no further task in its minute."""
        tenant = tenant_of(name)
        if not tenant:
            return
        waiting, now = self._backlog.waiting(tenant), self._loop.time()
        self._tenants.check(
            tenant, name, waiting, None if is_step else now, retry_after_s=lambda: self._retry_after_s(waiting, None)
        )

    def note_taken(self, name: str) -> None:
        """Counts a task that `check_tenant` let pass against the limit of a minute."""
        tenant = tenant_of(name)
        if tenant:
            self._tenants.note(tenant, self._loop.time())

    def _check_share(self, tenant: str, waiting: int, limit: int) -> None:
        """Refuses a task that would take the places of the queue that are left to other tenants, or to the owner."""
        if not self._tenants.has_tenants:
            return
        own = self._backlog.waiting(tenant)
        if has_room(limit, waiting, own):
            return
        self.refused["max_total_queue_size"] += 1
        whose = f'of the tenant "{tenant}"' if tenant else "of the owner"
        text = f"{own} {whose} wait, {waiting} of {limit} in all"
        if tenant:
            self._tenants.refusals.note(tenant, "max_total_queue_size", limit, own, text, agent=None)
        raise Overloaded(
            f"cannot queue a task: {text}; the rest is left to others",
            limit="max_total_queue_size",
            value=limit,
            used=own,
            tenant=tenant or None,
            retry_after_s=self._retry_after_s(own, None),
        )

    def _check_totals(self, size_bytes: int, tenant: str) -> None:
        section = self._registry.config.defaults.tasks
        backlog = self._backlog
        waiting = backlog.totals["queued"] + backlog.composite
        if waiting < section.max_total_queue_size:
            self._check_share(tenant, waiting, section.max_total_queue_size)
        if waiting >= section.max_total_queue_size:
            limit = section.max_total_queue_size
            self.refused["max_total_queue_size"] += 1
            raise Overloaded(
                f"cannot queue a task: {waiting} are waiting for all agents together",
                limit="max_total_queue_size",
                value=limit,
                retry_after_s=self._retry_after_s(limit, None),
            )
        queued_bytes = backlog.queued_bytes
        if queued_bytes + size_bytes > section.max_total_queue_bytes:
            self.refused["max_total_queue_bytes"] += 1
            raise Overloaded(
                f"cannot queue a task of {size_bytes} bytes: those that wait take {queued_bytes}",
                limit="max_total_queue_bytes",
                value=section.max_total_queue_bytes,
                retry_after_s=self._retry_after_s(backlog.totals["queued"], None),
            )

    def _note_end(self, entry: Entry) -> None:
        self._ends.append((self._loop.time(), entry.task.agent))

    def _retry_after_s(self, limit: int, agent: str | None) -> float:
        now = self._loop.time()
        since = max(now - RATE_S, self._began)
        if len(self._ends) == ENDS_KEPT:
            since = max(since, self._ends[0][0])
        ends = sum(at >= since and agent in (None, name) for at, name in self._ends)
        return retry_after_s(max(1, int(limit * ROOM)), ends, now - since)

    def entry(self, name: str, params: TaskParams, boundaries: Boundaries, kind: TaskKind, origin: Origin) -> Entry:
        """Returns a new task."""
        agent = self._registry.agents.get(name) if kind == "task" else None
        now, parent = time.time(), origin.parent
        created = now if origin.accepted_at is None else min(now, origin.accepted_at)
        task = Task(
            id=origin.id or self._ids.next(),
            delivery=origin.deliveries,
            agent=name,
            kind=kind,
            priority=params.priority or self._routing.default_priority(name, kind),
            **copied(params, COPIED),
            boundaries=boundaries,
            after=list(dict.fromkeys(params.after)),
            scheduled_at=None if params.at is None else rfc3339(params.at),
            deadline_at=_deadline(params, created),
            created_at=rfc3339(created),
            parent=None if parent is None else parent.id,
            depth=0 if parent is None else parent.depth + 1,
            step=origin.step,
            schedule=origin.schedule,
            retry_of=origin.retry_of,
            retried_from=origin.retried_from,
            traceparent=valid(
                params.traceparent or (self._tracing.of_root() if parent is None else self._tracing.of_attempt(parent))
            ),
        )
        size = words_bytes(task)
        output = MAX_MESSAGE_BYTES // 2
        if agent is not None:
            output = min(agent.spec.resources.max_output_size_bytes, output)
        limit = MAX_MESSAGE_BYTES - RECORD_MARGIN_BYTES - output
        if size > limit:
            words = (
                f'cannot take a task for "{name}": {size} bytes of objective, input and context are more than {limit}'
            )
            raise ResourceLimitExceeded(words, limit="message", value=size)
        self._check_totals(size, tenant_of(name))
        since = self._loop.time() - (now - created)
        return Entry(task, created, self._rules.limits(task), since, size_bytes=size, due=params.at)


def job_of(spec: Spec, params: TaskParams) -> TaskParams:
    """Returns the params of a run of a job, whose objective is its command line."""
    return replace(params, objective=job_task(spec.name, spec.command).objective)


class _Ids:
    """Generates random ids of 12 digits, many for each call of the kernel: one costs as much as accepting a task."""

    def __init__(self) -> None:
        self._digits = ""
        self._next = 0

    def next(self) -> str:
        """Returns one that has not been given."""
        if self._next == len(self._digits):
            self._digits, self._next = secrets.token_hex(6 * 256), 0
        self._next += 12
        return self._digits[self._next - 12 : self._next]


def retry_after_s(places: int, ends: int, window_s: float) -> float:
    """Returns the seconds, from 1 to 60, until `places` will be free, at the rate of the `ends` in the last `window_s` seconds."""
    return min(max(round(places * window_s / max(ends, 1), 1), 1.0), RATE_S)


def _deadline(params: TaskParams, now: float) -> str | None:
    if params.deadline_s is None:
        return None
    return rfc3339(max(now, params.at or now) + params.deadline_s)
