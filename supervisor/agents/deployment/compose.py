"""Composes the room: makes the deployments of one daemon of its store, its running set and its state folder."""

import os

from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.workers.group import WorkersGroup

from ..membership.agents import Agents
from ..packages.store import Packages
from ..rollout.rollouts import Rollouts
from .deployments import Deployments
from .installer import Installer
from .package_source import PackageSource
from .records import Records
from .running_set import RunningSet


def make_deployments(
    records: RecordsGroup,
    workers: WorkersGroup,
    accounts: Accounts,
    agents: Agents,
    packages: Packages,
    rollouts: Rollouts,
) -> Deployments:
    """Returns the deployments."""
    host = workers.host

    def folder_of(tenant: str) -> str:
        return str(accounts.folder(tenant))

    return Deployments(
        Records(records.store, records.bus),
        Installer(workers.commands, host, accounts.floor, records.logs, records.state_dir, satisfies),
        PackageSource(packages),
        RunningSet(agents, rollouts, host, folder_of),
        host.environ.get("PATH", os.defpath),
        folder_of,
    )


def satisfies(version: str, specifier: str) -> bool:
    """Returns whether a version of Python is one that a specifier (PEP 440) allows."""
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415  # only who deploys pays

    return SpecifierSet(specifier).contains(version, prereleases=True)
