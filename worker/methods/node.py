"""Defines the methods about the nodes of a cluster."""

from ..control.nodes import Node, NodeParams, Nodes
from ..control.params import NoParams
from .faces import faces
from .method import method

NODE_LIST = method(
    "node.list",
    "read",
    NoParams,
    Nodes,
    faces=faces("GET /nodes", python="list_nodes", command="nodes"),
    doc="Lists the nodes of the cluster that have a lease, without the engine those known last; NotFound where the daemon is in none.",
)

NODE_DRAIN = method(
    "node.drain",
    "admin",
    NodeParams,
    Node,
    recorded="always",
    faces=faces("POST /nodes/{name}/drain", python="drain_node", command="node drain"),
    doc="Requests that a node gives its replicas to other nodes, and gets no new ones, until `node.resume`; also over its restarts.",
    example={"name": "berlin-1"},
)

NODE_RESUME = method(
    "node.resume",
    "admin",
    NodeParams,
    Node,
    recorded="always",
    faces=faces("POST /nodes/{name}/resume", python="resume_node", command="node resume"),
    doc="Lets a node that was drained get replicas again.",
    example={"name": "berlin-1"},
)
