"""Defines the params and results of `package.*`: packages that are uploaded, added, listed, verified and removed."""

from typing import Annotated

from msgspec import Meta, Struct

CHUNK_MAX_BYTES = 3 * 1024 * 1024
"""Bytes of a package in one call: encoded, they are below the bound of a message."""

Base64 = Annotated[str, Meta(max_length=CHUNK_MAX_BYTES // 3 * 4)]
Reference = Annotated[str, Meta(min_length=1, max_length=200)]
UploadId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class PackageUploadParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Gives the next bytes of a package in base64, which begin at `offset`; without `upload` a new one begins."""

    data: Base64
    offset: Annotated[int, Meta(ge=0)] = 0
    upload: UploadId | None = None


class PackageUpload(Struct, frozen=True, kw_only=True):
    """Represents a package whose first `offset` bytes have arrived."""

    upload: str
    offset: int


class PackageAddParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names the upload to add, or gives a small package as a whole, in base64; `sha256` is that of the whole file."""

    upload: UploadId | None = None
    data: Base64 | None = None
    sha256: Digest | None = None


class PackageParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a package: NAME@VERSION, or NAME for its highest version."""

    package: Reference


class PackageListParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects the packages of one name, or all."""

    name: str | None = None


class PackageRecord(Struct, frozen=True, kw_only=True):
    """Represents a package that is stored. `digest` identifies its content; sizes are bytes, that of the archive and of all files.

    `signer` is the public key that signed it, null without a signature; `used_by` are agents of which a version that can
    come back is of this package.
    """

    name: str
    version: str
    digest: str
    description: str
    size_bytes: int
    content_bytes: int
    files: int
    signer: str | None
    added_at: str
    added_by: str
    used_by: list[str]


class PackageRecords(Struct, frozen=True, kw_only=True):
    """Holds packages, by name and version, the highest first."""

    packages: list[PackageRecord]


class PackageDetails(Struct, frozen=True, kw_only=True):
    """Represents a package with its package.toml: `agent` has the keys of its agent, as they are written."""

    package: PackageRecord
    agent: dict[str, object]
    requires_runtime: dict[str, object]
    dependencies: dict[str, list[str]]
    needs: dict[str, list[dict[str, object]]]
    install: str | None
    has_lock: bool
