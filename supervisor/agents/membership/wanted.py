"""Checks what is to be against what is: one value for a change on request and for a reload."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from corral.supervisor.config.spec.references import check_addresses, check_requires
from corral.supervisor.config.spec.spec import Config, Group, Spec
from corral.supervisor.tenants.quotas.room import TenantRoom


class Wanted(NamedTuple):
    """Describes what is to be: all agents and servers, teams and workflows, under a configuration.

    `coming` and `going` name the agents and servers that a change adds and removes.
    """

    specs: Mapping[str, Spec]
    groups: Mapping[str, Group]
    config: Config
    coming: Collection[str]
    going: Collection[str] = ()

    def check(self, room: TenantRoom) -> None:
        """Refuses what cannot be together, and more agents than a tenant may have."""
        room.check_names(self.coming, going=self.going, config=self.config)
        check_requires(self.specs)
        check_addresses([*self.groups.values(), *self.specs.values()], self.config.daemon)
