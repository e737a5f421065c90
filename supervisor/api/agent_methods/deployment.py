"""Serves the methods `deployment.*` of the table: versions of packages are brought to work, listed, promoted and taken back."""

import asyncio

from corral.supervisor.records.events.bus import Event
from corral.worker.contract.names import tenant_of
from corral.worker.control.deployments import (
    CanaryParams,
    Deployment,
    DeploymentParams,
    Deployments,
    DeploymentsParams,
    DeployParams,
)
from corral.worker.methods.deployment import (
    DEPLOYMENT_ABORT,
    DEPLOYMENT_CREATE,
    DEPLOYMENT_LIST,
    DEPLOYMENT_PROMOTE,
    DEPLOYMENT_SHOW,
)

from ..table.caller import made_by
from ..table.table import Caller, Control, serve

FOLLOWED = ("deployment.state",)


@serve(DEPLOYMENT_CREATE)
async def _create(control: Control, params: DeployParams, caller: Caller) -> Deployment:
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


@serve(DEPLOYMENT_LIST)
async def _deployments(control: Control, params: DeploymentsParams, _caller: Caller) -> Deployments:
    return Deployments(deployments=control.deployments.listed(params.name, params.limit))


@serve(DEPLOYMENT_SHOW)
async def _deployment(control: Control, params: DeploymentParams, _caller: Caller) -> Deployment:
    return control.deployments.of(params.deployment)


@serve(DEPLOYMENT_PROMOTE)
async def _promote(control: Control, params: CanaryParams, _caller: Caller) -> Deployment:
    return await control.deployments.promote(params.name)


@serve(DEPLOYMENT_ABORT)
async def _abort(control: Control, params: CanaryParams, _caller: Caller) -> Deployment:
    return await control.deployments.abort(params.name)
