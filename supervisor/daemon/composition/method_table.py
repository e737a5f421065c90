"""Composes the method table from the groups, with what it is to tell of the daemon itself."""

from functools import partial

from corral.supervisor.api.group import ApiGroup, Served, make_api
from corral.supervisor.api.table.cluster import JoinedCluster
from corral.supervisor.api.table.status import DaemonFacts, Services, Upgrades, WebPlace

from ..host.installation import read_config
from .groups import Groups


def compose_api(groups: Groups, started: float, services: Services, web: WebPlace, upgrades: Upgrades) -> ApiGroup:
    """Makes the method table, which the cluster asks from now on."""
    paths, records, joined = groups.paths, groups.records, JoinedCluster()
    daemon = DaemonFacts(
        started,
        str(paths.socket),
        str(paths.state_dir),
        None if paths.config is None else str(paths.config),
        partial(read_config, paths.config),
        groups.daemon_log,
        records.forwarding,
        records.audit,
        web,
        services,
        groups.agents.activation,
        joined,
        upgrades,
    )
    served = Served(records, groups.workers, groups.tenants, groups.agents, groups.tasks, groups.models, groups.figures)
    api = make_api(served, daemon)
    if groups.cluster is not None:
        joined.join(groups.cluster)
        groups.cluster.forwarding.answer_with(api.control, api.inventory)
    return api
