"""Connects deployments to the store of packages: turns what a package says into what an installation needs."""

from collections.abc import Sequence
from pathlib import Path

from corral.worker.contract.names import tenant_of

from ..packages.spec import Need as WrittenNeed
from ..packages.store import Packages, Stored
from .needs import Need, NeedKind
from .plan import Package
from .steps import Dependencies


class PackageSource:
    """Gives deployments the packages of a store."""

    def __init__(self, store: Packages) -> None:
        self._store = store

    async def find(self, reference: str) -> Package:
        """Returns the version that NAME or NAME@VERSION stands for, after its bytes were verified."""
        return described(await self._store.find(reference))

    def unpack(self, package: Package, target: Path) -> None:
        """Writes the files of a package into a folder; blocks."""
        self._store.unpack(package.digest, target, tenant_of(package.name))


def described(found: Stored) -> Package:
    """Returns what a deployment needs to know of a package."""
    spec = found.spec
    table = dict(spec.agent)
    if spec.description:
        table.setdefault("description", spec.description)
    kinds: dict[NeedKind, Sequence[WrittenNeed]] = {
        "mcp": spec.needs.mcp,
        "agents": spec.needs.agents,
        "capabilities": spec.needs.capabilities,
        "secrets": spec.needs.secrets,
    }
    needs = [Need(kind, each.name, each.optional) for kind, names in kinds.items() for each in names]
    needs += [Need("commands", name) for name in spec.requires_runtime.commands]
    uses_python = "entrypoint" in table or bool(spec.dependencies.python) or bool(found.lock)
    return Package(
        found.name,
        spec.version,
        found.digest,
        table,
        Dependencies(
            python=spec.dependencies.python,
            npm=spec.dependencies.npm,
            requires_python=spec.requires_runtime.python,
            lock=found.lock,
            install=(f"./{spec.install}",) if spec.install else (),
            uses_python=uses_python or bool(spec.requires_runtime.python),
        ),
        tuple(needs),
    )
