"""Erases a tenant whose processes are stopped: rows, files, shared memory, and its record last."""

import asyncio
import logging
from pathlib import Path

from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import CorralError

from .leftovers import end_processes, erase_folders, erase_shared
from .rows import erase_rows
from .tenants import Tenants

FLAT = ("tmp", "secrets.d", "tokens.d", "installed", "environments", "cache")
"""Folders with entries of all owners; those of a tenant are named TENANT+..."""

logger = logging.getLogger(__name__)


def folders_of(state_dir: Path, name: str) -> list[Path]:
    """Returns the folders, and the files of secrets and tokens, that a tenant has in the state folder."""
    flat = (path for part in FLAT for path in (state_dir / part).glob(f"{name}+*"))
    aside = (path for part in FLAT for path in (state_dir / part).glob(f".{name}+*"))
    logs, packages = state_dir / "logs", state_dir / "packages" / name
    own = [state_dir / "tenants" / name, logs / name, logs / ".alive" / name, packages]
    return [*own, *sorted(flat), *sorted(aside)]


async def erase(store: Store, tenants: Tenants, state_dir: Path, name: str) -> dict[str, int]:
    """Erases all that the store and the disk have of a tenant; returns the counts by kind.

    Its uid is free for another tenant when this returns, and not before.
    """
    found: dict[str, int] = {}
    uid = tenants.kept(name).uid
    if uid is not None:
        found["processes"] = await end_processes(uid)
    found["rows"] = sum((await erase_rows(store, name)).values())
    found["folders"] = await erase_folders(folders_of(state_dir, name))
    if uid is not None:
        found["shared"] = await asyncio.to_thread(erase_shared, uid)
    await tenants.forget(name)
    return {kind: count for kind, count in found.items() if count}


async def take_up(store: Store, tenants: Tenants, state_dir: Path) -> None:
    """Finishes the removals that an earlier daemon had begun, before anything of those tenants is loaded."""
    for name in tenants.kept_names():
        if not tenants.kept(name).removing:
            continue
        try:
            fields = {"tenant": name, **await erase(store, tenants, state_dir, name)}
            logger.info("the removal of tenant %s is finished", name, extra={"fields": fields})
        except CorralError as error:
            logger.error('the removal of tenant "%s" is not finished: %s', name, error)
