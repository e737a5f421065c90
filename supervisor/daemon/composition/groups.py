"""Makes the groups of a running daemon, each of those below it; nothing is decided here, and nothing runs.

Begin reading here: what a group has is in `supervisor/<group>/group.py`.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral.supervisor.agents.group import AgentsGroup, make_agents
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.api.group import FiguresGroup, make_figures
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.models.group import ModelsGroup, make_models
from corral.supervisor.records.group import RecordsGroup, make_records
from corral.supervisor.records.logs.daemon_log import DaemonLog
from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.group import TasksGroup, make_tasks
from corral.supervisor.tenants.group import TenantsGroup, make_tenants
from corral.supervisor.workers.group import WorkersGroup, make_workers
from corral.supervisor.workers.process.launcher_client import LauncherHandover

from ..host.installation import Paths, make_host, make_launcher

if TYPE_CHECKING:
    from corral.supervisor.cluster.placed.node import ClusterNode


@dataclass(frozen=True, slots=True)
class Groups:
    """Holds the groups of a running daemon, and what it was started with."""

    config: Config
    paths: Paths
    daemon_log: DaemonLog
    records: RecordsGroup
    workers: WorkersGroup
    tenants: TenantsGroup
    agents: AgentsGroup
    tasks: TasksGroup
    models: ModelsGroup
    figures: FiguresGroup
    cluster: "ClusterNode | None"


async def make_groups(
    config: Config,
    paths: Paths,
    daemon_log: DaemonLog,
    store: Store,
    stack: contextlib.AsyncExitStack,
    last_event: Callable[[], str],
) -> Groups:
    """Makes the groups; `stack` takes them down, with an event of the type `last_event`."""
    in_force = InForce(config)
    registry = Registry(in_force)
    records = await make_records(in_force, paths.state_dir, store, stack, last_event)
    launcher = make_launcher(config, paths, records.bus)
    folder = "/" if paths.config is None else str(paths.config.resolve().parent)
    workers = make_workers(records, registry, launcher, make_host(config, paths, launcher), folder)
    tenants = make_tenants(records, workers)
    agents = make_agents(records, workers, tenants, registry)
    tasks = make_tasks(records, workers, tenants, agents)
    models = make_models(records, workers, agents.agents, tasks)
    figures = make_figures(records, workers, tenants, agents, tasks, models)
    cluster = _cluster(config, paths, workers, agents, tasks)
    groups = Groups(config, paths, daemon_log, records, workers, tenants, agents, tasks, models, figures, cluster)
    in_force.subscribe(lambda config: daemon_log.set_level(config.daemon.log_level))
    follow_workers(groups)
    return groups


def _cluster(
    config: Config, paths: Paths, workers: WorkersGroup, agents: AgentsGroup, tasks: TasksGroup
) -> "ClusterNode | None":
    """Makes this daemon's part of its cluster, if it is to join one."""
    if config.cluster is None:
        return None
    from corral.supervisor.cluster.group import make_cluster  # noqa: PLC0415  # only who wants a cluster pays

    return make_cluster(config.cluster, str(paths.socket.absolute()), workers, agents, tasks)


def follow_workers(groups: Groups) -> None:
    """Subscribes what acts on changes of workers, which are told in this order."""
    workers, tenants, agents, tasks = groups.workers, groups.tenants, groups.agents, groups.tasks
    changes, registry = workers.changes, agents.agents.registry
    changes.subscribe(groups.figures.statistics.changed)  # before the limits forget what it used
    changes.subscribe(workers.limits.changed)
    changes.subscribe(tenants.slices.changed)
    changes.subscribe(tenants.trees.changed)
    changes.subscribe(agents.agents.servers.changed)
    changes.subscribe(agents.autoscaler.changed, load=True)
    changes.subscribe(agents.rolling_restart.changed, load=True)
    changes.subscribe(workers.execs.changed)
    changes.subscribe(tasks.pubsub.changed)
    changes.subscribe(registry.in_place(agents.hibernation.changed))
    changes.subscribe(agents.activation.changed)
    changes.subscribe(registry.in_place(tasks.successes.changed))
    changes.subscribe(agents.agents.startup.changed)
    changes.subscribe(tasks.jobs.worker_changed)
    changes.subscribe(tasks.dispatcher.worker_changed)
    changes.subscribe(agents.rollouts.changed, load=True)


async def start_launcher(
    groups: Groups, stack: contextlib.AsyncExitStack, left: LauncherHandover | None = None
) -> None:
    """Starts the launcher, unless an earlier program has `left` one; `stack` ends it, and before it what runs processes."""
    launcher = groups.workers.launcher
    stack.callback(groups.agents.activation.close)
    stack.push_async_callback(groups.tenants.trees.close)
    await launcher.start(left)
    stack.push_async_callback(launcher.close)
    stack.push_async_callback(groups.workers.egress.end)
    stack.push_async_callback(groups.models.gateway.end)
    stack.push_async_callback(groups.workers.shared.zygotes.close)
    stack.callback(groups.tasks.approvals.close)
