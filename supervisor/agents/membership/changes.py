"""Puts a changed spec in force on agents and servers that run: at once what the daemon holds, with new workers the rest.

Guarantees that nothing is awaited between two agents of one change, so that no other change comes between. Does not
know who wants the change.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.diff import Effect, changed
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle import state_machine
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor

from ..rollout.roll import CHANGED
from ..rollout.rollouts import Rollouts
from ..running.agent import Agent, waves
from ..running.running_agents import RunningAgents


def can_roll(agent: Agent, spec: Spec) -> bool:
    """Returns True if workers of the spec can run beside, or after, the present ones of an agent, and any of these is wanted."""
    is_same = agent.spec.kind == spec.kind
    is_service = agent.spec.type == spec.type == "service"
    return is_same and is_service and not spec.disabled and agent.wanted


class SpecChanges:
    """Changes the specs of one daemon's agents and servers."""

    def __init__(self, running: RunningAgents, rollouts: Rollouts) -> None:
        self._bus = running.bus
        self._registry = running.registry
        self._agents = running.agents
        self._startup = running.startup
        self._operations = running.operations
        self._replicas = running.replicas
        self._rollouts = rollouts

    def apply_added(self, specs: Sequence[Spec], share: float = 1.0) -> None:
        """Gives agents what was added under their names once more, or set for those of the file, and says so; `share` as in `Rollouts.begin`."""
        keys = {spec.name: changed(self._agents[spec.name].intended, spec) for spec in specs}
        effects: dict[str, Effect] = {
            name: "restart" if "restart" in kinds.values() else "live" for name, kinds in keys.items()
        }
        is_added = all(spec.source == STORE for spec in specs)
        self.apply(specs, keys, added=is_added, share=share)
        self.publish(effects, keys)

    def apply(
        self, specs: Iterable[Spec], keys: Mapping[str, Collection[str]], *, added: bool = False, share: float = 1.0
    ) -> None:
        """Puts specs in force, or begins to replace the workers of those that need new ones; `keys` are those that differ."""
        renewed: list[str] = []
        by_name = {spec.name: spec for spec in specs}
        ordered = (name for wave in waves(by_name.values()) for name in sorted(wave))
        for spec in map(by_name.__getitem__, ordered):
            agent = self._agents[spec.name]
            needs_new = "restart" in changed(agent.spec, spec).values()
            if needs_new and can_roll(agent, spec):
                self._rollouts.begin(agent, spec, added=added, share=share)
                continue
            self._rollouts.forgo(agent)
            self._replicas.put_in_force(agent, spec)
            agent.added = added
            self._rollouts.in_force(agent)
            if needs_new:
                renewed.append(spec.name)
        self._renew_changed(renewed)
        self._start_changed(keys)

    def resume(self, specs: Sequence[Spec]) -> None:
        """Takes up changes that an earlier daemon had not finished: the former workers, which are being started, come first."""
        by_name = {spec.name: spec for spec in specs}
        for spec in (by_name[name] for wave in waves(specs) for name in sorted(wave)):
            if self.has_to_roll(spec):
                agent, is_added = self._agents[spec.name], spec.source == STORE
                self._rollouts.begin(agent, spec, added=is_added, resumed=True)
            else:
                self.apply_added([spec])

    def has_to_roll(self, spec: Spec) -> bool:
        """Returns True if the workers of an agent have to be replaced before the spec is in force."""
        agent = self._agents.get(spec.name)
        if agent is None or not can_roll(agent, spec):
            return False
        return "restart" in changed(agent.spec, spec).values()

    def publish(self, effects: Mapping[str, Effect], keys: Mapping[str, Collection[str]]) -> None:
        """Publishes which agents have changed."""
        for name, effect in effects.items():
            self._bus.publish("agent.changed", agent=name, effect=effect, keys=list(keys[name]))

    def _start_changed(self, keys: Mapping[str, Collection[str]]) -> None:
        """Starts workers that the changed keys free: they require others than before, or are to start by themselves."""
        chosen: list[WorkerSupervisor] = []
        for name, changes in keys.items():
            agent = self._agents[name]
            is_new = "autostart" in changes and agent.spec.autostart and not agent.held
            for supervisor in agent.supervisors:
                worker = supervisor.worker
                is_freed = "requires" in changes and worker.waits and supervisor.job.is_waiting
                if is_freed or (is_new and not worker.wanted):
                    chosen.append(supervisor)
        self._startup.start_by_itself(chosen)

    def _renew_changed(self, names: Iterable[str]) -> None:
        """Replaces workers for a new configuration in the order of dependencies, within the limits.

        One that waits for its start, or is about to end, takes the new configuration with its next life. The success of a
        job was that of another command: it runs again.
        """
        names = tuple(names)
        outdated = {k for name in names for k in self._agents[name].supervisors if k.worker.done}
        for supervisor in outdated:
            supervisor.send(state_machine.Stop(reason=CHANGED))
        wanted = [
            supervisor
            for name in names
            for supervisor in self._agents[name].supervisors
            if supervisor.worker.wanted
            or (
                (supervisor in outdated and supervisor.spec.autostart)
                and not (supervisor.worker.waits or supervisor.job.is_to_end)
            )
            if supervisor not in self._registry.leaving
        ]
        chosen = {supervisor: None for supervisor in wanted if supervisor.takes_room}
        idle = [supervisor for supervisor in [*self._startup.needed(chosen), *wanted] if supervisor not in chosen]
        self._startup.start_within_limit(dict.fromkeys(idle))
        self._operations.renew_each(list(chosen), CHANGED)
