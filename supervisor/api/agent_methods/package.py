"""Serves the methods `package.*` and `deployment.*` of the table: packages, and the versions of them that are brought to work.

The daemon fetches nothing and reads no file for a caller: a client reads the file or the address, and sends the bytes.
"""

import asyncio
from typing import cast

import msgspec

from corral.supervisor.agents.deployment.deployments import Deployments as DeploymentRunner
from corral.supervisor.agents.packages.store import Packages, Stored
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.tenants.quotas.room import DiskUse
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import copied
from corral.worker.control import deployments as shapes
from corral.worker.methods import deployment as methods

from ..table.handlers import Caller, made_by, serve


class PackageMethods:
    """Serves the methods `package.*`."""

    def __init__(self, packages: Packages, disk_use: DiskUse) -> None:
        self._packages = packages
        self._disk_use = disk_use

    @serve(methods.PACKAGE_UPLOAD)
    async def _upload(self, params: shapes.PackageUploadParams, caller: Caller) -> shapes.PackageUpload:
        self._disk_use.check(caller.tenant, "package", "upload")
        upload, offset = await self._packages.upload(params.upload, params.offset, params.data, caller.tenant)
        return shapes.PackageUpload(upload=upload, offset=offset)

    @serve(methods.PACKAGE_ADD)
    async def _add(self, params: shapes.PackageAddParams, caller: Caller) -> shapes.PackageRecord:
        upload = params.upload
        if (upload is None) == (params.data is None):
            raise InvalidParams("cannot add a package: give either upload or data", key="upload")
        self._disk_use.check(caller.tenant, "package", "add")
        if params.data is not None:
            upload, _ = await self._packages.upload(None, 0, params.data, caller.tenant)
        assert upload is not None, "it was given, or made"
        found = await self._packages.add(upload, params.sha256, made_by(caller), utc_now(), caller.tenant)
        return self._record(found)

    @serve(methods.PACKAGE_LIST)
    async def _list(self, params: shapes.PackageListParams, _caller: Caller) -> shapes.PackageRecords:
        found = self._packages.list(params.name)
        return shapes.PackageRecords(packages=[self._record(each) for each in found])

    @serve(methods.PACKAGE_SHOW)
    async def _show(self, params: shapes.PackageParams, _caller: Caller) -> shapes.PackageDetails:
        found = self._packages.of(params.package)
        spec = found.spec
        plain = cast("dict[str, dict[str, object]]", msgspec.to_builtins(spec))  # as the Struct has them
        return shapes.PackageDetails(
            package=self._record(found),
            agent=spec.agent,
            requires_runtime=plain["requires_runtime"],
            dependencies={"python": list(spec.dependencies.python), "npm": list(spec.dependencies.npm)},
            needs=cast("dict[str, list[dict[str, object]]]", plain["needs"]),  # likewise
            install=spec.install or None,
            has_lock=bool(found.lock),
        )

    @serve(methods.PACKAGE_VERIFY)
    async def _verify(self, params: shapes.PackageParams, _caller: Caller) -> shapes.PackageRecord:
        return self._record(await self._packages.find(params.package))

    @serve(methods.PACKAGE_RM)
    async def _rm(self, params: shapes.PackageParams, _caller: Caller) -> shapes.PackageRecord:
        return self._record(await self._packages.remove(params.package))

    def _record(self, found: Stored) -> shapes.PackageRecord:
        return shapes.PackageRecord(
            **copied(found, "name digest size_bytes content_bytes files added_at added_by"),
            version=found.spec.version,
            description=found.spec.description,
            signer=found.signer or None,
            used_by=self._packages.users(found.name, found.digest),
        )


FOLLOWED = ("deployment.state",)


class DeploymentMethods:
    """Serves the methods `deployment.*`."""

    def __init__(self, deployments: DeploymentRunner, disk_use: DiskUse, bus: Bus) -> None:
        self._deployments = deployments
        self._disk_use = disk_use
        self._bus = bus

    @serve(methods.DEPLOYMENT_CREATE)
    async def _create(self, params: shapes.DeployParams, caller: Caller) -> shapes.Deployment:
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

    @serve(methods.DEPLOYMENT_LIST)
    async def _list(self, params: shapes.DeploymentsParams, _caller: Caller) -> shapes.Deployments:
        return shapes.Deployments(deployments=self._deployments.listed(params.name, params.limit))

    @serve(methods.DEPLOYMENT_SHOW)
    async def _show(self, params: shapes.DeploymentParams, _caller: Caller) -> shapes.Deployment:
        return self._deployments.of(params.deployment)

    @serve(methods.DEPLOYMENT_PROMOTE)
    async def _promote(self, params: shapes.CanaryParams, _caller: Caller) -> shapes.Deployment:
        return await self._deployments.promote(params.name)

    @serve(methods.DEPLOYMENT_ABORT)
    async def _abort(self, params: shapes.CanaryParams, _caller: Caller) -> shapes.Deployment:
        return await self._deployments.abort(params.name)
