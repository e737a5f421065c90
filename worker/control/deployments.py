"""Represents packages, and deployments of them."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..contract.records import Error
from .state_results import Table

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


DeploymentState = Literal["installing", "rolling", "canary", "current", "superseded", "failed"]
"""`canary`: a part of the workers has the version, and the rest waits for a promotion."""

CheckState = Literal["passed", "failed", "skipped"]


class DeployParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for a version of a package as an agent.

    `package` is NAME or NAME@VERSION, the newest version without one; `agent` defaults to the name of the package. `settings`
    are keys of the agent that override those of the package; null removes one. They are kept for the next versions.
    `canary_percent` of the workers get the version first; the rest after `promote_after_s` seconds without a failure, or
    when a promotion is asked for.
    """

    package: Annotated[str, Meta(min_length=1, max_length=4096)]
    agent: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    settings: Table = {}
    canary_percent: Annotated[int, Meta(ge=1, le=99)] | None = None
    promote_after_s: Annotated[float, Meta(gt=0, le=30 * 86400)] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=86400)] | None = None
    why: Annotated[str, Meta(max_length=1000)] = ""


class DeploymentParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names one deployment by its number."""

    deployment: Annotated[int, Meta(ge=1)]


class CanaryParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names the agent of a deployment that is under way, or whose canary waits."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]


class DeploymentsParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for deployments: those of one agent, or the last of each without a name."""

    name: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class DeploymentCheck(Struct, frozen=True, kw_only=True):
    """Represents one thing that a version had to prove: package, needs, install, ready."""

    name: str
    state: CheckState
    message: str = ""


class Deployment(Struct, frozen=True, kw_only=True):
    """Represents one deployment: a version of a package as an agent.

    `deployment` is its number, `revision` that of the agent, None if it got none; `first` where there was no agent of the
    name before. `step` is what is being done, "" at the
    end. `error` has the reason of one that failed. `folder` is where its files are.
    """

    deployment: int
    agent: str
    package: str
    version: str
    digest: str
    state: DeploymentState
    step: str = ""
    first: bool = False
    revision: int | None = None
    canary_percent: int | None = None
    promote_after_s: float | None = None
    settings: Table = {}
    checks: list[DeploymentCheck] = []
    error: Error | None = None
    by: str = ""
    why: str = ""
    environment: str = ""
    folder: str = ""
    created_at: str = ""
    finished_at: str | None = None


class Deployments(Struct, frozen=True, kw_only=True):
    """Lists deployments, the newest first."""

    deployments: list[Deployment]
