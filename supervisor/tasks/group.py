"""Makes what takes, queues, runs and ends tasks, each part from those before it."""

from dataclasses import dataclass

from corral.mcp.pool.pool import Pool
from corral.supervisor.agents.demand.hibernation import Hibernation
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.tenants.quotas.task_limits import TaskLimits
from corral.supervisor.tenants.quotas.turns import CallTurns
from corral.supervisor.workers.supervision.limit_enforcer import LimitEnforcer
from corral.supervisor.workers.supervision.shared import Shared
from corral.worker.contract.records import TaskKind

from .run.accounting import Accounting
from .run.admission import Admission
from .run.backlog import Backlog
from .run.budgets import Budgets
from .run.cluster import Cluster
from .run.composite import CompositeRunner
from .run.dispatcher import Dispatcher, TaskRunner
from .run.endings import Endings
from .run.executor import Executor, Sessions
from .run.jobs import JobRunner
from .run.metering import TaskMeters
from .run.record_writer import RecordWriter
from .run.recovery import Recovery
from .run.routing import Routing
from .run.submission import Submission
from .run.task_rules import TaskRules
from .run.tasks import Tasks
from .worker_api.approvals import Approvals
from .worker_api.call_history import CallHistory
from .worker_api.call_rate import CallRates
from .worker_api.call_records import CallRecords
from .worker_api.tool_calls import ToolCalls
from .workflows.schedules import Schedules
from .workflows.workflow_engine import WorkflowEngine


@dataclass(frozen=True, slots=True)
class TasksGroup:
    """Holds what other groups use of the tasks of one daemon."""

    tasks: Tasks
    backlog: Backlog
    writer: RecordWriter
    accounting: Accounting
    budgets: Budgets
    routing: Routing
    dispatcher: Dispatcher
    jobs: JobRunner
    meters: TaskMeters
    recovery: Recovery
    cluster: Cluster
    approvals: Approvals
    call_rates: CallRates
    call_records: CallRecords
    tool_calls: ToolCalls
    schedules: Schedules


def make_tasks(
    shared: Shared,
    sessions: Sessions,
    gathered: Gathered,
    tracing: Tracing,
    audit: Audit,
    limits: LimitEnforcer,
    tenants: TaskLimits,
    turns: CallTurns,
    backlog: Backlog,
    agents: Agents,
    hibernation: Hibernation,
    pool: Pool,
) -> TasksGroup:
    """Makes the tasks of one daemon, and their workflows, schedules and calls of tools."""
    store, bus, registry = shared.store, shared.bus, agents.registry
    cluster = Cluster()
    rules = TaskRules(registry, tenants)
    routing = Routing(agents, backlog, cluster)
    budgets = Budgets(store, bus, registry.spec_of, tenants, gathered, cluster)

    writer = RecordWriter(store, bus, backlog, registry, turns, cluster)
    writer.subscribe(sessions)  # before the dispatcher, which begins the next task of a session
    admission = Admission(writer, agents, routing, rules, tenants, tracing)
    accounting = Accounting(writer, agents, budgets, gathered)
    endings = Endings(writer, accounting)

    meters = TaskMeters(limits, backlog)
    executor = Executor(writer, endings, rules, shared.checkpoints, sessions, meters, tracing)
    jobs = JobRunner(writer, endings, agents)
    composites = CompositeRunner(writer, endings, accounting, agents, cluster)
    runners: dict[TaskKind, TaskRunner] = {
        "job": jobs,
        "team": composites,
        "workflow": composites,
        "placed": composites,
    }
    dispatcher = Dispatcher(writer, endings, agents, executor, runners, budgets, hibernation)
    submission = Submission(writer, admission, accounting, endings, composites, dispatcher, turns)
    recovery = Recovery(store, writer, agents, rules, accounting, endings, submission)
    tasks = Tasks(writer, admission, accounting, endings, composites, dispatcher, submission)

    composites.execute_with(WorkflowEngine(bus, agents, tasks, routing))
    schedules = Schedules(store, bus, agents, tasks, cluster)

    approvals = Approvals(store, bus)
    writer.subscribe(approvals)
    call_rates = CallRates(bus)
    call_records = CallRecords(bus, registry, audit, CallHistory(store))
    return TasksGroup(
        tasks,
        backlog,
        writer,
        accounting,
        budgets,
        routing,
        dispatcher,
        jobs,
        meters,
        recovery,
        cluster,
        approvals,
        call_rates,
        call_records,
        ToolCalls(agents, tasks, pool, call_rates, call_records, approvals, tracing),
        schedules,
    )
