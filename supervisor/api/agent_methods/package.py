"""Serves the methods `package.*` of the table: packages are uploaded in chunks, added, listed, verified and removed.

The daemon fetches nothing and reads no file for a caller: a client reads the file or the address, and sends the bytes.
"""

from typing import cast

import msgspec

from corral.supervisor.agents.packages.store import Stored
from corral.supervisor.tenants.tokens.scope import OPEN, OWN_PACKAGE, OWN_PACKAGES
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

from ..table.caller import made_by
from ..table.faces import faces
from ..table.table import Caller, Control, method


@method(
    "package.upload",
    "admin",
    PackageUploadParams,
    PackageUpload,
    recorded="always",
    recorded_keys=("upload", "offset"),
    tenant=OPEN,
    faces=faces("POST /packages/uploads", python="upload_package", command="package add"),
)
async def _upload(control: Control, params: PackageUploadParams, caller: Caller) -> PackageUpload:
    """Takes the next bytes of a package; `package.add` adds it once all have arrived. An upload without calls for ten minutes may go."""
    control.disk_use.check(caller.tenant, "package", "upload")
    upload, offset = await control.packages.upload(params.upload, params.offset, params.data, caller.tenant)
    return PackageUpload(upload=upload, offset=offset)


@method(
    "package.add",
    "admin",
    PackageAddParams,
    PackageRecord,
    recorded="or-refused",
    recorded_keys=("name", "version", "digest", "signer"),
    tenant=OPEN,
    faces=faces("POST /packages", python="add_package", command="package add"),
)
async def _add(control: Control, params: PackageAddParams, caller: Caller) -> PackageRecord:
    """Verifies an uploaded package and keeps it. The same content twice is one package; other content needs another version."""
    upload = params.upload
    if (upload is None) == (params.data is None):
        raise InvalidParams("cannot add a package: give either upload or data", key="upload")
    control.disk_use.check(caller.tenant, "package", "add")
    if params.data is not None:
        upload, _ = await control.packages.upload(None, 0, params.data, caller.tenant)
    assert upload is not None, "it was given, or made"
    found = await control.packages.add(upload, params.sha256, made_by(caller), utc_now(), caller.tenant)
    return _record(control, found)


@method(
    "package.list",
    "read",
    PackageListParams,
    PackageRecords,
    tenant=OWN_PACKAGES,
    faces=faces("GET /packages", python="list_packages", command="package list"),
)
async def _list(control: Control, params: PackageListParams, _caller: Caller) -> PackageRecords:
    """Returns the packages, by name and version."""
    found = control.packages.list(params.name)
    return PackageRecords(packages=[_record(control, each) for each in found])


@method(
    "package.show",
    "read",
    PackageParams,
    PackageDetails,
    tenant=OWN_PACKAGE,
    faces=faces("GET /packages/{package}", python="show_package", command="package show"),
)
async def _show(control: Control, params: PackageParams, _caller: Caller) -> PackageDetails:
    """Returns a package with its needs, its dependencies and the keys of its agent."""
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


@method(
    "package.verify",
    "read",
    PackageParams,
    PackageRecord,
    tenant=OWN_PACKAGE,
    faces=faces("POST /packages/{package}/verify", python="verify_package", command="package verify"),
)
async def _verify(control: Control, params: PackageParams, _caller: Caller) -> PackageRecord:
    """Verifies each byte of a package, and its signature; a changed byte is Corrupted."""
    return _record(control, await control.packages.find(params.package))


@method(
    "package.rm",
    "admin",
    PackageParams,
    PackageRecord,
    recorded="or-refused",
    recorded_keys=("name", "version", "digest"),
    tenant=OWN_PACKAGE,
    faces=faces("DELETE /packages/{package}", python="remove_package", command="package rm"),
)
async def _remove(control: Control, params: PackageParams, _caller: Caller) -> PackageRecord:
    """Removes a package; one that an agent uses, or can come back to, is refused."""
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
        used_by=list(control.packages.users(found.name, found.digest)),
    )
