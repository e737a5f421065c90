"""Defines the methods about packages and their deployments."""

from ..control import deployments
from .faces import faces
from .method import Signature, access, method
from .rules import DEPLOYMENT, NAME, NEW_DEPLOYMENT, OPEN, OWN_PACKAGE, OWN_PACKAGES, Rule

PACKAGE_UPLOAD = method(
    Signature("package.upload", deployments.PackageUploadParams, deployments.PackageUpload),
    access("admin", tenant=OPEN, recorded="always", recorded_keys=("upload", "offset")),
    faces("POST /packages/uploads", python="upload_package", command="package add"),
    "Takes the next bytes of a package; `package.add` adds it once all have arrived. An upload without calls for ten minutes may be dropped.",
    example={"data": "KLUv/Q==", "offset": 0},
)

PACKAGE_ADD = method(
    Signature("package.add", deployments.PackageAddParams, deployments.PackageRecord),
    access("admin", tenant=OPEN, recorded="or-refused", recorded_keys=("name", "version", "digest", "signer")),
    faces("POST /packages", python="add_package", command="package add"),
    "Verifies an uploaded package and keeps it. The same content twice is one package; other content needs another version.",
    example={"upload": "0123456789abcdef0123456789abcdef"},
)

PACKAGE_LIST = method(
    Signature("package.list", deployments.PackageListParams, deployments.PackageRecords),
    access("read", tenant=OWN_PACKAGES),
    faces("GET /packages", python="list_packages", command="package list"),
    "Returns the packages, by name and version.",
)

PACKAGE_SHOW = method(
    Signature("package.show", deployments.PackageParams, deployments.PackageDetails),
    access("read", tenant=OWN_PACKAGE),
    faces("GET /packages/{package}", python="show_package", command="package show"),
    "Returns a package with its needs, its dependencies and the keys of its agent.",
    example={"package": "greeter"},
)

PACKAGE_VERIFY = method(
    Signature("package.verify", deployments.PackageParams, deployments.PackageRecord),
    access("read", tenant=OWN_PACKAGE),
    faces("POST /packages/{package}/verify", python="verify_package", command="package verify"),
    "Verifies each byte of a package, and its signature; a changed byte is Corrupted.",
    example={"package": "greeter@0.1.0"},
)

PACKAGE_RM = method(
    Signature("package.rm", deployments.PackageParams, deployments.PackageRecord),
    access("admin", tenant=OWN_PACKAGE, recorded="or-refused", recorded_keys=("name", "version", "digest")),
    faces("DELETE /packages/{package}", python="remove_package", command="package rm"),
    "Removes a package; one that an agent uses, or can roll back to, is refused.",
    example={"package": "greeter@0.1.0"},
)


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
