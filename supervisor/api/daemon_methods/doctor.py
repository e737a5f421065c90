"""Serves `daemon.doctor`: what is wrong with the machine, the configuration and what the daemon depends on."""

import asyncio
import os
from typing import TYPE_CHECKING

from corral import __version__
from corral.supervisor.config.secrets.secrets import is_reference
from corral.supervisor.records.store.store import Store
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.workers.group import WorkersGroup
from corral.supervisor.workers.lifecycle.state_machine import GIVEN_UP, UP, State
from corral.supervisor.workers.process.launch import secret_problems
from corral.worker.contract.errors import CorralError
from corral.worker.control.params import NoParams
from corral.worker.control.results import DaemonFound, Diagnosis, Finding, Promise
from corral.worker.methods.daemon import DAEMON_DOCTOR

from ..table.caller import Caller
from ..table.handlers import serve
from ..table.results import as_result

if TYPE_CHECKING:
    from corral.supervisor.workers.process.host_facts import Services
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.models.desk.listing import ModelListing

from ..table.status import DaemonFacts, StatusReport


class DoctorMethods:
    """Serves `daemon.doctor`."""

    def __init__(
        self,
        agents: Agents,
        status: StatusReport,
        daemon: DaemonFacts,
        models: ModelListing,
        tenants: TenantsGroup,
        store: Store,
        workers: WorkersGroup,
    ) -> None:
        self._agents = agents
        self._status = status
        self._daemon = daemon
        self._models = models
        self._tenants = tenants.tenants
        self._accounts = tenants.accounts
        self._store = store
        self._workers = workers

    @serve(DAEMON_DOCTOR)
    async def _doctor(self, _params: NoParams, caller: Caller) -> Diagnosis:
        from corral.supervisor.workers.process import host_check, host_facts  # noqa: PLC0415 - start-up time: few ask

        problem = ""
        try:
            self._daemon.read_config()
        except CorralError as error:
            problem = error.message
        held = self._workers.launcher.containment
        daemon_log, forwarding = self._daemon.daemon_log, self._daemon.forwarding
        places = "files and the journal" if forwarding.is_wanted else "files"
        log = f"the daemon's own to {daemon_log.where}, from {daemon_log.level} on; workers' lines to {places}"
        stuck = "the journal takes no lines of workers" if forwarding.is_degraded else ""
        parts = ("tier", "kill", "freeze", "memory", "cpu", "processes", "branded", "reason")
        facts = await asyncio.to_thread(  # a file system that hangs must not hang us
            host_facts.look,
            socket=self._daemon.socket,
            state_dir=self._daemon.state_dir,
            isolation=self._agents.config.defaults.process.isolation,
            containment=host_facts.Containment(**{part: getattr(held, part) for part in parts}),
            store_stalled_s=self._store.stalled_s,
            config_problem=problem,
            log=log,
            journal_problem=stuck,
            unplanned=self._workers.launcher.unplanned,
            services=await self._services(),
            environ=os.environ,
        )
        daemon = DaemonFound(running=True, pid=os.getpid(), version=__version__, rights=caller.permission)
        found = host_check.report(facts)
        return Diagnosis(
            daemon=daemon,
            findings=as_result(found["findings"], list[Finding]),
            promises=as_result(found["promises"], list[Promise]),
        )

    async def _services(self) -> "Services":
        from corral.supervisor.workers.process.host_facts import Services  # noqa: PLC0415 - start-up time: few ask

        agents = self._agents.agents.values()
        specs = [agent.spec for agent in agents]
        values = [value for spec in specs for value in spec.expandable]
        servers = [agent for agent in agents if agent.spec.kind == "mcp" and not agent.spec.disabled]
        ends = [
            (supervisor.id, supervisor.worker.last_exit)
            for server in servers
            for supervisor in server.supervisors
            if supervisor.worker.state is State.TERMINATED
        ]
        warmths = [(spec.name, self._status.warmth(spec)) for spec in specs if spec.kind == "agent"]
        models = await self._models.listed()
        problems = await asyncio.to_thread(secret_problems, specs, self._workers.host.secrets)
        engine = await self._daemon.joined.cluster.found()
        return Services(
            cluster=engine.name,
            cluster_problem=engine.problem,
            cluster_weaknesses=tuple(engine.weaknesses),
            secrets=sum(map(is_reference, values)),
            secret_problems=tuple(problems),
            servers=len(servers),
            up=sum(server.state in UP for server in servers),
            failed=tuple(f"{name}: {last.message}" for name, last in ends if last and last.result in GIVEN_UP),
            cold=tuple(
                f"{name} starts cold: {each['reason']}"
                for name, each in warmths
                if each is not None and each["state"] == "cold"
            ),
            http=self._daemon.web.note,
            degraded=tuple(
                f"{name}: {service.reason}"
                for name in self._daemon.services.degraded
                if (service := self._daemon.services.status(name)) is not None
            ),
            tenants=len(self._tenants.all()),
            sharing=self._sharing(),
            models=len(models),
            model_problems=tuple(
                f"{each.model.name}: {each.reason}" for each in models if each.state == "down" and each.used_by
            ),
        )

    def _sharing(self) -> tuple[str, ...]:
        """Returns why the processes of tenants have a user that they share, with the tenants of each reason."""
        by_reason: dict[str, list[str]] = {}
        for name in self._tenants.all():
            if reason := self._accounts.why_shared(name):
                by_reason.setdefault(reason, []).append(name)
        return tuple(
            f"{len(names)} tenants share a user, {names[0]} among them: {reason}" for reason, names in by_reason.items()
        )
