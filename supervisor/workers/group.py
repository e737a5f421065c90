"""Makes what starts, contains, measures and supervises workers, and what rooms above enter themselves into."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from corral.supervisor.config.spec.spec import Recovery, Spec
from corral.supervisor.machine.isolation.levels import PROXY_PORT
from corral.supervisor.records.audit.log import now
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.records.store.incarnations import Incarnations

from .egress.proxy import EgressProxy
from .exec.execs import Execs
from .process.command import Commands
from .process.launch import Host
from .process.launcher_client import Launcher
from .supervision.alerts import Alerts
from .supervision.checkpoints import Checkpoints
from .supervision.limit_enforcer import LimitEnforcer
from .supervision.probes import Probes
from .supervision.requests import Requests
from .supervision.shared import Shared
from .supervision.task_failures import TaskFailures
from .supervision.worker_changes import WorkerChanges
from .supervision.worker_supervisor import WorkerSupervisor
from .zygote.pool import ZygotePool


class Specs(Protocol):
    """Knows the specs in force by the names of agents and servers."""

    def spec_of(self, name: str) -> Spec | None:
        """Returns the spec of an agent or server; None where there is none of that name."""
        ...

    def recovery_of(self, name: str) -> Recovery:
        """Returns the `[recovery]` of an agent; the common one where it is no more."""
        ...


@dataclass(frozen=True, slots=True)
class WorkersGroup:
    """Holds what other groups use of the workers of one daemon."""

    launcher: Launcher
    host: Host
    commands: Commands
    shared: Shared
    requests: Requests[WorkerSupervisor]
    changes: WorkerChanges[WorkerSupervisor]
    checkpoints: Checkpoints
    limits: LimitEnforcer
    execs: Execs
    egress: EgressProxy
    alerts: Alerts
    task_failures: TaskFailures


def make_workers(
    records: RecordsGroup, specs: Specs, launcher: Launcher, host: Host, alert_folder: str
) -> WorkersGroup:
    """Makes them; the commands of alerts run in `alert_folder`."""
    store, bus, in_force, generation = records.store, records.bus, records.in_force, records.store.generation
    commands = Commands(launcher, host, generation)
    checkpoints = Checkpoints(store, bus, specs.recovery_of)
    alerts = Alerts(bus, commands, in_force, specs.spec_of, alert_folder)
    shared = Shared(
        launcher=launcher,
        zygotes=ZygotePool(launcher, host, bus, records.logs, generation),
        bus=bus,
        incarnations=Incarnations(store),
        logs=records.logs,
        generation=generation,
        host=host,
        probes=Probes(commands),
        starting=asyncio.Semaphore(in_force.config.process.start_concurrency),
    )

    def note_refused_host(facts: Mapping[str, object]) -> None:
        agent = str(facts["agent"])
        record = {"at": now(), "action": "network.connect", "who": {"agent": agent}, "names": [agent], **facts}
        records.audit.add({**record, "result": "AccessDenied"})

    egress = EgressProxy(launcher, host, generation, note_refused_host)
    launcher.serve(PROXY_PORT, egress)
    return WorkersGroup(
        launcher,
        host,
        commands,
        shared,
        Requests(),
        WorkerChanges(),
        checkpoints,
        LimitEnforcer(launcher, bus),
        Execs(launcher, host, generation),
        egress,
        alerts,
        TaskFailures(bus, in_force, specs.spec_of),
    )
