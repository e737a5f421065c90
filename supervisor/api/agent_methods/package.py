"""Serves the methods `package.*` of the table: packages are uploaded in chunks, added, listed, verified and removed.

The daemon fetches nothing and reads no file for a caller: a client reads the file or the address, and sends the bytes.
"""

from typing import cast

import msgspec

from corral.supervisor.agents.packages.store import Packages, Stored
from corral.supervisor.tenants.quotas.disk_use import DiskUse
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract.errors import InvalidParams
from corral.worker.control.packages import (
    PackageAddParams,
    PackageDetails,
    PackageListParams,
    PackageParams,
    PackageRecord,
    PackageRecords,
    PackageUpload,
    PackageUploadParams,
)
from corral.worker.methods.package import (
    PACKAGE_ADD,
    PACKAGE_LIST,
    PACKAGE_RM,
    PACKAGE_SHOW,
    PACKAGE_UPLOAD,
    PACKAGE_VERIFY,
)

from ..table.caller import Caller, made_by
from ..table.handlers import serve


class PackageMethods:
    """Serves the methods `package.*`."""

    def __init__(self, packages: Packages, disk_use: DiskUse) -> None:
        self._packages = packages
        self._disk_use = disk_use

    @serve(PACKAGE_UPLOAD)
    async def _upload(self, params: PackageUploadParams, caller: Caller) -> PackageUpload:
        self._disk_use.check(caller.tenant, "package", "upload")
        upload, offset = await self._packages.upload(params.upload, params.offset, params.data, caller.tenant)
        return PackageUpload(upload=upload, offset=offset)

    @serve(PACKAGE_ADD)
    async def _add(self, params: PackageAddParams, caller: Caller) -> PackageRecord:
        upload = params.upload
        if (upload is None) == (params.data is None):
            raise InvalidParams("cannot add a package: give either upload or data", key="upload")
        self._disk_use.check(caller.tenant, "package", "add")
        if params.data is not None:
            upload, _ = await self._packages.upload(None, 0, params.data, caller.tenant)
        assert upload is not None, "it was given, or made"
        found = await self._packages.add(upload, params.sha256, made_by(caller), utc_now(), caller.tenant)
        return self._record(found)

    @serve(PACKAGE_LIST)
    async def _list(self, params: PackageListParams, _caller: Caller) -> PackageRecords:
        found = self._packages.list(params.name)
        return PackageRecords(packages=[self._record(each) for each in found])

    @serve(PACKAGE_SHOW)
    async def _show(self, params: PackageParams, _caller: Caller) -> PackageDetails:
        found = self._packages.of(params.package)
        spec = found.spec
        plain = cast("dict[str, dict[str, object]]", msgspec.to_builtins(spec))  # as the Struct has them
        return PackageDetails(
            package=self._record(found),
            agent=spec.agent,
            requires_runtime=plain["requires_runtime"],
            dependencies={"python": list(spec.dependencies.python), "npm": list(spec.dependencies.npm)},
            needs=cast("dict[str, list[dict[str, object]]]", plain["needs"]),  # likewise
            install=spec.install or None,
            has_lock=bool(found.lock),
        )

    @serve(PACKAGE_VERIFY)
    async def _verify(self, params: PackageParams, _caller: Caller) -> PackageRecord:
        return self._record(await self._packages.find(params.package))

    @serve(PACKAGE_RM)
    async def _rm(self, params: PackageParams, _caller: Caller) -> PackageRecord:
        return self._record(await self._packages.remove(params.package))

    def _record(self, found: Stored) -> PackageRecord:
        return PackageRecord(
            name=found.name,
            version=found.spec.version,
            digest=found.digest,
            description=found.spec.description,
            size_bytes=found.size_bytes,
            content_bytes=found.content_bytes,
            files=found.files,
            signer=found.signer or None,
            added_at=found.added_at,
            added_by=found.added_by,
            used_by=self._packages.users(found.name, found.digest),
        )
