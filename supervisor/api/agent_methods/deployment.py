"""Serves the methods `deployment.*` of the table: versions of packages are brought to work, listed, promoted and taken back."""

import asyncio

from corral.supervisor.records.events.bus import Event
from corral.supervisor.tenants.tokens.scope import DEPLOYMENT, NAME, NEW_DEPLOYMENT, Rule
from corral.worker.contract.names import tenant_of
from corral.worker.control.deployments import (
    CanaryParams,
    Deployment,
    DeploymentParams,
    Deployments,
    DeploymentsParams,
    DeployParams,
)

from ..table.caller import made_by
from ..table.faces import faces
from ..table.table import Caller, Control, method

FOLLOWED = ("deployment.state",)


@method(
    "deployment.create",
    "admin",
    DeployParams,
    Deployment,
    recorded="or-refused",
    recorded_keys=("deployment", "agent", "version", "state"),
    tenant=NEW_DEPLOYMENT,
    faces=faces("POST /deployments", python="deploy", command="deploy", streams=True),
)
async def _create(control: Control, params: DeployParams, caller: Caller) -> Deployment:
    """Deploys a version of a package as an agent; answers when it serves, its canary does, or it has failed.

    Meanwhile each step is sent as a `deployment.event` notification {event}. A caller that hangs up leaves it under way.
    """
    name = params.agent or params.package.partition("@")[0]
    control.disk_use.check(tenant_of(name), name, "deploy")

    def is_ours(event: Event) -> bool:
        return event.agent == name

    with control.shared.bus.subscribe(FOLLOWED, where=is_ours) as subscription:

        async def notify() -> None:
            async for event in subscription:
                caller.notify("deployment.event", {"event": event.record()})
                await caller.drain()

        sending = asyncio.ensure_future(notify())
        try:
            found = await control.deployments.deploy(params, made_by(caller))
            subscription.close()
            await sending
            return found
        finally:
            sending.cancel()


@method(
    "deployment.list",
    "read",
    DeploymentsParams,
    Deployments,
    scope=Rule(lists=(("deployments", "agent"),)),
    faces=faces("GET /deployments", python="list_deployments", command="deployments"),
)
async def _deployments(control: Control, params: DeploymentsParams, _caller: Caller) -> Deployments:
    """Lists the deployments of one agent or of all, the newest first."""
    return Deployments(deployments=control.deployments.listed(params.name, params.limit))


@method(
    "deployment.show",
    "read",
    DeploymentParams,
    Deployment,
    tenant=DEPLOYMENT,
    faces=faces("GET /deployments/{deployment}", python="show_deployment", command="deployments"),
)
async def _deployment(control: Control, params: DeploymentParams, _caller: Caller) -> Deployment:
    """Returns one deployment in full."""
    return control.deployments.of(params.deployment)


@method(
    "deployment.promote",
    "admin",
    CanaryParams,
    Deployment,
    recorded="or-refused",
    recorded_keys=("deployment", "state"),
    scope=NAME,
    faces=faces("POST /deployments/{name}/promote", python="promote_deployment", command="deploy"),
)
async def _promote(control: Control, params: CanaryParams, _caller: Caller) -> Deployment:
    """Gives the rest of an agent's workers the version of its canary; answers when all have it, or it has failed."""
    return await control.deployments.promote(params.name)


@method(
    "deployment.abort",
    "admin",
    CanaryParams,
    Deployment,
    recorded="always",
    recorded_keys=("deployment", "state"),
    scope=NAME,
    faces=faces("POST /deployments/{name}/abort", python="abort_deployment", command="deploy"),
)
async def _abort(control: Control, params: CanaryParams, _caller: Caller) -> Deployment:
    """Takes back a canary, or gives up a deployment that is under way; answers when the former version is whole again."""
    return await control.deployments.abort(params.name)
