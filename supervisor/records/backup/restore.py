"""Restores an archive for the next start of the daemon: its state is staged, its configuration files are put in place.

Guarantees that nothing which differs is overwritten unless that is asked for, and is kept beside then; and that the
configuration is written in the folder of the configuration file alone, whatever the archive names.
"""

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from corral.worker.contract.errors import Conflict, PermissionDenied

from .adoption import MARK, PLAN, STAGING
from .archive import Manifest
from .snapshot import BEFORE, STORE
from .staging import commit, forget, stage


@dataclass
class Restored:
    """Describes what a restoration has done; the state takes effect with the next start of the daemon."""

    manifest: Manifest
    audit_records: int
    config: list[str] = field(default_factory=list[str])
    """Configuration files that were written."""
    kept: list[str] = field(default_factory=list[str])
    """Files that were there, under their new names."""
    elsewhere: list[str] = field(default_factory=list[str])
    """Files of the configuration that were in other folders, and are left in the archive."""


def restore(file: Path, state_dir: Path, config: Path, *, replace: bool) -> Restored:
    """Restores an archive, where the state folder is empty or `replace` is true."""
    _check_own(state_dir)
    if (state_dir / STAGING / PLAN).exists():
        words = "an earlier one has begun to take effect: start corrald, which ends it"
        raise Conflict(f'cannot restore "{file}": {words}', path=str(state_dir), reason="adopting")
    if not replace and (state_dir / STORE).exists():
        words = f'"{state_dir}" has a state; --replace keeps that beside'
        raise Conflict(f'cannot restore "{file}": {words}', path=str(state_dir), reason="has-state")
    checked = stage(file, state_dir)
    restored = Restored(checked.manifest, checked.audit_records)
    try:
        _put_config(restored, state_dir / STAGING, config, file, replace=replace)
        commit(state_dir, checked.manifest)
    except BaseException:
        forget(state_dir)
        raise
    return restored


def is_waiting(state_dir: Path) -> bool:
    """Returns whether a restored state waits for the next start."""
    return (state_dir / STAGING / MARK).exists()


def _check_own(state_dir: Path) -> None:
    if not state_dir.exists():
        return
    owner = state_dir.stat().st_uid
    if os.geteuid() not in (0, owner):
        text = f'cannot restore into "{state_dir}": it belongs to uid {owner}; run this as that user, or as root'
        raise PermissionDenied(text, path=str(state_dir), reason="foreign")


def _put_config(restored: Restored, staging: Path, config: Path, file: Path, *, replace: bool) -> None:
    """Puts the configuration file at `config`, and those of its folder beside it."""
    manifest = restored.manifest
    moves: list[tuple[Path, Path]] = []
    for each in manifest.files:
        root, _, rest = each.path.partition("/")
        if root == "elsewhere":
            restored.elsewhere.append(each.origin or each.path)
        elif root == "config":
            place = config if each.path == manifest.config else config.parent / rest
            moves.append((staging / each.path, place))
    changed = [(new, place) for new, place in moves if not _is_same(new, place)]
    present = [place for _, place in changed if os.path.lexists(place)]
    if present and not replace:
        words = f'"{present[0]}" is there, and differs; --replace keeps it beside'
        raise Conflict(f'cannot restore "{file}": {words}', path=str(present[0]), reason="has-config")
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for new, place in changed:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.restored")
        part.unlink(missing_ok=True)
        shutil.copy2(new, part)
        if os.path.lexists(place):
            kept = place.with_name(f"{place.name}.{BEFORE}{stamp}")
            os.link(place, kept, follow_symlinks=False)
            restored.kept.append(str(kept))
        part.rename(place)
        restored.config.append(str(place))


def _is_same(new: Path, place: Path) -> bool:
    try:
        return place.is_file() and new.read_bytes() == place.read_bytes()
    except OSError:
        return False
