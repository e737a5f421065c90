"""Defines the methods about deployments of packages."""

from ..control.deployments import (
    CanaryParams,
    Deployment,
    DeploymentParams,
    Deployments,
    DeploymentsParams,
    DeployParams,
)
from .faces import faces
from .method import method
from .rules import DEPLOYMENT, NAME, NEW_DEPLOYMENT, Rule

DEPLOYMENT_CREATE = method(
    "deployment.create",
    "admin",
    DeployParams,
    Deployment,
    recorded="or-refused",
    recorded_keys=("deployment", "agent", "version", "state"),
    tenant=NEW_DEPLOYMENT,
    faces=faces("POST /deployments", python="deploy", command="deploy", streams=True),
    doc="""Deploys a version of a package as an agent; answers when it serves, its canary does, or it has failed.

    Meanwhile each step is sent as a `deployment.event` notification {event}. A caller that hangs up leaves it under way.
    """,
    example={"package": "crawler@1.1", "canary_percent": 10},
)

DEPLOYMENT_LIST = method(
    "deployment.list",
    "read",
    DeploymentsParams,
    Deployments,
    scope=Rule(lists=(("deployments", "agent"),)),
    faces=faces("GET /deployments", python="list_deployments", command="deployments"),
    doc="Lists the deployments of one agent or of all, the newest first.",
    example={"name": "crawler"},
)

DEPLOYMENT_SHOW = method(
    "deployment.show",
    "read",
    DeploymentParams,
    Deployment,
    tenant=DEPLOYMENT,
    faces=faces("GET /deployments/{deployment}", python="show_deployment", command="deployments"),
    doc="Returns one deployment in full.",
    example={"deployment": 3},
)

DEPLOYMENT_PROMOTE = method(
    "deployment.promote",
    "admin",
    CanaryParams,
    Deployment,
    recorded="or-refused",
    recorded_keys=("deployment", "state"),
    scope=NAME,
    faces=faces("POST /deployments/{name}/promote", python="promote_deployment", command="deploy"),
    doc="Gives the rest of an agent's workers the version of its canary; answers when all have it, or it has failed.",
    example={"name": "crawler"},
)

DEPLOYMENT_ABORT = method(
    "deployment.abort",
    "admin",
    CanaryParams,
    Deployment,
    recorded="always",
    recorded_keys=("deployment", "state"),
    scope=NAME,
    faces=faces("POST /deployments/{name}/abort", python="abort_deployment", command="deploy"),
    doc="Takes back a canary, or gives up a deployment that is under way; answers when the former version is whole again.",
    example={"name": "crawler"},
)
