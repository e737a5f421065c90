"""Builds the records that `status` and `show` return of the daemon, its agents and their workers."""

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from msgspec import UNSET
from msgspec.structs import replace

from corral import __version__
from corral.mcp.pool.pool import Pool
from corral.supervisor.agents.demand.activation import SocketActivation
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent, has_range, is_at_risk
from corral.supervisor.config.spec.spec import Config, Group, Spec
from corral.supervisor.config.spec.team import Team
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.records.events.bus import rfc3339
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.records.logs.daemon_log import DaemonLog
from corral.supervisor.records.logs.forwarder import Forwarding
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.lifecycle.cordon import Unschedulable
from corral.supervisor.workers.lifecycle.health_check import Health
from corral.supervisor.workers.lifecycle.state_machine import ASKED_FOR, LastExit, State
from corral.supervisor.workers.process.launch import why_cold
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.records import (
    AgentStatus,
    AlertCounts,
    DaemonStatus,
    ExitRecord,
    HealthRecord,
    InstancesStatus,
    RollingStatus,
    ServerStatus,
    ServiceStatus,
    Status,
    TakenBack,
    TaskCounts,
    TeamStatus,
    WorkerStatus,
    WorkflowStatus,
    copied,
)
from corral.worker.control.params import UpgradeParams
from corral.worker.control.results import Upgraded

from ..metrics.statistics import Statistics
from .cluster import JoinedCluster
from .tenant_view import own_daemon

LAST_WORDS = 5
"""Number of lines of stderr of a server that gave up, in `status`; `show` has more."""

DESCRIBED = "title description labels"
"""Keys that tell people what an entry is; they do not concern its life."""

CHANGED_MAX = 100
"""Number of changed tools that are named."""

RISK = "several processes of a server that keeps its state in each of them: a call may not find what another has left"


@dataclass(slots=True)
class WebPlace:
    """Says where HTTP is served."""

    address: str | None = None
    note: str = ""
    """The address in words, with its protection; empty without HTTP."""

    def open(self, address: str, note: str) -> None:
        """Takes note of the address, once it is open."""
        self.address, self.note = address, note


class Services(Protocol):
    """Serves single agents, teams and workflows over HTTP."""

    @property
    def degraded(self) -> list[str]:
        """Returns the names of those that cannot listen at their address."""
        ...

    @property
    def token_file(self) -> str:
        """Returns the path of the file with the token of the daemon's user."""
        ...

    def status(self, name: str) -> ServiceStatus | None:
        """Returns the service of an agent, team or workflow; None where it has none."""
        ...

    async def expose(self, name: str, address: str | None, auth: Literal["token", "none"]) -> ServiceStatus | None:
        """Serves an agent, team or workflow at an address from now on; with None not at all."""
        ...


class Upgrades(Protocol):
    """Lets another program take the place of this one."""

    @property
    def count(self) -> int:
        """Returns how often one has, since the daemon started."""
        ...

    async def perform(self, params: UpgradeParams) -> Upgraded:
        """Performs an upgrade; the program that goes on returns the answer."""
        ...


@dataclass(frozen=True)
class DaemonFacts:
    """Holds what is to be told of the daemon itself: its files and sockets, its log, and what may be degraded."""

    started: float
    socket: str
    state_dir: str
    config: str | None
    read_config: Callable[[], Config]
    daemon_log: DaemonLog
    forwarding: Forwarding
    audit: Audit
    web: WebPlace
    services: Services
    """Those of agents, teams and workflows over HTTP."""
    activation: SocketActivation
    joined: JoinedCluster
    upgrades: Upgrades


class StatusReport:
    """Builds the status of the daemon, its agents and their workers from the rooms that hold it."""

    def __init__(
        self,
        records: RecordsGroup,
        workers: WorkersGroup,
        agents: Agents,
        tasks: TasksGroup,
        pool: Pool,
        statistics: Statistics,
        daemon: DaemonFacts,
    ) -> None:
        self._records = records
        self._workers = workers
        self._agents = agents
        self._tasks = tasks.tasks
        self._inbox = tasks.inbox
        self._pool = pool
        self.limits = workers.limits
        self._statistics = statistics
        self._daemon = daemon
        self._services = daemon.services
        self._loop = asyncio.get_running_loop()

    def status(self, names: list[str] | None, *, failed: bool = False) -> Status:
        """Returns the daemon, the agents, servers and groups of `names` (None: all), with `failed` those that have a problem, and task counts."""
        agents = self._agents
        groups = agents.groups.by_name
        if names is None:
            chosen = list(agents.agents.values())
            chosen_groups = list(groups.values())
        else:
            chosen = []
            chosen_groups = [groups[name] for name in dict.fromkeys(names) if name in groups]
            for name in names:
                if name in groups:
                    continue
                agent = agents.of(agents.supervisors(name)[0].spec.name if name not in agents.agents else name)
                if agent not in chosen:
                    chosen.append(agent)
        entries = [self.agent_status(agent) for agent in chosen]
        if failed:
            entries, chosen_groups = [entry for entry in entries if is_failed(entry)], []
        statuses = [self.group_status(each) for each in chosen_groups]
        return replace(
            self.frame(),
            agents=[entry for entry in entries if entry.kind == "agent"],
            mcp_servers=[entry for entry in entries if entry.kind == "mcp"],
            teams=[each for each in statuses if isinstance(each, TeamStatus)],
            workflows=[each for each in statuses if isinstance(each, WorkflowStatus)],
        )

    def own(self, names: list[str], *, failed: bool = False) -> Status:
        """Returns the status of `names` as their tenant may know it: without the figures of the daemon and of others."""
        found = self.status(names, failed=failed)
        known = set(names)
        daemon = own_daemon(found.daemon, self.needs_of(known.__contains__))
        return replace(found, daemon=daemon, tasks=self.counts(names))

    def needs_of(self, is_known: Callable[[str], bool] | None) -> int:
        """Returns how many items of the inbox of some agents need somebody."""
        return self._inbox.needs(is_known)

    def counts(self, names: Iterable[str]) -> TaskCounts:
        """Returns the counts of the tasks of some agents alone."""
        agents = [self._agents.agents[name] for name in names if name in self._agents.agents]
        counts = [each for each in (self._statistics.find(one.name) for one in agents) if each]
        return TaskCounts(
            queued=sum(self._tasks.queued(each.name) for each in agents),
            running=sum(len(one.running) for each in agents for one in each.supervisors),
            succeeded=sum(each.ok for each in counts),
            failed=sum(each.failed for each in counts),
        )

    def frame(self) -> Status:
        """Returns the status without agents and servers: the daemon, the teams and workflows, the counts."""
        agents = self._agents
        statuses = [self.group_status(each) for each in agents.groups.by_name.values()]
        degraded: list[str] = ["store"] if self._records.store.is_degraded else []
        if self._records.logs.is_losing:
            degraded.append("logs")
        forwarding, daemon_log = self._daemon.forwarding, self._daemon.daemon_log
        if forwarding.is_degraded:
            degraded.append("journal")
        if self._daemon.audit.is_behind:
            degraded.append("audit")
        if agents.emergency_stop is not None:
            degraded.append("emergency-stop")
        degraded += [f"service of {name}" for name in self._services.degraded]
        degraded += self._daemon.joined.cluster.degraded
        degraded += [f"listen of {name}" for name in self._daemon.activation.degraded]
        return Status(
            daemon=DaemonStatus(
                pid=os.getpid(),
                version=__version__,
                uptime_s=round(self._loop.time() - self._daemon.started, 3),
                socket=self._daemon.socket,
                state_dir=self._daemon.state_dir,
                containment=self._workers.launcher.containment.tier,
                draining=agents.draining,
                degraded=degraded,
                config=self._daemon.config,
                launcher_pid=self._workers.launcher.pid or None,
                alerts=AlertCounts(**asdict(self._workers.alerts.counts)),
                log_level=daemon_log.level,
                log_lost=daemon_log.lost,
                journal=forwarding.is_wanted,
                journal_lost=forwarding.lost_lines,
                http=self._daemon.web.address,
                upgrades=self._daemon.upgrades.count,
                cluster_problem=self._daemon.joined.cluster.problem,
                needs_you=self._inbox.needs(),
            ),
            agents=[],
            mcp_servers=[],
            tasks=TaskCounts(**self._tasks.totals()),
            teams=[each for each in statuses if isinstance(each, TeamStatus)],
            workflows=[each for each in statuses if isinstance(each, WorkflowStatus)],
        )

    def group_status(self, group: Group) -> TeamStatus | WorkflowStatus:
        """Returns one team or workflow in `status`."""
        facts: dict[str, Any] = {  # Any: each value has the type of its key in the records
            "name": group.name,
            "running": self._agents.groups.under_way[group.name],
            "capabilities": list(group.capabilities),
            "service": self.service(group.name) or UNSET,
            "overridden": self._agents.overrides.revision(group.name) or UNSET,
            **copied(group, DESCRIBED),
        }
        if isinstance(group, Team):
            return TeamStatus(mode=group.mode, lead=group.lead, members=list(group.members), **facts)
        return WorkflowStatus(steps=[step.name for step in group.steps], **facts)

    def service(self, name: str) -> ServiceStatus | None:
        """Returns the service of an agent, team or workflow; None where it has none."""
        return self._services.status(name)

    def agent_status(self, agent: Agent) -> AgentStatus:
        """Returns one agent or server in `status`."""
        workers = [self.worker_status(supervisor) for supervisor in agent.supervisors]
        return self.agent_entry(agent, workers)

    def agent_entry(self, agent: Agent, workers: list[WorkerStatus]) -> AgentStatus:
        """Returns one agent or server in `status`, with these of its workers."""
        spec = agent.spec
        status = AgentStatus(
            name=agent.name,
            kind=spec.kind,
            state=agent.state,
            wanted=agent.wanted,
            degraded=any(supervisor.health_monitor.is_degraded for supervisor in agent.supervisors),
            protocol=spec.protocol,
            workers=workers,
            queued=self._tasks.queued(agent.name),
            health_score=self.health_score(agent),
            type=spec.type,
            job=agent.job,
            service=self.service(agent.name) or UNSET,
            listen=self._daemon.activation.status(agent) or UNSET,
            overridden=self._agents.overrides.revision(agent.name) or UNSET,
            **copied(spec, DESCRIBED),
        )
        if spec.kind == "mcp":
            tools = [tool.name for tool in agent.tools]
            status = replace(status, tools=tools, mcp=self.server_status(agent))
        else:
            status = replace(status, warm=self.warmth(spec))
        if agent.rolling is not None:
            rolling = RollingStatus(**copied(agent.rolling, "before after ready left reason"))
            status = replace(status, rolling=rolling)
        if agent.taken_back is not None:
            last = agent.taken_back
            taken_back = TakenBack(revision=last.revision, reason=last.reason, at=rfc3339(last.at))
            status = replace(status, taken_back=taken_back)
        if agent.beside:
            status = replace(status, beside=[self.worker_status(each) for each in agent.beside])
        if has_range(spec):
            between = InstancesStatus(spec.instances.minimum, spec.instances.maximum)
            status = replace(status, instances=between)
        return status

    def health_score(self, agent: Agent) -> int:
        """Returns the health of an agent or server, from 0 to 100."""
        return self._statistics.health_score(agent)

    def warmth(self, spec: Spec) -> dict[str, object] | None:
        """Returns how an agent's workers start: as forks, or cold and why; None where no fork, or no worker, is wanted."""
        facts = self._workers.shared.zygotes.facts(spec.name)
        if facts is None and spec.entrypoint is not None and spec.warm and (why := why_cold(spec)):
            return {"state": "cold", "pid": None, "spares": 0, "reason": why}
        return facts

    def server_status(self, agent: Agent) -> ServerStatus:
        """Returns the part of `status` that only MCP servers have."""
        catalogue, stats = agent.catalogue, self._pool.stats(agent.name)
        has_ended = agent.state is State.TERMINATED
        last = [supervisor.worker.last_exit for supervisor in agent.supervisors]
        has_failed = has_ended and any(each and each.result not in ASKED_FOR for each in last)
        spoke = agent.supervisors if has_failed else []
        words = [line for supervisor in spoke for line in supervisor.log.tail("stderr", LAST_WORDS)]
        return ServerStatus(
            era=catalogue.era,
            version=catalogue.version or None,
            listed_at=rfc3339(catalogue.listed_at) if catalogue.is_known else None,
            prompts=len(catalogue.prompts),
            resources=len(catalogue.resources),
            templates=len(catalogue.templates),
            **copied(stats, "calls failures retries in_flight waiting"),
            warning=RISK if is_at_risk(agent) else None,
            stderr=words[-LAST_WORDS:],
            changed=[tool.name for tool in catalogue.tools if tool.change][:CHANGED_MAX],
            held=any(tool.is_held for tool in catalogue.tools),
        )

    def worker_status(self, supervisor: WorkerSupervisor) -> WorkerStatus:
        """Returns one worker in `status`."""
        worker = supervisor.worker
        now = self._loop.time()
        life = supervisor.life
        sample = self.limits.sample(supervisor)
        throttling = self.limits.throttling(supervisor)
        next_start = worker.deadline if worker.state is State.INITIAL else None
        task = next(iter(supervisor.running), None) if supervisor.spec.kind == "agent" else None
        record = None if task is None else self._tasks.find(task)
        return WorkerStatus(
            id=worker.id,
            pid=worker.pid,
            state=worker.state,
            incarnation=worker.incarnation,
            restarts=worker.restarts,
            renewals=worker.renewals,
            uptime_s=round(now - life.started_at, 3) if life and worker.pid is not None else 0.0,
            rss_bytes=sample.rss_bytes,
            paused=worker.paused_at is not None,
            cpu_percent=sample.cpu_percent,
            open_files=sample.open_files,
            task=task,
            next_start_in_s=None if next_start is None else round(max(0.0, next_start - now), 3),
            last_exit=None if worker.last_exit is None else exit_record(worker.last_exit),
            reason=worker.reason,
            task_reason="" if record is None else record.reason,
            wanted=worker.wanted,
            log_lost_lines=supervisor.log.lost_lines,
            log_lost_bytes=supervisor.log.lost_bytes,
            log_trouble=supervisor.log.trouble,
            health=[health_record(each) for each in supervisor.health_monitor.healths],
            throttled=throttling.throttled,
            throttled_s=throttling.throttled_s,
            hibernated=supervisor.is_cordoned(Unschedulable.HIBERNATED),
            done=worker.done,
        )


def is_failed(status: AgentStatus) -> bool:
    """Returns whether an agent or server has a problem: degraded, ended by a failure, or waiting to be tried again."""
    return status.degraded or any(map(_has_failed, status.workers))


def _has_failed(worker: WorkerStatus) -> bool:
    if worker.state == State.INITIAL:
        return worker.wanted and worker.next_start_in_s is not None
    last = worker.last_exit
    if worker.state != State.TERMINATED or last is None or last.result in ASKED_FOR:
        return False
    return last.result != "exited" or last.code != 0


def health_record(health: Health) -> HealthRecord:
    """Returns the state of a check of a worker."""
    return HealthRecord(**copied(health, "name healthy degraded failures message"), at=health.at or None)


def exit_record(last: LastExit) -> ExitRecord:
    """Returns the end of an incarnation in `status` and `show`."""
    return ExitRecord(**copied(last, "result code signal forced at message"))
