"""Executes the tasks of teams and workflows: submits their parts, waits for them, and computes the result.

Holds nothing that a record does not: a submitted part is found by its parent and step, so that a later
daemon goes on where an earlier one stood, and no ended part is run again. The order of steps is decided in
`workflow_decision`, the choice of members in `config.spec.team`.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from weakref import WeakValueDictionary

from msgspec.structs import asdict, replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.spec.spec import Group, kind_of_group
from corral.supervisor.config.spec.team import Candidate, Team, chosen
from corral.supervisor.config.spec.workflow import Workflow
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.workers.lifecycle.state_machine import State, Worker
from corral.worker.contract import codec
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    NotFound,
    Overloaded,
    ResourceLimitExceeded,
    ShuttingDown,
    TaskFailed,
)
from corral.worker.contract.records import ENDED, Error, Task, TaskParams, copied
from corral.worker.contract.worker_messages import TaskResult

from ..rules.availability import why_down
from ..rules.payload import ERROR_BYTES, bounded
from ..run import composite
from ..run.backlog import Origin
from ..run.routing import Routing, has_capability, thresholds_of
from ..run.tasks import Tasks
from .workflow_decision import Branch, Decision, Submission, decide, part_failed

OVERLOADED_S = 300.0
"""Seconds that a part of a task waits for a full queue before it fails with Overloaded."""

CHILDREN_MAX = 100_000
"""Number of records of parts that are read back: as many as `[tasks] max_children` can allow."""

ANNOUNCE_S = 60.0
"""Seconds that a starting agent is waited for before its unannounced capabilities count as not offered."""

LOOK_S = 1.0
"""Seconds between two attempts at a full queue while no task ends."""

OUTPUTS_BYTES = 256 * 1024 * 1024
"""Bytes of the outputs of all parts of one task together: the daemon holds them until it ends."""

REASON_CHARS = 1_000
"""Characters of an error's message in an event; the task's record has it whole."""


class WorkflowEngine(composite.WorkflowEngine):
    """Executes the teams and workflows of one daemon."""

    def __init__(self, bus: Bus, agents: Agents, tasks: Tasks, routing: Routing) -> None:
        self._bus = bus
        self._agents = agents
        self._tasks = tasks
        self._routing = routing
        self._turns = Counter[str]()
        self._teams: dict[str, Team] = {}
        """By task: the team as it was when the task began, until its end is in the record."""
        self._lines = WeakValueDictionary[str, asyncio.Lock]()
        """By agent: parts that wait for a full queue form a line; only the first one retries."""

    def checked(self, params: TaskParams) -> TaskParams:
        """Returns the params of a task that can be accepted, within the time that its workflow may take."""
        found = self._agents.groups.by_name.get(params.agent or "")
        if isinstance(found, Team):
            if found.mode == "route" and found.routing == "sticky" and params.sticky_key is None:
                text = f'cannot route a task of team "{found.name}": it has no sticky_key'
                raise InvalidParams(text, key="sticky_key", team=found.name)
            if found.mode != "coordinate":
                self._able(found, params.required_capabilities)
        limit_s = found.timeout if isinstance(found, Workflow) else None
        if limit_s is None:
            return params
        least_s = min(limit_s, params.boundaries.timeout_s or limit_s)
        return replace(params, boundaries=replace(params.boundaries, timeout_s=least_s))

    def members_for(self, task: Task) -> tuple[str, ...] | None:
        """Returns the only agents to which a task may delegate, the members of the team that it leads, executed yet or not; None if it leads none."""
        above = self._tasks.find(task.parent or "")
        if above is None or above.kind != "team":
            return None
        team = self._teams.get(above.id) or self._agents.groups.by_name.get(above.agent)
        if not isinstance(team, Team):
            return ()  # the team is gone, and its task about to end
        return team.members if task.agent == team.lead else None

    async def execute(self, task: Task) -> TaskResult:
        """Returns the result of a task of a team or workflow; also called again for one that a daemon left."""
        found = self._agents.groups.by_name.get(task.agent)
        if found is None:
            raise NotFound(f'cannot go on with task "{task.id}": "{task.agent}" is gone', name=task.agent)
        if isinstance(found, Team):
            self._teams[task.id] = found
        under_way = self._agents.groups.under_way
        under_way[found.name] += 1
        try:
            return await self._execute(found, task)
        finally:
            under_way[found.name] -= 1

    async def _execute(self, found: Group, task: Task) -> TaskResult:
        children = await self._tasks.records.children(task.id, CHILDREN_MAX)
        earlier = {child.step: child for child in children}
        self._tasks.accounting.restore_children(task.id, [child.id for child in children])
        if children:
            await self._restore_usage(task, children)
        if isinstance(found, Workflow):
            return await self._workflow(found, task, earlier)
        if found.mode == "broadcast":
            return await self._broadcast(found, task, earlier)
        if found.mode == "route":
            return await self._route(found, task, earlier)
        return await self._coordinate(found, task, earlier)

    async def _restore_usage(self, task: Task, children: Iterable[Task]) -> None:
        if task.boundaries.max_tokens is None and task.boundaries.max_cost_cents is None:
            return
        tokens, cost_cents, seen = 0, 0.0, 0
        left = list(children)
        while left and seen < CHILDREN_MAX:
            stored = left.pop()
            below = self._tasks.find(stored.id) or stored
            tokens += below.tokens_used
            cost_cents += below.cost_cents
            seen += 1
            left += await self._tasks.records.children(below.id, CHILDREN_MAX - seen)
        self._tasks.accounting.restore_usage(task.id, tokens, cost_cents)

    async def _workflow(self, workflow: Workflow, task: Task, earlier: Mapping[str, Task]) -> TaskResult:
        held = _Outputs()
        branches = {label: held.held(_branch(child)) for label, child in earlier.items()}
        held.check(task)
        known = decide(workflow, task, branches).stages if earlier else {}
        published = {step: "ended" for step, stage in known.items() if stage.has_ended}
        runners: dict[asyncio.Task[Branch], str] = {}
        for label, branch in branches.items():
            if branch.is_open:
                step = label.partition("/")[0]
                if published.get(step) != "open":
                    published[step] = "open"
                    self._publish_step(task, step, "resumed")
                runners[asyncio.create_task(self._ended(earlier[label].id))] = label
        try:
            while True:
                decision = decide(workflow, task, branches)
                self._publish_stages(task, decision, published)
                if decision.error is not None:
                    raise decision.error
                if decision.is_done:
                    return TaskResult(output=decision.output)
                for submission in decision.submit:
                    branches[submission.label] = Branch(None, "open")
                    runners[asyncio.create_task(self._run(task, submission))] = submission.label
                assert runners, "what has not ended waits for something"
                done, _ = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
                for runner in done:
                    branches[runners.pop(runner)] = held.held(runner.result())
                held.check(task)
        finally:
            for runner in runners:
                runner.cancel()
            await asyncio.gather(*runners, return_exceptions=True)

    async def _run(self, task: Task, submission: Submission, earlier: Mapping[str, Task] | None = None) -> Branch:
        """Queues a part of a task, unless it was by an earlier daemon, and waits for its end."""
        try:
            if earlier is not None and submission.label in earlier:
                return await self._ended(earlier[submission.label].id)
            child = await self._submit(task, submission.label, submission.params)
        except CorralError as error:
            return await self._refused(task, submission, error)
        return await self._ended(child.id)

    async def _refused(self, task: Task, submission: Submission, error: CorralError) -> Branch:
        """Returns a part that was refused; writes its record, so that a later daemon does not submit it after all."""
        if isinstance(error, Conflict | NotFound | Overloaded):
            label, params = submission.label, _keyed(task, submission.label, submission.params)
            with contextlib.suppress(CorralError):  # the store takes nothing now, or has the key
                return _branch(await self._tasks.note_refused(params, error, parent=task, step=label))
        return Branch(None, "failed", error=Error.of(error))

    async def _ended(self, task_id: str) -> Branch:
        try:
            return _branch(await self._tasks.wait(task_id))
        except CorralError as error:  # its record cannot be read
            return Branch(task_id, "failed", error=Error.of(error))

    async def _submit(self, task: Task, step: str, params: TaskParams) -> Task:
        keyed = _keyed(task, step, params)
        end = asyncio.get_running_loop().time() + OVERLOADED_S
        line = self._lines.setdefault(params.agent or params.capability or "", asyncio.Lock())
        if not line.locked():  # no other part waits for a place
            with contextlib.suppress(Overloaded):
                return await self._offer(task, step, keyed)
        async with line:
            while True:
                try:
                    return await self._offer(task, step, keyed)
                except Overloaded:
                    if asyncio.get_running_loop().time() > end:
                        raise
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):  # a place may come free without an end
                        await self._tasks.next_end()

    async def _offer(self, task: Task, step: str, keyed: TaskParams) -> Task:
        """Queues a part of a task, as soon as it is known which agents could run it."""
        try:
            parent = self._tasks.find(task.id) or task
            return await self._tasks.submit(keyed, Origin(parent, step))
        except ShuttingDown:  # the next daemon goes on: this one cancels us at its end
            never: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
            return await never
        except (Conflict, NotFound):  # as far as is known by now
            if not await self._announced_by(self._asked(keyed)):
                raise
        return await self._tasks.submit(keyed, Origin(parent, step))

    def _asked(self, params: TaskParams) -> Iterable[str]:
        if params.agent is None:
            return tuple(self._agents.agents)
        found = self._agents.groups.by_name.get(params.agent)
        names = found.members if isinstance(found, Team) else (params.agent,)
        return names if params.required_capabilities else ()

    async def _announced_by(self, names: Iterable[str]) -> bool:
        """Waits until starting agents have announced their capabilities, which none has after a restart; returns False if none is starting."""
        silent = [
            (agent, supervisor)
            for agent in [self._agents.agents[name] for name in names if name in self._agents.agents]
            if agent.spec.speaks == "corral" and not agent.spec.capabilities
            for supervisor in agent.supervisors
            if not _has_announced(agent, supervisor.worker)
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCE_S):
                for agent, supervisor in silent:
                    await supervisor.until(partial(_has_announced, agent))
        return bool(silent)

    def note_end(self, task: Task) -> None:
        """Forgets the team of a task that has ended."""
        self._teams.pop(task.id, None)

    def _publish_stages(self, task: Task, decision: Decision, published: dict[str, str]) -> None:
        """Publishes what has changed since the last decision."""
        for submission in decision.submit:
            if submission.step not in published:
                published[submission.step] = "open"
                self._publish_step(task, submission.step, "started")
        for step, stage in decision.stages.items():
            if stage.has_ended and published.get(step) != "ended":
                published[step] = "ended"
                self._publish_step(task, step, stage.state, "" if stage.error is None else stage.error.message)

    def _publish_step(self, task: Task, step: str, state: str, reason: str = "") -> None:
        self._bus.publish(
            "workflow.step", agent=task.agent, task=task.id, step=step, state=state, reason=reason[:REASON_CHARS]
        )

    async def _broadcast(self, team: Team, task: Task, earlier: Mapping[str, Task]) -> TaskResult:
        """Runs the task on every member; it has failed when it has with all of them."""
        if task.required_capabilities:
            await self._announced_by(team.members)
        members = [name for name in team.members if name in earlier or self._is_able(name, task.required_capabilities)]
        gate = asyncio.Semaphore(team.max_parallel)
        held = _Outputs()

        async def run(name: str) -> Branch:
            async with gate:
                return held.held(await self._run(task, Submission(name, name, _handed_on(task, name)), earlier))

        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(run(name)) for name in members]
        held.check(task)
        room = ERROR_BYTES // 4 // len(team.members)
        output = [_member_entry(name, each.result(), room) for name, each in zip(members, runs, strict=True)]
        if not any(each["state"] == "succeeded" for each in output):
            text = f'cannot finish the task of team "{team.name}": it failed with every member'
            raise TaskFailed(text, team=team.name, members=output)
        return TaskResult(output=output)

    async def _route(self, team: Team, task: Task, earlier: Mapping[str, Task]) -> TaskResult:
        """Runs the task on one member, which keeps it under a later daemon."""
        name = next(iter(earlier), None)
        if name is None:
            if not any(self._is_able(each, task.required_capabilities) for each in team.members):
                await self._announced_by(team.members)
            able = self._able(team, task.required_capabilities)
            up = [each for each in able if self._takes_tasks(each)] or able
            turn = self._turns[team.name]
            self._turns[team.name] += 1
            candidates = [self._candidate(each) for each in up]
            key = task.sticky_key or ""
            thresholds = thresholds_of(self._agents.config.defaults.tasks)
            name = chosen(team.routing, candidates, turn=turn, sticky_key=key, thresholds=thresholds)
        assert name is not None, "without an able member NotFound was raised"
        return await self._passed_on(team, task, earlier, _handed_on(task, name))

    async def _coordinate(self, team: Team, task: Task, earlier: Mapping[str, Task]) -> TaskResult:
        """Runs the task on the lead, which may delegate to the members."""
        assert team.lead is not None, "the mode coordinate has a lead"
        members = [self._described(name) for name in team.members]
        description = {"name": team.name, "members": members}
        given = codec.as_object(task.context)
        rest = {} if task.context is None else given if given is not None else {"context": task.context}
        params = replace(_handed_on(task, team.lead), context={**rest, "team": description})
        params = replace(params, required_capabilities=task.required_capabilities)
        return await self._passed_on(team, task, earlier, params)

    async def _passed_on(self, team: Team, task: Task, earlier: Mapping[str, Task], params: TaskParams) -> TaskResult:
        name = params.agent or ""
        branch = await self._run(task, Submission(name, name, params), earlier)
        if branch.state == "succeeded":
            return TaskResult(output=branch.output)
        text = f'cannot finish the task of team "{team.name}": "{name}"'
        raise part_failed(branch.error, text, team=team.name, member=name, task=branch.task)

    def _able(self, team: Team, required: list[str]) -> list[str]:
        able = [name for name in team.members if self._is_able(name, required)]
        if not able:
            text = f'cannot find a member of team "{team.name}" with {", ".join(required)}'
            raise NotFound(text, team=team.name, required_capabilities=required)
        return able

    def _is_able(self, name: str, required: list[str]) -> bool:
        agent = self._agents.agents.get(name)
        if agent is None:
            offered = self._offered(name)
            return all(each in offered for each in required)
        return all(has_capability(agent.spec, _announced(agent), each) for each in required)

    def _takes_tasks(self, name: str) -> bool:
        agent = self._agents.agents.get(name)
        return agent is None or why_down(agent, self._agents.agents) is None

    def _candidate(self, name: str) -> Candidate:
        if name not in self._agents.agents:
            return Candidate(name, 1, 0, success_rate=self._routing.success_rate(name))
        return self._routing.candidate(name)

    def _offered(self, name: str) -> tuple[str, ...]:
        group = self._agents.groups.by_name.get(name)
        return () if group is None else group.capabilities

    def _described(self, name: str) -> dict[str, object]:
        agent, group = self._agents.agents.get(name), self._agents.groups.by_name.get(name)
        if agent is not None:
            offered = agent.spec.capabilities or _announced(agent)
            return {"name": name, "kind": "agent", "capabilities": list(offered)}
        kind = None if group is None else kind_of_group(group)  # None: it is gone
        return {"name": name, "kind": kind, "capabilities": list(self._offered(name))}


def _has_announced(agent: Agent, worker: Worker) -> bool:
    """Returns True if an agent has announced its capabilities, or this worker of it is not about to."""
    return bool(_announced(agent)) or worker.state not in (State.INITIAL, State.STARTING) or not worker.wanted


def _announced(agent: Agent) -> tuple[str, ...]:
    return next((tuple(k.announced) for k in agent.supervisors if k.announced), ())


def _branch(child: Task) -> Branch:
    return Branch(child.id, child.state if child.state in ENDED else "open", child.output, child.error)


def _keyed(task: Task, step: str, params: TaskParams) -> TaskParams:
    return replace(params, idempotency_key=f"{task.id}/{step}")


def _handed_on(task: Task, agent: str) -> TaskParams:
    """Returns the task of a team for a member, without its timeout: the team's own task has that."""
    kept = "objective input context output_format sticky_key session durable retry when_down queue_timeout_s priority"
    boundaries = replace(task.boundaries, timeout_s=None, timeout=None)
    return TaskParams(agent=agent, boundaries=boundaries, **copied(task, kept))


class _Outputs:
    def __init__(self) -> None:
        self._size_bytes = 0

    def held(self, branch: Branch) -> Branch:
        """Returns a part for the memory of the engine: without its output, when all together are too long."""
        if branch.output is None:
            return branch
        self._size_bytes += len(codec.encode(branch.output))
        return branch if self._size_bytes <= OUTPUTS_BYTES else replace(branch, output=None)

    def check(self, task: Task) -> None:
        """Returns if all outputs are held."""
        if self._size_bytes > OUTPUTS_BYTES:
            words = f'cannot go on with task "{task.id}": the outputs of its parts take more than {OUTPUTS_BYTES} bytes'
            raise ResourceLimitExceeded(words, limit="outputs", value=OUTPUTS_BYTES)


def _member_entry(name: str, branch: Branch, room_bytes: int) -> dict[str, object]:
    """Returns the entry of a member in the output of a broadcast; its error takes `room_bytes` at most."""
    entry: dict[str, object] = {"member": name, "task": branch.task, "state": branch.state}
    if branch.error is None:
        return {**entry, "output": branch.output}
    return {**entry, "error": asdict(bounded(branch.error, room_bytes))}
