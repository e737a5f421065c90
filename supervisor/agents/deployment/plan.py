"""Computes the table of a packaged agent, and what of a deployment an earlier daemon began. Pure."""

import os
from collections.abc import Mapping

from msgspec import Struct

from corral.supervisor.config.spec.template_spec import merge
from corral.worker.contract import codec

from .needs import Need
from .steps import Dependencies

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
