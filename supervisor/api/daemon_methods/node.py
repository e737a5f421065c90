"""Serves the methods `node.*` of the table."""

from corral.worker.control.nodes import Node, NodeParams, Nodes
from corral.worker.control.params import NoParams

from ..table.caller import made_by
from ..table.faces import faces
from ..table.table import Caller, Control, method


@method("node.list", "read", NoParams, Nodes, faces=faces("GET /nodes", python="list_nodes", command="nodes"))
async def _list(control: Control, _params: NoParams, _caller: Caller) -> Nodes:
    """Lists the nodes of the cluster that have a lease, without the engine those known last; NotFound where the daemon is in none."""
    return Nodes(nodes=await control.cluster.nodes())


@method(
    "node.drain",
    "admin",
    NodeParams,
    Node,
    recorded="always",
    faces=faces("POST /nodes/{name}/drain", python="drain_node", command="node drain"),
)
async def _drain(control: Control, params: NodeParams, caller: Caller) -> Node:
    """Requests that a node gives its replicas to other nodes, and gets no new ones, until `node.resume`; also over its restarts."""
    return await control.cluster.drain(params.name, made_by(caller))


@method(
    "node.resume",
    "admin",
    NodeParams,
    Node,
    recorded="always",
    faces=faces("POST /nodes/{name}/resume", python="resume_node", command="node resume"),
)
async def _resume(control: Control, params: NodeParams, _caller: Caller) -> Node:
    """Lets a node that was drained get replicas again."""
    return await control.cluster.resume(params.name)
