"""Serves the methods `node.*` of the table."""

from corral.worker.control.nodes import Node, NodeParams, Nodes
from corral.worker.control.params import NoParams
from corral.worker.methods.node import NODE_DRAIN, NODE_LIST, NODE_RESUME

from ..table.caller import made_by
from ..table.table import Caller, Control, serve


@serve(NODE_LIST)
async def _list(control: Control, _params: NoParams, _caller: Caller) -> Nodes:
    return Nodes(nodes=await control.cluster.nodes())


@serve(NODE_DRAIN)
async def _drain(control: Control, params: NodeParams, caller: Caller) -> Node:
    return await control.cluster.drain(params.name, made_by(caller))


@serve(NODE_RESUME)
async def _resume(control: Control, params: NodeParams, _caller: Caller) -> Node:
    return await control.cluster.resume(params.name)
