"""Defines the methods about deployments of packages."""

from ..control import deployments
from .faces import faces
from .method import Signature, access, method
from .rules import DEPLOYMENT, NAME, NEW_DEPLOYMENT, Rule

DEPLOYMENT_CREATE = method(
    Signature("deployment.create", deployments.DeployParams, deployments.Deployment),
    access(
        "admin", tenant=NEW_DEPLOYMENT, recorded="or-refused", recorded_keys=("deployment", "agent", "version", "state")
    ),
    faces("POST /deployments", python="deploy", command="deploy", streams=True),
    """Deploys a version of a package as an agent; answers when it serves, its canary does, or it has failed.

    Meanwhile each step is sent as a `deployment.event` notification {event}. A caller that hangs up leaves it under way.
    """,
    example={"package": "crawler@1.1", "canary_percent": 10},
)

DEPLOYMENT_LIST = method(
    Signature("deployment.list", deployments.DeploymentsParams, deployments.Deployments),
    access("read", Rule(lists=(("deployments", "agent"),))),
    faces("GET /deployments", python="list_deployments", command="deployments"),
    "Lists the deployments of one agent or of all, the newest first.",
    example={"name": "crawler"},
)

DEPLOYMENT_SHOW = method(
    Signature("deployment.show", deployments.DeploymentParams, deployments.Deployment),
    access("read", tenant=DEPLOYMENT),
    faces("GET /deployments/{deployment}", python="show_deployment", command="deployments"),
    "Returns one deployment in full.",
    example={"deployment": 3},
)

DEPLOYMENT_PROMOTE = method(
    Signature("deployment.promote", deployments.CanaryParams, deployments.Deployment),
    access("admin", NAME, recorded="or-refused", recorded_keys=("deployment", "state")),
    faces("POST /deployments/{name}/promote", python="promote_deployment", command="deploy"),
    "Gives all workers of an agent the version of its canary; answers when all have it, or it has failed.",
    example={"name": "crawler"},
)

DEPLOYMENT_ABORT = method(
    Signature("deployment.abort", deployments.CanaryParams, deployments.Deployment),
    access("admin", NAME, recorded="always", recorded_keys=("deployment", "state")),
    faces("POST /deployments/{name}/abort", python="abort_deployment", command="deploy"),
    "Takes back a canary, or ends a deployment that is under way; answers when the former version serves alone.",
    example={"name": "crawler"},
)
