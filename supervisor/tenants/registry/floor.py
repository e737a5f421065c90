"""Decides how a tenant's agent runs: the least isolation, whatever its spec says. A pure function of spec and account.

Guarantees that no process of a tenant runs without the rules here: `accounts` applies them at each start. Must not know
the kernel or the disk.
"""

from collections.abc import Sequence
from posixpath import normpath

from msgspec import Struct
from msgspec.structs import replace

from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.names import tenant_of

NOT_INHERITED = frozenset({"HOME", "LOGNAME", "USER", "SHELL"})
"""Variables that name the account of the daemon."""

Identity = tuple[int, int, Sequence[int]]
"""uid, gid and supplementary groups."""


class Standing(Struct, frozen=True, kw_only=True):
    """Represents what the processes of a tenant run as: their user, and their folder.

    `user` is the name or the number of the account; None leaves that of the daemon's agents. `identity` is set where the
    account is a number alone, that no user database has.
    """

    tenant: str
    folder: str
    user: str | None = None
    identity: Identity | None = None


def floored(spec: Spec, standing: Standing) -> Spec:
    """Returns the spec that a tenant's process is started with.

    It runs as its tenant's user, in the folder of its tenant, and reads and writes that alone beside what its program
    needs and what its table names. A `working_directory` elsewhere may be read, not written. It has no right on the
    control socket.
    """
    assert tenant_of(spec.name) == standing.tenant, "the account is that of its tenant"
    process, folder = spec.process, standing.folder
    place = process.working_directory or folder
    readable = [folder, *(process.read_paths or ())]
    if not is_below(place, folder):
        readable.append(place)
    own = {"HOME": folder, "USER": standing.tenant, "LOGNAME": standing.tenant}
    process = replace(
        process,
        isolation="basic" if process.isolation == "none" else process.isolation,
        enable_isolation=True,
        user=standing.user or process.user,
        group=None if standing.user else process.group,
        working_directory=place,
        read_paths=tuple(dict.fromkeys(readable)),
        write_paths=tuple(dict.fromkeys((folder, *(process.write_paths or ())))),
        inherit_environment=tuple(name for name in process.inherit_environment if name not in NOT_INHERITED),
    )
    return replace(spec, process=process, environment={**own, **spec.environment}, control="none")


def is_below(path: str, folder: str) -> bool:
    """Returns whether a path is a folder, or in it, by their words; links are not followed."""
    path, folder = normpath(path), normpath(folder)
    return path == folder or path.startswith(folder.rstrip("/") + "/")
