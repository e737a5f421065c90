"""Represents agents and servers that are to be added, decodes their tables, and checks what is to be against what is."""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.spec.loader import decode_agent
from corral.supervisor.config.spec.references import check_addresses, check_requires
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import Config, Group, Spec
from corral.supervisor.tenants.quotas.room import TenantRoom
from corral.worker.contract.records import copied

from ..kept.overrides import Overrides
from ..kept.revision_rows import Entry


class Addition(NamedTuple):
    """Represents an agent or server to be added: its table as in the configuration, and the folder of relative paths.

    `environment` has the values of its variables; None expands nothing. `overrides` means that it is of the file, whose
    table this one overrides.
    """

    name: str
    kind: Literal["agent", "mcp"]
    table: Mapping[str, object]
    directory: str
    environment: Mapping[str, str] | None = None
    overrides: bool = False


def addition_of(entry: Entry) -> Addition:
    """Returns what the store has about an agent or server that was added at run time."""
    return Addition(entry.name, "mcp" if entry.kind == "mcp" else "agent", entry.table, "/")


def decoded(addition: Addition, config: Config, overrides: Overrides) -> Spec:
    """Returns the spec of an addition."""
    if addition.overrides:
        return overrides.spec(addition.name, addition.table)
    environment = addition.environment
    return decode_agent(
        addition.name,
        addition.table,
        kind=addition.kind,
        defaults=config.defaults,
        source=STORE,
        directory=addition.directory,
        variables=None if environment is None else Variables(environment, {}),
        **copied(config, "templates stores models pools"),
    )


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
