"""Keeps the successes of jobs with `remain = true` over a restart of the daemon, as systemd does with RemainAfterExit.

A success holds until the machine starts anew, since a job may have set up things that are gone then, and for one command.
A stop takes it back. When the store refuses the note of a success, the next daemon runs the job again.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.diff import RESTART_KEYS
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.records.store.store import Store
from corral.supervisor.workers.lifecycle.state_machine import LastExit
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor

PREFIX = "job:"
"""Begin of the keys in the table `meta`; the rest is the id of the worker."""


class Success(msgspec.Struct, frozen=True):
    """Records the success of one worker: the run of the machine, the command, and the exit."""

    boot: str
    command: str
    exit: LastExit


class Successes:
    """Holds the successes that remain, of one daemon's jobs."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._store = store
        self._agents = agents
        self._boot = boot_id()
        self._kept: set[str] = set()

    async def load(self) -> None:
        """Gives the jobs the successes that they had under an earlier daemon; before their first event."""
        sql = "SELECT key, value FROM meta WHERE key >= ? AND key < ?"
        rows = await self._store.read(sql, (PREFIX, f"{PREFIX}\U0010ffff"))
        supervisors = {each.id: each for each in self._agents.all_supervisors()}
        outdated: list[str] = []
        for key, value in rows:
            worker_id = str(key).removeprefix(PREFIX)
            supervisor = supervisors.get(worker_id)
            try:
                success = msgspec.json.decode(str(value), type=Success)
            except msgspec.MsgspecError:
                success = None
            if supervisor is None or success is None or not self._holds(supervisor.spec, success):
                outdated.append(str(key))
                continue
            self._kept.add(worker_id)
            supervisor.rest(success.exit, done=True)
        self._forget(outdated)

    def _holds(self, spec: Spec, success: Success) -> bool:
        is_same = success.boot == self._boot and success.command == _fingerprint(spec)
        return is_same and spec.type == "oneshot" and spec.remain

    def changed(self, supervisor: WorkerSupervisor) -> None:
        """Keeps a success that remains, and forgets one that was taken back."""
        worker = supervisor.worker
        is_kept = worker.id in self._kept
        is_to_be = worker.done and worker.spec.remain
        if is_to_be and not is_kept and worker.last_exit is not None:
            success = Success(self._boot, _fingerprint(worker.spec), worker.last_exit)
            value = msgspec.json.encode(success).decode()
            sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
            if self._store.post((sql, (PREFIX + worker.id, value))):
                self._kept.add(worker.id)
        elif is_kept and not is_to_be and not self._agents.draining:  # a stop of all is none of it
            self._forget([PREFIX + worker.id])

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._kept.discard(key.removeprefix(PREFIX))
            self._store.post(("DELETE FROM meta WHERE key = ?", (key,)))


def _fingerprint(spec: Spec) -> str:
    """Identifies everything that a run of the job was started with."""
    values = [getattr(spec, key) for key in sorted(RESTART_KEYS)]
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()


def boot_id() -> str:
    """Returns an id of the present run of the machine; "" where the kernel gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
