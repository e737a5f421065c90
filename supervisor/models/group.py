"""Makes what passes calls of models on: the gateway, what decides about its calls, and what gives workers access to it."""

from dataclasses import dataclass

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.machine.isolation.levels import MODEL_PORT
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.workers.group import WorkersGroup

from .desk.answers import Answers
from .desk.desk import ModelDesk
from .desk.journals import Journals
from .desk.ledger import Ledger
from .desk.listing import ModelListing
from .desk.measured import MeasuredCalls
from .desk.process import ModelAccess, ModelEndpoints, ModelGateway
from .desk.under_way import CallsUnderWay
from .gateway.keys import Keys


@dataclass(frozen=True, slots=True)
class ModelsGroup:
    """Holds what other groups use of the models of one daemon."""

    desk: ModelDesk
    ledger: Ledger
    gateway: ModelGateway
    measured: MeasuredCalls
    listing: ModelListing


def make_models(records: RecordsGroup, workers: WorkersGroup, agents: Agents, tasks: TasksGroup) -> ModelsGroup:
    """Makes the gateway of one daemon and what decides about its calls, whose usage counts for its tasks."""
    store, gathered, host = records.store, records.gathered, workers.host
    keys, registry, under_way = Keys(), agents.registry, CallsUnderWay()
    ledger = Ledger(store, gathered)
    journals = Journals(records.state_dir / "model-calls", store, gathered, store.generation)
    desk = ModelDesk(keys, agents, tasks.accounting, ledger, journals, under_way, records.tracing)
    endpoints = ModelEndpoints(registry, host.secrets)
    answers = Answers(tasks.backlog, tasks.tasks.steps, ledger, records.tracing)
    gateway = ModelGateway(workers.launcher, host, store.generation, desk, endpoints, answers)
    workers.launcher.serve(MODEL_PORT, gateway)
    records.in_force.subscribe(lambda _: gateway.refresh())
    host.before_launch(ModelAccess(keys, registry, gateway).given)
    listing = ModelListing(registry, endpoints, desk, gateway)
    measured = MeasuredCalls(gateway, desk, under_way, tasks.tasks.records)
    tasks.accounting.measure_with(measured)
    return ModelsGroup(desk, ledger, gateway, measured, listing)
