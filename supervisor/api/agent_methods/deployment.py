"""Serves the methods `deployment.*` of the table: versions of packages are brought to work, listed, promoted and taken back."""

import asyncio

from corral.supervisor.agents.deployment.deployments import Deployments as DeploymentRunner
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.tenants.quotas.disk_use import DiskUse
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

from ..table.caller import Caller, made_by
from ..table.handlers import serve

FOLLOWED = ("deployment.state",)


class DeploymentMethods:
    """Serves the methods `deployment.*`."""

    def __init__(self, deployments: DeploymentRunner, disk_use: DiskUse, bus: Bus) -> None:
        self._deployments = deployments
        self._disk_use = disk_use
        self._bus = bus

    @serve(DEPLOYMENT_CREATE)
    async def _create(self, params: DeployParams, caller: Caller) -> Deployment:
        name = params.agent or params.package.partition("@")[0]
        self._disk_use.check(tenant_of(name), name, "deploy")

        def is_ours(event: Event) -> bool:
            return event.agent == name

        with self._bus.subscribe(FOLLOWED, where=is_ours) as subscription:

            async def notify() -> None:
                async for event in subscription:
                    caller.notify("deployment.event", {"event": event.record()})
                    await caller.drain()

            sending = asyncio.ensure_future(notify())
            try:
                found = await self._deployments.deploy(params, made_by(caller))
                subscription.close()
                await sending
                return found
            finally:
                sending.cancel()

    @serve(DEPLOYMENT_LIST)
    async def _list(self, params: DeploymentsParams, _caller: Caller) -> Deployments:
        return Deployments(deployments=self._deployments.listed(params.name, params.limit))

    @serve(DEPLOYMENT_SHOW)
    async def _show(self, params: DeploymentParams, _caller: Caller) -> Deployment:
        return self._deployments.of(params.deployment)

    @serve(DEPLOYMENT_PROMOTE)
    async def _promote(self, params: CanaryParams, _caller: Caller) -> Deployment:
        return await self._deployments.promote(params.name)

    @serve(DEPLOYMENT_ABORT)
    async def _abort(self, params: CanaryParams, _caller: Caller) -> Deployment:
        return await self._deployments.abort(params.name)
