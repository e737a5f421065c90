"""Configurations of tests: that of an empty file, with other sections in their places."""

from typing import Any

from msgspec.structs import replace

from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.spec import Config


def configuration(**sections: Any) -> Config:
    """Returns the configuration of an empty file, with other `sections`."""
    return replace(decode("", source="none", directory="/"), **sections)


def in_force(**sections: Any) -> InForce:
    """Returns a holder with such a configuration in force."""
    return InForce(configuration(**sections))
