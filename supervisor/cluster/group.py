"""Makes this daemon's node of a cluster, and has it carry what placed agents keep."""

import importlib.util
import socket

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.declared.cluster import ClusterSettings, node_name
from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.tasks.group import TasksGroup
from corral.worker.contract.errors import InvalidParams

from .placed.node import ClusterNode


def make_cluster(settings: ClusterSettings, agents: Agents, tasks: TasksGroup, memory: Memory) -> ClusterNode:
    """Makes the node, which tasks, memory and checkpoints ask from now on; it has not joined yet."""
    if importlib.util.find_spec(settings.engine) is None:
        raise InvalidParams(
            f'cannot use [cluster] engine = "{settings.engine}": its client is not installed;'
            f' install "corral[{settings.engine}]"',
            key="cluster.engine",
            extra=settings.engine,
        )
    host, secrets = socket.gethostname(), agents.shared.host.secrets
    try:
        name = node_name(settings, host)
    except Refused as refused:
        raise InvalidParams(
            f'cannot join the cluster as "{host}": {refused.reason}', key="cluster.node", value=host
        ) from None

    def token() -> str:
        return secrets.expand({"token": settings.token}, "cluster", "key")["token"]

    node = ClusterNode(settings, name, token, agents, tasks, memory)
    agents.shared.checkpoints.carry_by(node.carried)
    memory.key_values.carry_by(node.carried)
    tasks.cluster.join(node.runner, node.budgets, node.schedules)
    return node
