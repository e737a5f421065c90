"""Serves the methods `package.*` of the table: packages are uploaded in chunks, added, listed, verified and removed.

The daemon fetches nothing and reads no file for a caller: a client reads the file or the address, and sends the bytes.
"""

from typing import cast

import msgspec

from corral.supervisor.agents.packages.store import Stored
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

from ..table.caller import made_by
from ..table.table import Caller, Control, serve


@serve(PACKAGE_UPLOAD)
async def _upload(control: Control, params: PackageUploadParams, caller: Caller) -> PackageUpload:
    control.disk_use.check(caller.tenant, "package", "upload")
    upload, offset = await control.packages.upload(params.upload, params.offset, params.data, caller.tenant)
    return PackageUpload(upload=upload, offset=offset)


@serve(PACKAGE_ADD)
async def _add(control: Control, params: PackageAddParams, caller: Caller) -> PackageRecord:
    upload = params.upload
    if (upload is None) == (params.data is None):
        raise InvalidParams("cannot add a package: give either upload or data", key="upload")
    control.disk_use.check(caller.tenant, "package", "add")
    if params.data is not None:
        upload, _ = await control.packages.upload(None, 0, params.data, caller.tenant)
    assert upload is not None, "it was given, or made"
    found = await control.packages.add(upload, params.sha256, made_by(caller), utc_now(), caller.tenant)
    return _record(control, found)


@serve(PACKAGE_LIST)
async def _list(control: Control, params: PackageListParams, _caller: Caller) -> PackageRecords:
    found = control.packages.list(params.name)
    return PackageRecords(packages=[_record(control, each) for each in found])


@serve(PACKAGE_SHOW)
async def _show(control: Control, params: PackageParams, _caller: Caller) -> PackageDetails:
    found = control.packages.of(params.package)
    spec = found.spec
    plain = cast("dict[str, dict[str, object]]", msgspec.to_builtins(spec))  # as the Struct has them
    return PackageDetails(
        package=_record(control, found),
        agent=spec.agent,
        requires_runtime=plain["requires_runtime"],
        dependencies={"python": list(spec.dependencies.python), "npm": list(spec.dependencies.npm)},
        needs=cast("dict[str, list[dict[str, object]]]", plain["needs"]),  # likewise
        install=spec.install or None,
        has_lock=bool(found.lock),
    )


@serve(PACKAGE_VERIFY)
async def _verify(control: Control, params: PackageParams, _caller: Caller) -> PackageRecord:
    return _record(control, await control.packages.find(params.package))


@serve(PACKAGE_RM)
async def _remove(control: Control, params: PackageParams, _caller: Caller) -> PackageRecord:
    return _record(control, await control.packages.remove(params.package))


def _record(control: Control, found: Stored) -> PackageRecord:
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
        used_by=control.packages.users(found.name, found.digest),
    )
