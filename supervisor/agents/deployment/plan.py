"""Computes of a package what a deployment needs: its dependencies, what is missing here, and the table of its agent."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from corral.supervisor.config.spec.template_spec import merge
from corral.worker.contract import codec
from corral.worker.contract.names import tenant_of

from ..packages.spec import Need as WrittenNeed
from ..packages.store import Packages, Stored
from .runner import Dependencies

NeedKind = Literal["mcp", "agents", "capabilities", "secrets", "commands"]

WORDS: dict[NeedKind, tuple[str, str]] = {
    "mcp": ("MCP server", "add it with corral mcp add"),
    "agents": ("agent", "add or deploy it first"),
    "capabilities": ("an agent with the capability", "add one first"),
    "secrets": ("secret", "set it with corral secret set"),
    "commands": ("system command", "install it on this machine"),
}


class Need(Struct, frozen=True):
    """Represents one thing that a package needs."""

    kind: NeedKind
    name: str
    is_optional: bool = False


class Facts(Struct, frozen=True):
    """Holds the names that there are of each kind."""

    mcp: Collection[str] = ()
    agents: Collection[str] = ()
    capabilities: Collection[str] = ()
    secrets: Collection[str] = ()
    commands: Collection[str] = ()

    def has(self, need: Need) -> bool:
        """Returns whether a need is met."""
        found: Collection[str] = getattr(self, need.kind)
        return need.name in found


def missing(needs: Sequence[Need], facts: Facts) -> list[Need]:
    """Returns the needs that are not met, optional ones among them, in their order."""
    return [need for need in needs if not facts.has(need)]


def words(needs: Sequence[Need]) -> str:
    """Returns what is missing and the remedy of each, in one line."""
    lines: list[str] = []
    for need in needs:
        kind, remedy = WORDS[need.kind]
        lines.append(f'{kind} "{need.name}" is missing ({remedy})')
    return "; ".join(lines)


Table = Mapping[str, object]

UNFINISHED = frozenset(("installing", "rolling", "canary"))
"""States of a deployment that a daemon has to carry on with."""


class Package(Struct, frozen=True):
    """Describes one version of a package: `table` has its keys of an agent, `digest` identifies its bytes."""

    name: str
    version: str
    digest: str
    table: dict[str, object]
    dependencies: Dependencies = Dependencies()
    needs: tuple[Need, ...] = ()

    @property
    def reference(self) -> str:
        """Returns NAME@VERSION."""
        return f"{self.name}@{self.version}"


def kept_settings(earlier: Table, changes: Table) -> dict[str, object]:
    """Returns the settings of the next version: those of the one before with changes, in which null stays as a removal."""
    found = dict(earlier)
    for key, value in changes.items():
        inner, before = codec.as_object(value), codec.as_object(found.get(key))
        found[key] = value if inner is None else kept_settings(before or {}, inner)
    return found


def agent_table(package: Package, settings: Table, folder: str, python: str, path: str) -> dict[str, object]:
    """Returns the table of an agent that is a version of a package.

    It works in `folder`, and its Python is `python`, "" for none: an entrypoint is run by it, a command finds the
    programs of that environment first in its PATH, before those of `path`.
    """
    table = merge(package.table, settings)
    process = dict(codec.as_object(table.get("process")) or {})
    process["working_directory"] = folder
    for key in ("read_paths",):
        if key in process:
            process[key] = [*(codec.as_array(process[key]) or []), folder]
    table["process"] = process
    if not python:
        return table
    if "entrypoint" in table:
        return {**table, "python": python}
    programs = os.path.dirname(python)
    own = {"PATH": f"{programs}{os.pathsep}{path}", "VIRTUAL_ENV": os.path.dirname(programs)}
    return {**table, "environment": {**own, **(codec.as_object(table.get("environment")) or {})}}


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
