"""Serves the methods `node.*` of the table."""

from corral.worker.control.nodes import Node, NodeParams, Nodes
from corral.worker.control.params import NoParams
from corral.worker.methods.node import NODE_DRAIN, NODE_LIST, NODE_RESUME

from ..table.caller import Caller, made_by
from ..table.cluster import JoinedCluster
from ..table.handlers import serve


class NodeMethods:
    """Serves the methods `node.*`."""

    def __init__(self, joined: JoinedCluster) -> None:
        self._joined = joined

    @serve(NODE_LIST)
    async def _list(self, _params: NoParams, _caller: Caller) -> Nodes:
        return Nodes(nodes=await self._joined.cluster.nodes())

    @serve(NODE_DRAIN)
    async def _drain(self, params: NodeParams, caller: Caller) -> Node:
        return await self._joined.cluster.drain(params.name, made_by(caller))

    @serve(NODE_RESUME)
    async def _resume(self, params: NodeParams, _caller: Caller) -> Node:
        return await self._joined.cluster.resume(params.name)
