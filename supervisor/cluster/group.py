"""Makes this daemon's node of a cluster, and has it carry what placed agents keep."""

import importlib.util
import os
import socket

from corral.supervisor.agents.group import AgentsGroup
from corral.supervisor.config.declared.cluster import ClusterSettings, node_name
from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.workers.group import WorkersGroup
from corral.worker.contract.errors import InvalidParams

from .placed.joining import Joining
from .placed.node import ClusterNode


def make_cluster(
    settings: ClusterSettings, control: str, workers: WorkersGroup, agents: AgentsGroup, tasks: TasksGroup
) -> ClusterNode:
    """Makes the node, which tasks, memory and checkpoints ask from now on; it has not joined yet. `control` is the daemon's socket."""
    if importlib.util.find_spec(settings.engine) is None:
        raise InvalidParams(
            f'cannot use [cluster] engine = "{settings.engine}": its client is not installed;'
            f' install "corral[{settings.engine}]"',
            key="cluster.engine",
            extra=settings.engine,
        )
    host, secrets = socket.gethostname(), workers.host.secrets
    try:
        name = node_name(settings, host)
    except Refused as refused:
        raise InvalidParams(
            f'cannot join the cluster as "{host}": {refused.reason}', key="cluster.node", value=host
        ) from None

    def token() -> str:
        return secrets.expand({"token": settings.token}, "cluster", "key")["token"]

    joining = Joining(settings, name, f"{control} on {host}, process {os.getpid()}")
    node = ClusterNode(joining, token, workers, agents, tasks)
    workers.checkpoints.carry_by(node.carried)
    agents.memory.key_values.carry_by(node.carried)
    tasks.cluster.join(node.runner, node.budgets, node.schedules, node.carried.steps)
    return node
