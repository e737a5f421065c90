"""Defines what deployments need of other rooms: packages, the change of an agent, and the facts of this machine."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from corral.supervisor.config.spec.spec import Spec

from .needs import Facts
from .plan import Package


class Change(Struct, frozen=True, kw_only=True):
    """Describes the change of an agent to a version of a package: its author and reason, and the share of the workers."""

    package: str
    by: str
    why: str = ""
    share: float = 1.0


class Packages(Protocol):
    """Gives the packages that were added."""

    async def find(self, reference: str) -> Package:
        """Returns the version that NAME or NAME@VERSION stands for, after its bytes were verified."""
        ...

    def unpack(self, package: Package, target: Path) -> None:
        """Writes the files of a package into a folder; blocks."""
        ...


class Agents(Protocol):
    """Decides which agents there are, and which spec is in force."""

    def spec_of(self, name: str) -> Spec | None:
        """Returns the spec that is in force."""
        ...

    def decode(self, name: str, table: Mapping[str, object]) -> Spec:
        """Returns the spec of a table."""
        ...

    async def roll(self, name: str, table: Mapping[str, object], change: Change) -> int | None:
        """Changes an agent, or adds it, and returns its revision when the version serves, or its share of the workers does."""
        ...

    async def promote(self, name: str) -> None:
        """Gives the rest of the workers the version that a share of them has."""
        ...

    async def abort(self, name: str, reason: str) -> None:
        """Takes a change that is under way back; returns when the spec before is in force again."""
        ...

    async def quiet(self, name: str) -> None:
        """Waits until all workers of an agent are those of its spec: former and refused ones have ended."""
        ...

    async def remove(self, name: str) -> None:
        """Removes an agent."""
        ...

    async def failed(self, name: str) -> str:
        """Waits until a worker of the share fails, and returns how."""
        ...

    def referred(self) -> Collection[str]:
        """Returns the working directories and interpreters of all specs that are in force or are to be."""
        ...

    def facts(self, commands: Collection[str], tenant: str) -> Facts:
        """Returns the local names of what an owner has on this machine; of `commands` those in PATH."""
        ...
