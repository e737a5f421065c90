"""Determines the tier of containment that this machine gives, and claims the cgroup subtree to use.

A subtree may be used if systemd has delegated it (Delegate=yes), if the daemon's own group belongs to its uid, or if
systemd does not run this machine and the group is writable.  Otherwise the reason is a sentence.  The name of the subtree
is the same at every start with the same state folder, so that the next daemon finds and ends remaining processes of this
one.  See cgroups(7), systemd.resource-control(5) and the kernel's cgroup-v2.rst.
"""

import asyncio
import hashlib
import logging
import os
import re
import time
from pathlib import Path
from typing import Literal

import msgspec

from corral.supervisor.machine.linux import cgroup, kernel

CONTROLLERS = ("memory", "pids", "cpu")
LEAF = "supervisor"
"""The group of the daemon and its launcher below a delegated group, since only leaves may hold processes."""
AGENTS = "agents"
CLEAR_S = 5.0
"""Seconds that remaining processes of a subtree have to end."""
PAUSE_S = 0.01
HOLD_TRIES = 100

log = logging.getLogger(__name__)

Tier = Literal["launcher", "cgroup-kill", "cgroup", "pidns"]
Wanted = Literal["auto", "launcher", "cgroup"]


class Containment(msgspec.Struct, frozen=True, kw_only=True):
    """Describes how the processes of a unit are contained, each part by itself.

    `sampled` parts are left to the sampler, `rlimit` to the limits of each process.  With `branded`, processes that
    outlive daemon and launcher are found at the next start, see `kernel.brand`.  `reason` says why the tier is not
    better; "" for the best.
    """

    tier: Tier = "launcher"
    kill: Literal["cgroup.kill", "subreaper", "pid-namespace"] = "subreaper"
    freeze: Literal["cgroup.freeze", "signals"] = "signals"
    memory: Literal["cgroup", "sampled"] = "sampled"
    cpu: Literal["cgroup", "sampled"] = "sampled"
    processes: Literal["cgroup", "rlimit"] = "rlimit"
    pid_namespace: bool = False
    branded: bool = False
    cgroup: str | None = None
    reason: str = ""


class Refusal(Exception):
    """Reports that no subtree may be used; its text is the reason."""


class Subtree:
    """Represents the parent of the units' groups; locked until `remove`, see `cgroup.remove_unheld`."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._held = -1
        self.reason = ""  # why controllers are missing
        self.controllers: frozenset[str] = frozenset()

    @property
    def groups(self) -> cgroup.Groups:
        """Returns the groups of the units, as the launcher uses them."""
        return cgroup.Groups(str(self.path), self.name)

    def make(self) -> None:
        """Makes the group, or takes over the one that an earlier daemon has left."""
        try:
            for _ in range(HOLD_TRIES):
                self.path.mkdir(exist_ok=True)
                self._held = cgroup.hold(str(self.path))
                if self._held >= 0:
                    break
                time.sleep(PAUSE_S)  # an earlier launcher is just removing it
            else:
                raise Refusal(f"cannot hold {self.path}: another process keeps it locked")
        except OSError as error:
            raise Refusal(f"cannot make {self.path}: {str(error.strerror).lower()}") from error
        if not (self.path / "cgroup.kill").exists():
            self.remove()
            raise Refusal("this kernel has no cgroup.kill: it came with Linux 5.14")

    def unit(self, unit: str) -> Path:
        """Returns the folder of a unit's group, whether it exists or not."""
        return Path(cgroup.folder_of(str(self.path), unit))

    def kill(self) -> None:
        """Sends SIGKILL to every process in it."""
        cgroup.kill(str(self.path))

    async def clear(self) -> None:
        """Kills every process in it and removes the groups of the units, within CLEAR_S."""
        path = str(self.path)
        deadline_s = time.monotonic() + CLEAR_S
        while True:
            left = [child for child in cgroup.below(path) if not cgroup.remove(child)]
            if not left and not cgroup.is_populated(path):
                return
            if time.monotonic() > deadline_s:
                log.error("cannot end what is left in %s after %.0f s", left or path, CLEAR_S)
                return
            self.kill()
            await asyncio.sleep(PAUSE_S)

    def remove(self) -> None:
        """Removes the group if it is empty, and unlocks it."""
        cgroup.remove(str(self.path))
        self.release()

    def release(self) -> None:
        """Unlocks the group, so that the launcher removes it at its end."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def state_number(state_dir: Path) -> int:
    """Returns the number of a state folder in brands: made of its device and inode, not of its path.

    A container's /var/lib/corral is another folder than the host's of the same path, and the host sees its processes.
    """
    folder = state_dir.stat()
    digest = hashlib.sha256(f"{folder.st_dev}:{folder.st_ino}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 32 - kernel.BRAND_BITS


def contained(subtree: Subtree | None, reason: str, *, pid_namespace: bool) -> Containment:
    """Returns the containment that a claimed subtree, or its absence, gives."""
    branded = kernel.brand_for(0, 0) is not None
    found = Containment(reason=reason, branded=branded)
    if subtree is not None:
        on = subtree.controllers
        found = Containment(
            tier="cgroup" if on.issuperset(CONTROLLERS) else "cgroup-kill",
            kill="cgroup.kill",
            freeze="cgroup.freeze",
            memory="cgroup" if "memory" in on else "sampled",
            cpu="cgroup" if "cpu" in on else "sampled",
            processes="cgroup" if "pids" in on else "rlimit",
            branded=branded,
            cgroup=str(subtree.path),
            reason=subtree.reason,
        )
    if pid_namespace:
        return msgspec.structs.replace(found, tier="pidns", kill="pid-namespace", pid_namespace=True)
    return found


def claim(state_dir: Path) -> Subtree:
    """Finds, makes and prepares the subtree; below a delegated group, this process moves to a leaf."""
    own, name = _own_group()
    if (own / "cgroup.type").exists() and _read(own, "cgroup.type") != "domain":
        raise Refusal(f"{own} is a threaded control group")
    for folder, its_name in ((own, name), (own.parent, os.path.dirname(name))):
        if _is_delegated(folder) and (folder == own or own.name == LEAF):
            return _claim_delegated(folder, its_name, state_dir)
    uid = os.geteuid()
    is_own = uid != 0 and own.stat().st_uid == uid
    if not is_own and os.path.isdir("/run/systemd/system"):
        raise Refusal(f"systemd has not delegated {own}: the service needs Delegate=yes")
    if not all(os.access(each, os.W_OK, effective_ids=True) for each in (own, own / "cgroup.procs")):
        raise Refusal(f"uid {uid} may not write to {own}")
    leaf = f"corral-{state_number(state_dir):08x}"
    subtree = Subtree(own / leaf, os.path.join(name, leaf))
    subtree.make()
    _enable(own, subtree)
    return subtree


def _claim_delegated(folder: Path, name: str, state_dir: Path) -> Subtree:
    subtree = Subtree(folder / AGENTS, os.path.join(name, AGENTS))
    subtree.make()
    try:
        (folder / LEAF).mkdir(exist_ok=True)
        cgroup.write(str(folder / LEAF), "cgroup.procs", str(os.getpid()))
    except OSError as error:
        subtree.remove()
        why = str(error.strerror).lower()
        raise Refusal(f"cannot move to {folder / LEAF}: {why}") from error
    _enable(folder, subtree)
    return subtree


def _enable(parent: Path, subtree: Subtree) -> None:
    """Enables the available controllers for the units' groups, level by level, each by itself."""
    offered = _read(parent, "cgroup.controllers").split()
    missing = [name for name in CONTROLLERS if name not in offered]
    if missing:
        subtree.reason = f"{parent} does not offer the controllers: {', '.join(missing)}"
    for name in CONTROLLERS:
        if name not in offered:
            continue
        for folder in (parent, subtree.path):
            if name in _read(folder, "cgroup.subtree_control").split():
                continue
            try:
                cgroup.write(str(folder), "cgroup.subtree_control", f"+{name}")
            except OSError as error:
                why = str(error.strerror).lower()
                subtree.reason = f"cannot enable the controller {name} in {folder}: {why}"
                break
    enabled = _read(subtree.path, "cgroup.subtree_control").split()
    subtree.controllers = frozenset(enabled).intersection(CONTROLLERS)


def _own_group() -> tuple[Path, str]:
    """Returns the folder of this process's group, and its name in /proc/self/cgroup."""
    name = cgroup.name_of("self")
    if not name:
        raise Refusal("this kernel has no control groups of version 2")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields, _, kind = line.partition(" - ")
            if not kind.startswith("cgroup2 "):
                continue
            root, mounted = (_unescaped(field) for field in fields.split()[3:5])
            if name == root or name.startswith(root.rstrip("/") + "/"):
                # In a cgroup namespace the names are relative: only a look inside is certain.
                path = Path(mounted + name[len(root.rstrip("/")) :])
                if str(os.getpid()) in _read(path, "cgroup.procs").split():
                    return path, name
    raise Refusal(f"our own control group {name} is not mounted where we see it")


def _unescaped(field: str) -> str:
    """Decodes a path of /proc/self/mountinfo, where blanks and backslashes are octal, see proc(5)."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def _is_delegated(folder: Path) -> bool:
    for attribute in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(folder, attribute) == b"1":
                return True
        except OSError:
            continue  # absent, or not readable
    return False


def _read(folder: Path, name: str) -> str:
    return cgroup.read(str(folder), name).strip()
