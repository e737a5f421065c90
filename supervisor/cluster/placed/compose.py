"""Makes the parts of this daemon's node and connects them."""

import importlib.util
import socket

from corral import __version__
from corral.supervisor.agents.running.agents import Agents
from corral.supervisor.config.declared.cluster import ClusterSettings, node_name
from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.workers.supervision.shared import Shared
from corral.worker.contract.errors import InvalidParams

from .node import ClusterNode


def make_node(settings: ClusterSettings, shared: Shared, agents: Agents) -> ClusterNode:
    """Makes the node; nothing runs yet."""
    if importlib.util.find_spec(settings.engine) is None:
        raise InvalidParams(
            f'cannot use [cluster] engine = "{settings.engine}": its client is not installed;'
            f' install "corral[{settings.engine}]"',
            key="cluster.engine",
            extra=settings.engine,
        )
    host = socket.gethostname()
    try:
        name = node_name(settings, host)
    except Refused as refused:
        raise InvalidParams(
            f'cannot join the cluster as "{host}": {refused.reason}', key="cluster.node", value=host
        ) from None

    def token() -> str:
        return shared.host.secrets.expand({"token": settings.token}, "cluster", "key")["token"]

    return ClusterNode(settings, name, __version__, shared, token, agents)
