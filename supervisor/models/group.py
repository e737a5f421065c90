"""Makes what passes calls of models on: the gateway, what decides about its calls, and what gives workers access to it."""

from dataclasses import dataclass
from pathlib import Path

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.machine.isolation.levels import MODEL_PORT
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.workers.supervision.shared import Shared

from .desk.access import ModelAccess
from .desk.desk import ModelDesk
from .desk.endpoints import ModelEndpoints
from .desk.journals import Journals
from .desk.ledger import Ledger
from .desk.listing import ModelListing
from .desk.measured import MeasuredCalls
from .desk.process import ModelGateway
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


def make_models(
    shared: Shared, gathered: Gathered, tracing: Tracing, agents: Agents, tasks: TasksGroup, state_dir: Path
) -> ModelsGroup:
    """Makes the gateway of one daemon and what decides about its calls, whose usage counts for its tasks."""
    keys, registry, under_way = Keys(), agents.registry, CallsUnderWay()
    ledger = Ledger(shared.store, gathered)
    journals = Journals(state_dir / "model-calls", shared.store, gathered, shared.generation)
    desk = ModelDesk(keys, agents, tasks.accounting, ledger, journals, under_way, tracing)
    endpoints = ModelEndpoints(registry, shared.host.secrets)
    gateway = ModelGateway(shared.launcher, shared.host, shared.generation, desk, endpoints)
    shared.launcher.serve(MODEL_PORT, gateway)
    shared.host.before_launch(ModelAccess(keys, registry, gateway).given)
    listing = ModelListing(registry, endpoints, desk, gateway)
    measured = MeasuredCalls(gateway, desk, under_way, tasks.tasks.records)
    tasks.accounting.measure_with(measured)
    return ModelsGroup(desk, ledger, gateway, measured, listing)
