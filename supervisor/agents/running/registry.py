"""Holds the running set by name: agents, MCP servers, teams and workflows, and the configuration in force.

Finds agents and workers, counts processes. Starts and stops nothing.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable, Sequence

from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.labels import chosen, is_glob
from corral.supervisor.config.spec.references import check_worker_ids, workers_max
from corral.supervisor.config.spec.spec import Config, Group, Recovery, Spec, kind_of_group
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import InvalidParams, NotFound
from corral.worker.contract.names import qualified

from .agent import Agent, has_range, processes_of


class Registry:
    """Holds what one daemon runs, by name.

    `groups` are the teams and workflows. `leaving` are workers that are being added or removed: nothing starts
    them meanwhile. `going` are names of agents that are being removed: nothing may come to require them. `coming` are specs that
    are being written to the store, and not in force yet. `draining` is set when the daemon begins to stop.
    """

    def __init__(self, in_force: InForce) -> None:
        self.in_force = in_force
        self.agents: dict[str, Agent] = {}
        self.groups: dict[str, Group] = {}
        self.leaving: set[WorkerSupervisor] = set()
        self.going: set[str] = set()
        self.coming: list[Spec] = []
        self.draining = False

    @property
    def config(self) -> Config:
        """Returns the configuration in force."""
        return self.in_force.config

    def spec_of(self, name: str) -> Spec | None:
        """Returns the spec in force of an agent or server; None where there is none of that name."""
        agent = self.agents.get(name)
        return None if agent is None else agent.spec

    def recovery_of(self, name: str) -> Recovery:
        """Returns the `[recovery]` of an agent; the common one where it is no more."""
        spec = self.spec_of(name)
        return self.config.defaults.recovery if spec is None else spec.recovery

    @property
    def names(self) -> Collection[str]:
        """Returns the names of all agents and servers."""
        return self.agents.keys()

    def specs(self) -> dict[str, Spec]:
        """Returns the specs of all agents and servers by name; of one that is being changed, the one to come."""
        return {name: agent.intended for name, agent in self.agents.items()}

    def of(self, name: str) -> Agent:
        """Returns the agent or server of that name."""
        agent = self.agents.get(name)
        if agent is None:
            raise self.unknown("agent", name)
        return agent

    def unknown(self, what: str, name: str) -> NotFound:
        """Makes the error for a name that is no agent's; `what` is the kind that was looked for."""
        if name in self.groups:
            kind = kind_of_group(self.groups[name])
            text = f'cannot find {what} "{name}": it is a {kind}, which has no process'
            return NotFound(text, name=name, kind=kind)
        known = sorted({*self.agents, *self.groups})
        return NotFound(f'cannot find {what} "{name}"', name=name, known=known)

    def workers_max(self, name: str) -> int | None:
        """Returns how many workers an agent may have until the id of one is the name of another; None without a bound."""
        return workers_max(name, [*self.agents, *self.groups])

    def check_worker_ids(self, specs: Iterable[Spec], names: Iterable[str] = ()) -> None:
        """Refuses specs that are to come, and other names, if one of all names is then the id of a worker as well."""
        workers = {name: len(agent.supervisors) for name, agent in self.agents.items()}
        workers |= {spec.name: processes_of(spec) for spec in specs}
        known = {*workers, *self.groups, *names}
        if any(name[-1:].isdecimal() for name in known):  # of most sets none does
            check_worker_ids(workers, known, "add")

    def supervisors(self, name: str) -> list[WorkerSupervisor]:
        """Returns all supervisors of an agent, or the one of a worker id."""
        if name in self.agents:
            return self.agents[name].supervisors
        found = self.supervisor(name)
        if found is not None:
            return [found]
        raise self.unknown("agent, MCP server or worker", name)

    def supervisor(self, worker_id: str) -> WorkerSupervisor | None:
        """Returns the supervisor of a worker id, `NAME-N`; None where there is none."""
        name, _, number = worker_id.rpartition("-")
        agent = self.agents.get(name)
        if agent is None or not number.isdecimal() or int(number) >= len(agent.supervisors):
            return None
        supervisor = agent.supervisors[int(number)]  # they stand in the order of their numbers
        return supervisor if supervisor.id == worker_id else None

    def all_supervisors(self) -> list[WorkerSupervisor]:
        """Returns every supervisor, in the order of the configuration."""
        return [supervisor for agent in self.agents.values() for supervisor in agent.supervisors]

    def lives(self) -> list[WorkerSupervisor]:
        """Returns every supervisor that may have a process: those that come or finish beside others, too."""
        return [supervisor for agent in self.agents.values() for supervisor in agent.lives]

    def with_beside(self, supervisors: Iterable[WorkerSupervisor]) -> list[WorkerSupervisor]:
        """Returns supervisors, and those beside them with the same worker ids."""
        found = dict.fromkeys(supervisors)
        for name in {supervisor.spec.name for supervisor in found}:
            agent = self.agents.get(name)
            beside = () if agent is None else agent.beside
            ids = {each.id for each in found} if beside else ()
            found |= dict.fromkeys(each for each in beside if each.id in ids)
        return list(found)

    def selected(self, names: Sequence[str], everything: bool) -> list[WorkerSupervisor]:
        """Returns the supervisors that a command names, each once."""
        if everything == bool(names):
            raise InvalidParams("cannot choose agents: give names, or all", key="names", value=list(names))
        if everything:
            return self.all_supervisors()
        return list(dict.fromkeys(supervisor for name in names for supervisor in self.supervisors(name)))

    def chosen(
        self, names: Sequence[str], selector: str | None, *, groups: bool = False, extra: Iterable[str] = ()
    ) -> list[str]:
        """Returns the names and worker ids that names, globs and a selector of labels choose, each once."""
        if selector is None and not any(map(is_glob, names)):
            return list(names)
        entries = {name: agent.spec.labels for name, agent in self.agents.items()}
        if groups:
            entries |= {name: group.labels for name, group in self.groups.items()}
        workers = {name: [supervisor.id for supervisor in agent.supervisors] for name, agent in self.agents.items()}
        entries |= {name: {} for name in extra if name not in entries}
        return chosen(names, selector, entries, workers)

    def required(self, agent: Agent) -> list[WorkerSupervisor]:
        """Returns the supervisors of the agents that one requires directly."""
        found = filter(None, map(self.agents.get, agent.spec.requires))  # one may be gone by now
        return [supervisor for each in found for supervisor in each.supervisors]

    def requirements(self, agent: Agent) -> set[str]:
        """Returns the names that an agent requires: by its spec in force, and by those that are to be in force."""
        coming = (spec.requires for spec in self.coming if spec.name == agent.name)
        return {*agent.spec.requires, *agent.intended.requires}.union(*coming)

    def active(self, tenant: str | None = None) -> int:
        """Counts the workers and servers that have, or are about to have, processes: all, or those of a tenant."""
        if tenant is None:
            return len([each for each in self.lives() if each.takes_room])
        start = qualified("", tenant)
        return sum(
            each.takes_room for name, agent in self.agents.items() if name.startswith(start) for each in agent.lives
        )

    def counted(self, tenant: str) -> int:
        """Counts what `max_agents` of a tenant limits: its agents and servers, or its active workers if they are more."""
        start = qualified("", tenant)
        return max(sum(name.startswith(start) for name in self.agents), self.active(tenant))

    def in_place(self, listener: Callable[[WorkerSupervisor], None]) -> Callable[[WorkerSupervisor], None]:
        """Returns a listener to changes of workers that have their places, for what keeps facts by worker id."""

        def changed(supervisor: WorkerSupervisor) -> None:
            if self.supervisor(supervisor.id) is supervisor:
                listener(supervisor)

        return changed

    def is_to_go(self, supervisor: WorkerSupervisor) -> bool:
        """Returns whether a worker is being added or removed, or was removed: nothing may start it now."""
        return supervisor in self.leaving or self.supervisor(supervisor.id) is not supervisor

    def is_scaled_away(self, supervisor: WorkerSupervisor) -> bool:
        """Returns whether a worker of an agent with a range is being removed, or was."""
        return has_range(supervisor.spec) and self.is_to_go(supervisor)

    @contextlib.asynccontextmanager
    async def changing(self, agent: Agent) -> AsyncGenerator[None, None]:
        """Holds the lock for one change of an agent's workers."""
        async with agent.changing:
            if self.agents.get(agent.name) is not agent:
                raise was_removed(agent.name)
            yield

    @contextlib.contextmanager
    def removing(self, names: Collection[str]) -> Generator[None, None, None]:
        """Keeps others from coming to require agents that are being removed."""
        self.going.update(names)
        try:
            yield
        finally:
            self.going.difference_update(names)

    @contextlib.contextmanager
    def writing(self, specs: Sequence[Spec]) -> Generator[None, None, None]:
        """Keeps what specs require from being removed while they are written to the store."""
        self.coming += specs
        try:
            yield
        finally:
            self.coming = [each for each in self.coming if not any(each is spec for spec in specs)]

    @contextlib.contextmanager
    def excluded(self, supervisors: Sequence[WorkerSupervisor]) -> Generator[None, None, None]:
        """Keeps workers that come or go from being started."""
        self.leaving.update(supervisors)
        try:
            yield
        finally:
            self.leaving.difference_update(supervisors)


def was_removed(name: str) -> NotFound:
    """Makes the error for a caller that waited for an agent which is gone by now."""
    return NotFound(f'cannot find agent "{name}": it was removed', name=name)
