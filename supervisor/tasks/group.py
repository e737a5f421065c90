"""Makes what takes, queues, runs and ends tasks, each part from those before it."""

from dataclasses import dataclass

from corral.supervisor.agents.group import AgentsGroup
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.records.telemetry.tracing import Tracer
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.workers.group import WorkersGroup
from corral.worker.contract.records import TaskKind

from .attention.inbox import Inbox
from .run.accounting import Accounting
from .run.admission import Admission
from .run.backlog import Backlog
from .run.budgets import Budgets
from .run.cluster import Cluster
from .run.composite import CompositeRunner, JobRunner
from .run.dispatcher import Dispatcher, TaskRunner
from .run.endings import Endings
from .run.executor import Executor, TaskMeters
from .run.record_writer import RecordWriter
from .run.routing import Routing
from .run.submission import Recovery, Submission
from .run.task_rules import TaskRules
from .run.tasks import Tasks, smoke_of
from .worker_api.approvals import Approvals
from .worker_api.call_records import CallHistory, CallRates, CallRecords
from .worker_api.pubsub import WorkerPubsub
from .worker_api.requests import WorkerApi
from .worker_api.tool_calls import ToolCalls
from .workflows.schedules import Schedules
from .workflows.successes import Successes
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
    inbox: Inbox
    call_rates: CallRates
    call_records: CallRecords
    tool_calls: ToolCalls
    schedules: Schedules
    successes: Successes
    pubsub: WorkerPubsub


def make_tasks(records: RecordsGroup, workers: WorkersGroup, tenants: TenantsGroup, agents: AgentsGroup) -> TasksGroup:
    """Makes the tasks of one daemon, their workflows, schedules and calls of tools, and what serves their workers."""
    store, bus, tracing, gathered = records.store, records.bus, records.tracing, records.gathered
    running, turns, limits, memory = agents.agents, tenants.turns, tenants.task_limits, agents.memory
    cluster, backlog = Cluster(), Backlog()
    rules = TaskRules(running.registry, limits)
    routing = Routing(running, backlog, cluster)
    budgets = Budgets(store, bus, running.registry.spec_of, limits, gathered, cluster)

    writer = RecordWriter(store, bus, backlog, running.registry, turns, cluster)
    writer.subscribe(memory)  # before the dispatcher, which begins the next task of a session
    admission = Admission(writer, running, routing, rules, limits, tracing)
    accounting = Accounting(writer, running, budgets, gathered)
    endings = Endings(writer, accounting)

    meters = TaskMeters(workers.limits, backlog)
    executor = Executor(writer, endings, rules, workers.checkpoints, memory, meters, tracing)
    jobs = JobRunner(writer, endings, running)
    composites = CompositeRunner(writer, endings, accounting, running, cluster)
    runners: dict[TaskKind, TaskRunner] = {
        "job": jobs,
        "team": composites,
        "workflow": composites,
        "placed": composites,
    }
    dispatcher = Dispatcher(writer, endings, running, executor, runners, budgets, agents.hibernation)
    submission = Submission(writer, admission, accounting, endings, composites, dispatcher, turns)
    recovery = Recovery(store, writer, running, rules, accounting, endings, submission, dispatcher)
    tasks = Tasks(writer, admission, accounting, endings, composites, dispatcher, submission)
    composites.execute_with(WorkflowEngine(bus, running, tasks, routing))

    approvals = Approvals(store, bus)
    writer.subscribe(approvals)
    inbox = Inbox(store, bus, gathered, approvals)
    writer.subscribe_to_ends(inbox.task_ended)
    workers.changes.subscribe(inbox.worker_changed)
    call_rates = CallRates(bus)
    call_records = CallRecords(bus, running.registry, records.audit, CallHistory(store))
    tool_calls = ToolCalls(running, tasks, agents.pool, call_rates, call_records, approvals, tracing)
    pubsub = WorkerPubsub(bus, records.in_force)
    WorkerApi(workers.requests, tasks, tool_calls, memory.key_values, workers.checkpoints, approvals, pubsub)

    writer.subscribe(workers.task_failures)
    if isinstance(tracing, Tracer):
        writer.subscribe(tracing)
    workers.limits.subscribe(meters.note_sample)
    agents.hibernation.wake_by(backlog.queued)
    agents.autoscaler.scale_by(dispatcher)
    dispatcher.subscribe(agents.autoscaler.check_soon)
    agents.rollouts.try_by(smoke_of(tasks))
    running.membership.subscribe(tool_calls.removed)
    running.membership.subscribe(dispatcher.abandon)
    running.replicas.subscribe(lambda agent: dispatcher.look_soon(agent.name))
    tenants.tenants.subscribe(lambda _: budgets.look_again())
    records.in_force.subscribe(budgets.reloaded)
    schedules = Schedules(store, bus, running, tasks, cluster)
    records.in_force.subscribe(schedules.follow)
    return TasksGroup(
        *(tasks, backlog, writer, accounting, budgets, routing, dispatcher, jobs, meters, recovery, cluster),
        *(approvals, inbox, call_rates, call_records, tool_calls, schedules, Successes(store, running), pubsub),
    )
