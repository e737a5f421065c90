"""Decides whether a new task is accepted, for which agent, and with which record: all that precedes the queue.

A refusal names its reason and, for a full queue, the seconds after which to retry. Changes no queue, writes nothing.
"""

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from corral.supervisor.agents.running.agent import Agent, has_place
from corral.supervisor.agents.running.agents import Agents
from corral.supervisor.config.spec.job import job_task
from corral.supervisor.config.spec.spec import Spec, kind_of_group
from corral.supervisor.config.spec.spec import Tasks as TasksSection
from corral.supervisor.config.spec.team import Candidate, Thresholds, best
from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.tenants.quotas.fair_share import has_room
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import (
    Conflict,
    InvalidParams,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
)
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.contract.records import Boundaries, Task, TaskKind, TaskParams, WhenDown
from corral.worker.contract.trace_context import valid

from ..rules.availability import Down, is_expected, why_down
from ..rules.boundaries import Limits, capped, limits, normalised
from ..rules.payload import RECORD_MARGIN_BYTES, check_format, check_input, words_bytes
from ..rules.queue import Slot, preferred
from .backlog import Backlog, Entry, Origin

ENDS_KEPT = 1_000
"""Number of ends from which the rate of a queue is computed."""

ROOM = 0.05
"""Fraction of the places that is likely to be free when a refused caller may retry."""

RATE_S = 60.0
"""Seconds of ends from which the rate of a queue is computed."""


NOT_OF_JOBS = ("input", "context", "session", "sticky_key", "output_format")
"""Params of a task that only a handler can use."""


class Admission:
    """Accepts or refuses the new tasks of one daemon."""

    def __init__(
        self,
        agents: Agents,
        backlog: Backlog,
        success_rate: Callable[[str], float | None],
        tenants: TaskLimits | None = None,
    ) -> None:
        self._tenants = tenants
        self._success_rate = success_rate
        self._agents = agents
        self._registry = agents.registry
        self._backlog = backlog
        self._loop = asyncio.get_running_loop()
        self._ids = _Ids()
        self._is_placed: Callable[[str], bool] = lambda _: False
        self._placed_priority: Callable[[str], int] | None = None
        self._began = self._loop.time()
        self._ends: deque[tuple[float, str]] = deque(maxlen=ENDS_KEPT)
        self.refused = Counter[str]()
        """Number of tasks for which a queue had no place, by agent, or by the key of the queue of all."""

    def bind(self, is_placed: Callable[[str], bool], priority: Callable[[str], int]) -> None:
        """Connects the cluster, which knows the agents that it places, and the priority of a task of one that has none."""
        self._is_placed = is_placed
        self._placed_priority = priority

    def check(
        self, params: TaskParams, tenant: str = "", *, is_taken: bool = False
    ) -> tuple[TaskParams, TaskKind, list[Agent]]:
        """Returns the normalised params of a task, its kind, and the agents that it may be for: none for a group.

        One that the cluster has accepted, and this node has taken, is for a worker here. A capability is looked for among the agents and groups of `tenant` alone, "" for the owner's. The names that a
        tenant gives are its own.
        """
        self.check_open()
        if params.agent is None:
            params = self._for_group(params, tenant)
        elif tenant:
            params = self._own(params, params.agent, tenant)
        self._agents.tenants.check_active(params.agent or qualified("", tenant), "give a task to")
        kind: TaskKind = "task" if is_taken else self.kind(params.agent)
        if kind == "job" and not params.objective:
            params = job_of(self._registry.of(params.agent or "").spec, params)
        params = normalised(params)
        if params.output_format is not None:
            check_format(params.output_format)
        if kind == "job":
            self._check_job(params)
        return params, kind, self._candidates(params, tenant) if kind == "task" else []

    def check_open(self) -> None:
        """Returns while the daemon accepts tasks."""
        if self._registry.draining:
            raise ShuttingDown("cannot take the task: the daemon is stopping")
        if self._agents.emergency.in_force is not None:
            self._agents.emergency.check("take the task")

    # -- the agent

    def kind(self, name: str | None) -> TaskKind:
        """Returns the kind of a task for this name: "team", "workflow" or "job" where it is that of one, else "task".

        "placed" is for an agent that the cluster places, on this node or another.
        """
        if name is None:
            return "task"
        if self._is_placed(name):
            return "placed"
        agent = self._registry.agents.get(name)
        if agent is not None:
            return "job" if agent.spec.type == "oneshot" else "task"
        group = self._agents.groups.by_name.get(name)
        return "task" if group is None else kind_of_group(group)

    def _check_job(self, params: TaskParams) -> None:
        """Returns if a task of a job can be accepted."""
        agent = self._registry.of(params.agent or "")
        for key in NOT_OF_JOBS:
            if getattr(params, key):
                text = f'cannot run job "{agent.name}" with {key}: its command is not given any'
                raise InvalidParams(text, key=key, agent=agent.name)
        self._check_room(agent)

    def _candidates(self, params: TaskParams, tenant: str) -> list[Agent]:
        """Returns the agents that a task may be for: the named one, or those that offer the capabilities."""
        required = params.required_capabilities
        if params.agent is not None and params.capability is not None:
            raise InvalidParams("cannot choose an agent for the task: give agent or capability", key="agent")
        if params.agent is not None:
            agent = self._registry.agents.get(params.agent) or self._registry.of(params.agent)
            for each in required:
                if not _offers(agent, each):
                    raise Conflict(
                        f'cannot run a task on "{agent.name}": it does not offer "{each}"',
                        agent=agent.name,
                        capability=each,
                    )
            return [agent]
        if params.capability is not None:
            required = [params.capability, *required]
        if not required:
            raise InvalidParams("cannot choose an agent for the task: give agent or capability", key="agent")
        able = self._able(required, tenant)
        if not able:
            raise _no_agent(required)
        return able

    def _own(self, params: TaskParams, name: str, tenant: str) -> TaskParams:
        """Returns params with the full name of what a tenant gives a task to."""
        full = qualified(name, tenant)
        names = [*self._registry.agents, *self._registry.groups]
        if tenant_of(full) != tenant or full not in names:
            known = sorted(each for each in names if tenant_of(each) == tenant)
            raise NotFound(f'cannot find agent "{name}"', name=name, known=known)
        return params if full == name else replace(params, agent=full)

    def _for_group(self, params: TaskParams, tenant: str) -> TaskParams:
        """Returns params that name the team or workflow with the capabilities, where no agent offers them all.

        Of several it is the one that succeeded most often of late, then the first in the configuration.
        """
        required = [*filter(None, [params.capability]), *params.required_capabilities]
        if not required or self._able(required, tenant):
            return params
        groups = [
            group.name
            for group in self._agents.groups.by_name.values()
            if tenant_of(group.name) == tenant and all(each in group.capabilities for each in required)
        ]
        if not groups:
            return params
        name = max(groups, key=lambda each: self._success_rate(each) or 0.0)
        return replace(params, agent=name, capability=None, required_capabilities=[])

    def _able(self, required: Sequence[str], tenant: str) -> list[Agent]:
        """Returns the agents of a tenant that offer all of these capabilities."""
        return [
            agent
            for agent in self._registry.agents.values()
            if agent.spec.speaks == "corral"
            and tenant_of(agent.name) == tenant
            and all(_offers(agent, each) for each in required)
        ]

    def choose(self, able: Sequence[Agent], params: TaskParams) -> str:
        """Returns the agent that is given the task: the least loaded, or that of its sticky key or session."""
        agent = able[0] if params.agent is not None else self._route(able, params)
        self._check_agent(agent, params.when_down)
        return agent.spec.name

    def check_input(self, name: str, value: object) -> None:
        """Returns if an input matches the `input_schema` of its agent, team or workflow, or there is none."""
        agent = self._registry.agents.get(name)
        found = self._agents.groups.by_name.get(name) if agent is None else agent.spec
        if found is not None and found.input_schema is not None:
            check_input(name, found.input_schema, value)

    def why_down(self, agent: Agent) -> Down | None:
        """Returns why an agent runs no task until it is started; None while it does, or will."""
        return why_down(agent, self._registry.agents)

    def _route(self, able: Sequence[Agent], params: TaskParams) -> Agent:
        downs = {agent.name: self.why_down(agent) for agent in able}
        up = {agent.name: agent for agent in able if downs[agent.name] is None}
        if not up:
            up = {agent.name: agent for agent in able if waits_when_down(agent, params.when_down)}
        key = params.sticky_key or params.session
        name = preferred(key, up) if key is not None else self._best_of(list(up))
        if name is None:
            names = [*filter(None, [params.capability]), *params.required_capabilities]
            raise _no_agent(names, list(filter(None, downs.values())))
        return up[name]

    def _best_of(self, names: Sequence[str]) -> str | None:
        """Returns the agent for a task that names only a capability, as `capability_routing` says."""
        candidates = [self.candidate(name) for name in names]
        tasks = self._agents.config.defaults.tasks
        if tasks.capability_routing == "best":
            return best(candidates, thresholds_of(tasks))
        return route(candidates)

    def candidate(self, name: str) -> Candidate:
        """Returns an agent as routing sees it."""
        queued, rate = self._backlog.queued(name), self._success_rate(name)
        agent = self._registry.agents.get(name)
        if agent is None:
            return Candidate(name, 0, queued, float(queued), rate)
        free = sum(slot.capacity - slot.running for slot in free_slots(agent))
        capacity = agent.spec.resources.max_concurrent_requests
        places = max(capacity * sum(each.takes_tasks for each in agent.supervisors), 1)
        running = sum(len(each.running) for each in agent.supervisors)
        return Candidate(name, free, queued, (running + queued) / places, rate)

    # -- room

    def _check_agent(self, agent: Agent, when_down: WhenDown | None) -> None:
        spec = agent.spec
        name = spec.name
        if spec.speaks != "corral":
            raise Conflict(f'cannot run a task on "{name}": it takes no tasks (protocol "{spec.protocol}")', agent=name)
        down = self.why_down(agent)
        if down is not None and not waits_when_down(agent, when_down):
            raise down.refusal()
        self._check_room(agent)

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
        """Returns if the tenant of an agent, team or workflow may submit one more task.

        A step does not count against the limit of a minute: the task of its team or workflow did.
        """
        tenant = tenant_of(name)
        if self._tenants is None or not tenant:
            return
        waiting, now = self._backlog.waiting(tenant), self._loop.time()
        self._tenants.check(
            tenant, name, waiting, None if is_step else now, retry_after_s=lambda: self._retry_after_s(waiting, None)
        )

    def note_taken(self, name: str) -> None:
        """Counts a task that `check_tenant` let pass against the limit of a minute."""
        tenant = tenant_of(name)
        if self._tenants is not None and tenant:
            self._tenants.note(tenant, self._loop.time())

    def longest_s(self, name: str) -> float:
        """Returns the seconds of the longest task that the tenant of a name may have; 0 without a limit."""
        return 0.0 if self._tenants is None else self._tenants.longest_s(tenant_of(name))

    def _check_share(self, tenant: str, waiting: int, limit: int) -> None:
        """Refuses a task that would take the places of the queue that are left to other tenants, or to the owner."""
        if self._tenants is None or not self._tenants.has_tenants:
            return
        own = self._backlog.waiting(tenant)
        if has_room(limit, waiting, own):
            return
        self.refused["max_total_queue_size"] += 1
        whose = f'of the tenant "{tenant}"' if tenant else "of the owner"
        text = f"{own} {whose} wait, {waiting} of {limit} in all"
        if tenant:
            key = "max_total_queue_size"
            self._tenants.refusals.note(tenant, key, limit, own, text, agent=None)
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

    def note_end(self, agent: str) -> None:
        """Counts an end into the rate of the agent's queue."""
        self._ends.append((self._loop.time(), agent))

    def _retry_after_s(self, limit: int, agent: str | None) -> float:
        now = self._loop.time()
        since = max(now - RATE_S, self._began)
        if len(self._ends) == ENDS_KEPT:
            since = max(since, self._ends[0][0])
        ends = sum(at >= since and agent in (None, name) for at, name in self._ends)
        return retry_after_s(max(1, int(limit * ROOM)), ends, now - since)

    # -- the record

    def entry(
        self,
        name: str,
        params: TaskParams,
        boundaries: Boundaries,
        *,
        kind: TaskKind = "task",
        parent: Task | None = None,
        step: str = "",
        schedule: str | None = None,
        retry_of: str | None = None,
        origin: Origin | None = None,
    ) -> Entry:
        """Returns a new task; `origin` is that of one that the cluster has accepted."""
        agent = self._registry.agents.get(name) if kind == "task" else None
        section = self._registry.config.defaults.tasks if agent is None else agent.spec.tasks
        priority = params.priority or section.default_priority
        if kind == "placed" and params.priority is None and self._placed_priority is not None:
            priority = self._placed_priority(name)
        now = time.time()
        task = Task(
            id=(origin.id if origin is not None else "") or self._ids.next(),
            delivery=0 if origin is None else origin.deliveries,
            agent=name,
            kind=kind,
            priority=priority,
            objective=params.objective,
            input=params.input,
            context=params.context,
            boundaries=boundaries,
            output_format=params.output_format,
            required_capabilities=params.required_capabilities,
            idempotency_key=params.idempotency_key,
            after=list(dict.fromkeys(params.after)),
            scheduled_at=None if params.at is None else rfc3339(params.at),
            sticky_key=params.sticky_key,
            session=params.session,
            durable=params.durable,
            retry=params.retry,
            when_down=params.when_down,
            queue_timeout_s=params.queue_timeout_s,
            deadline_at=_deadline(params, now),
            created_at=rfc3339(now),
            parent=None if parent is None else parent.id,
            depth=0 if parent is None else parent.depth + 1,
            step=step,
            schedule=schedule,
            retry_of=retry_of,
            traceparent=valid(params.traceparent),
        )
        size = words_bytes(task)
        _check_size(name, size, agent)
        self._check_totals(size, tenant_of(name))
        return Entry(
            task, now, limits_of(task, agent, self.longest_s(name)), self._loop.time(), size_bytes=size, due=params.at
        )


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


def limits_of(task: Task, agent: Agent | None, longest_s: float = 0.0) -> Limits:
    """Returns the limits in force for a task; those of a team's or workflow's task are its own and its tenant's alone."""
    if agent is not None:
        return limits(task.boundaries, agent.spec.resources, longest_s)
    allowed = task.boundaries.allowed_tools
    timeout_s = capped(task.boundaries.timeout_s or 0.0, longest_s)
    return Limits(timeout_s, 0, None if allowed is None else tuple(allowed))


def free_slots(agent: Agent) -> list[Slot]:
    """Returns the workers of an agent that can begin a task now."""
    capacity = agent.spec.resources.max_concurrent_requests
    return [slot_of(agent, supervisor) for supervisor in agent.supervisors if has_place(supervisor, capacity)]


def slot_of(agent: Agent, supervisor: WorkerSupervisor) -> Slot:
    """Returns a worker in the form that the queue decides with."""
    capacity = agent.spec.resources.max_concurrent_requests
    return Slot(supervisor.id, len(supervisor.running), capacity, supervisor.rested_at)


def takes_tasks(agent: Agent) -> bool:
    """Returns True if a worker of an agent can be given tasks, now or when it has ended one."""
    return any(supervisor.takes_tasks for supervisor in agent.supervisors)


def waits_when_down(agent: Agent, own: WhenDown | None) -> bool:
    """Returns True if a task waits for its agent while that is down: by its own word, else by `[tasks] when_down`."""
    return (own or agent.spec.tasks.when_down) == "queue"


def wanted_workers(agent: Agent) -> frozenset[str]:
    """Returns the workers of an agent that are up, or will be: not one that gave up, until a start is requested."""
    return frozenset(supervisor.id for supervisor in agent.supervisors if is_expected(supervisor.worker))


def retry_after_s(places: int, ends: int, window_s: float) -> float:
    """Returns the seconds until `places` will be free, at the rate of the last ends: between a second and a minute.

    `ends` happened in the last `window_s` seconds.
    """
    return min(max(round(places * window_s / max(ends, 1), 1), 1.0), RATE_S)


def thresholds_of(tasks: TasksSection) -> Thresholds:
    """Returns the thresholds of the routing `best`, as shares."""
    return Thresholds(tasks.best_min_success_percent / 100, tasks.best_max_load_percent / 100)


def route(candidates: Sequence[Candidate]) -> str | None:
    """Returns the agent for a task that names only a capability: most free workers, then the shortest queue."""
    if not candidates:
        return None
    return min(candidates, key=lambda each: (-each.free, each.queued, each.name)).name


def has_capability(spec: Spec, announced: Iterable[str], capability: str) -> bool:
    """Returns True if an agent offers a capability, by its configuration, else by its announcement."""
    return capability in (spec.capabilities or tuple(announced))


def _check_size(name: str, size: int, agent: Agent | None) -> None:
    """Refuses a record that, together with its output, would be too long for a message."""
    output = MAX_MESSAGE_BYTES // 2
    if agent is not None:
        output = min(agent.spec.resources.max_output_size_bytes, output)
    limit = MAX_MESSAGE_BYTES - RECORD_MARGIN_BYTES - output
    if size > limit:
        raise ResourceLimitExceeded(
            f'cannot take a task for "{name}": {size} bytes of objective, input and context are more than {limit}',
            limit="message",
            value=size,
        )


def _deadline(params: TaskParams, now: float) -> str | None:
    """Returns when a task has to have ended: so long after it came, or after its start time."""
    if params.deadline_s is None:
        return None
    return rfc3339(max(now, params.at or now) + params.deadline_s)


def _no_agent(names: Sequence[str], downs: Sequence[Down] = ()) -> NotFound:
    text = '", "'.join(names)
    why = f': "{downs[0].agent}": {downs[0].words}' if downs else ""
    return NotFound(
        f'cannot find an agent with capability "{text}" that is up{why}', capability=names[0], capabilities=names
    )


def _offers(agent: Agent, capability: str) -> bool:
    announced: Sequence[str] = next((k.announced for k in agent.supervisors if k.announced), ())
    return has_capability(agent.spec, announced, capability)
