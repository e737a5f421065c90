"""Defines the methods about packages."""

from ..control import packages
from .faces import faces
from .method import Signature, access, method
from .rules import OPEN, OWN_PACKAGE, OWN_PACKAGES

PACKAGE_UPLOAD = method(
    Signature("package.upload", packages.PackageUploadParams, packages.PackageUpload),
    access("admin", tenant=OPEN, recorded="always", recorded_keys=("upload", "offset")),
    faces("POST /packages/uploads", python="upload_package", command="package add"),
    "Takes the next bytes of a package; `package.add` adds it once all have arrived. An upload without calls for ten minutes may be dropped.",
    example={"data": "KLUv/Q==", "offset": 0},
)

PACKAGE_ADD = method(
    Signature("package.add", packages.PackageAddParams, packages.PackageRecord),
    access("admin", tenant=OPEN, recorded="or-refused", recorded_keys=("name", "version", "digest", "signer")),
    faces("POST /packages", python="add_package", command="package add"),
    "Verifies an uploaded package and keeps it. The same content twice is one package; other content needs another version.",
    example={"upload": "0123456789abcdef0123456789abcdef"},
)

PACKAGE_LIST = method(
    Signature("package.list", packages.PackageListParams, packages.PackageRecords),
    access("read", tenant=OWN_PACKAGES),
    faces("GET /packages", python="list_packages", command="package list"),
    "Returns the packages, by name and version.",
)

PACKAGE_SHOW = method(
    Signature("package.show", packages.PackageParams, packages.PackageDetails),
    access("read", tenant=OWN_PACKAGE),
    faces("GET /packages/{package}", python="show_package", command="package show"),
    "Returns a package with its needs, its dependencies and the keys of its agent.",
    example={"package": "greeter"},
)

PACKAGE_VERIFY = method(
    Signature("package.verify", packages.PackageParams, packages.PackageRecord),
    access("read", tenant=OWN_PACKAGE),
    faces("POST /packages/{package}/verify", python="verify_package", command="package verify"),
    "Verifies each byte of a package, and its signature; a changed byte is Corrupted.",
    example={"package": "greeter@0.1.0"},
)

PACKAGE_RM = method(
    Signature("package.rm", packages.PackageParams, packages.PackageRecord),
    access("admin", tenant=OWN_PACKAGE, recorded="or-refused", recorded_keys=("name", "version", "digest")),
    faces("DELETE /packages/{package}", python="remove_package", command="package rm"),
    "Removes a package; one that an agent uses, or can roll back to, is refused.",
    example={"package": "greeter@0.1.0"},
)
