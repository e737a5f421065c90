"""Defines the methods about packages."""

from ..control.packages import (
    PackageAddParams,
    PackageDetails,
    PackageListParams,
    PackageParams,
    PackageRecord,
    PackageRecords,
    PackageUpload,
    PackageUploadParams,
)
from .faces import faces
from .method import method
from .rules import OPEN, OWN_PACKAGE, OWN_PACKAGES

PACKAGE_UPLOAD = method(
    "package.upload",
    "admin",
    PackageUploadParams,
    PackageUpload,
    recorded="always",
    recorded_keys=("upload", "offset"),
    tenant=OPEN,
    faces=faces("POST /packages/uploads", python="upload_package", command="package add"),
    doc="Takes the next bytes of a package; `package.add` adds it once all have arrived. An upload without calls for ten minutes may go.",
    example={"data": "KLUv/Q==", "offset": 0},
)

PACKAGE_ADD = method(
    "package.add",
    "admin",
    PackageAddParams,
    PackageRecord,
    recorded="or-refused",
    recorded_keys=("name", "version", "digest", "signer"),
    tenant=OPEN,
    faces=faces("POST /packages", python="add_package", command="package add"),
    doc="Verifies an uploaded package and keeps it. The same content twice is one package; other content needs another version.",
    example={"upload": "0123456789abcdef0123456789abcdef"},
)

PACKAGE_LIST = method(
    "package.list",
    "read",
    PackageListParams,
    PackageRecords,
    tenant=OWN_PACKAGES,
    faces=faces("GET /packages", python="list_packages", command="package list"),
    doc="Returns the packages, by name and version.",
)

PACKAGE_SHOW = method(
    "package.show",
    "read",
    PackageParams,
    PackageDetails,
    tenant=OWN_PACKAGE,
    faces=faces("GET /packages/{package}", python="show_package", command="package show"),
    doc="Returns a package with its needs, its dependencies and the keys of its agent.",
    example={"package": "greeter"},
)

PACKAGE_VERIFY = method(
    "package.verify",
    "read",
    PackageParams,
    PackageRecord,
    tenant=OWN_PACKAGE,
    faces=faces("POST /packages/{package}/verify", python="verify_package", command="package verify"),
    doc="Verifies each byte of a package, and its signature; a changed byte is Corrupted.",
    example={"package": "greeter@0.1.0"},
)

PACKAGE_RM = method(
    "package.rm",
    "admin",
    PackageParams,
    PackageRecord,
    recorded="or-refused",
    recorded_keys=("name", "version", "digest"),
    tenant=OWN_PACKAGE,
    faces=faces("DELETE /packages/{package}", python="remove_package", command="package rm"),
    doc="Removes a package; one that an agent uses, or can come back to, is refused.",
    example={"package": "greeter@0.1.0"},
)
