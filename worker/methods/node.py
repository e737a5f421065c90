"""Defines the methods about the nodes of a cluster."""

from ..control.nodes import Node, NodeParams, Nodes
from ..control.params import NoParams
from .faces import faces
from .method import Signature, access, method

NODE_LIST = method(
    Signature("node.list", NoParams, Nodes),
    access("read"),
    faces("GET /nodes", python="list_nodes", command="nodes"),
    "Lists the nodes of the cluster that have a lease, without the engine the last known ones; NotFound where the daemon is in no cluster.",
)

NODE_DRAIN = method(
    Signature("node.drain", NodeParams, Node),
    access("admin", recorded="always"),
    faces("POST /nodes/{name}/drain", python="drain_node", command="node drain"),
    "Requests that a node gives its replicas to other nodes, and gets no new ones, until `node.resume`; also over its restarts.",
    example={"name": "berlin-1"},
)

NODE_RESUME = method(
    Signature("node.resume", NodeParams, Node),
    access("admin", recorded="always"),
    faces("POST /nodes/{name}/resume", python="resume_node", command="node resume"),
    "Lets a node that was drained get replicas again.",
    example={"name": "berlin-1"},
)
