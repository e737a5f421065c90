"""Composes the rooms of models: the gateway process, what decides about its calls, and what gives workers access to it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from corral.supervisor.agents.running.agents import Agents
from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.machine.isolation.levels import MODEL_PORT, Sandbox
from corral.supervisor.models.desk.access import ModelAccess
from corral.supervisor.models.desk.desk import ModelDesk
from corral.supervisor.models.desk.journals import Journals
from corral.supervisor.models.desk.ledger import Ledger
from corral.supervisor.models.desk.listing import ModelListing
from corral.supervisor.models.desk.under_way import CallsUnderWay
from corral.supervisor.models.gateway.keys import Keys
from corral.supervisor.models.gateway.process import ModelGateway
from corral.supervisor.records.store.gathered import Gathered
from corral.supervisor.records.telemetry.tracing import Tracing
from corral.supervisor.tasks.run.backlog import Backlog
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.workers.supervision.shared import Shared


class ModelRooms:
    """Holds the rooms of models of one daemon."""

    def __init__(
        self,
        shared: Shared,
        agents: Agents,
        tasks: Tasks,
        backlog: Backlog,
        under_way: CallsUnderWay,
        untasked: Callable[[str, int, float], None],
        state_dir: Path,
        gathered: Gathered,
        tracing: Tracing | None = None,
    ) -> None:
        def models() -> Mapping[str, DeclaredModel]:
            return agents.config.models

        def users() -> Iterator[tuple[str, Sequence[str]]]:
            for agent in agents.agents.values():
                yield agent.name, agent.spec.models

        keys = Keys()
        self.ledger = Ledger(shared.store, gathered)
        journals = Journals(state_dir / "model-calls", shared.store, gathered, shared.generation)
        self.desk = ModelDesk(
            keys,
            models,
            agents,
            backlog,
            tasks.accounting,
            tasks.budgets,
            self.ledger,
            journals,
            under_way,
            untasked,
            tracing,
        )
        self.access = ModelAccess(keys, models, lambda: self.gateway.port(), shared.host.secrets)
        self.gateway = ModelGateway(shared.launcher, shared.host, shared.generation, self.desk, self.access.endpoints)
        under_way.bind(self.gateway.settle)
        self.listing = ModelListing(
            models, users, self.access.endpoints, self.desk, lambda: (self.gateway.pid, self.gateway.restarts)
        )

    def opened(self, unit: str, sandbox: Sandbox, fds: Sequence[int]) -> dict[int, int]:
        """Takes the socket of the gateway in the network of a worker, and returns the others by port."""
        found = dict(zip(sandbox.listen, fds, strict=True))
        if MODEL_PORT in found:
            self.gateway.open(unit, found.pop(MODEL_PORT))
        return found

    async def end(self) -> None:
        """Ends the gateway."""
        await self.gateway.end()
