"""Measures corral's own processes: the daemon, the launcher and the zygotes, which no agent counts."""

import os

from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.usage.tree import read_process
from corral.supervisor.workers.zygote.pool import ZygotePool


class Overhead:
    """Measures parts of corral: processes now, their resident memory, and the processor time of all that there were.

    The time of a process that has ended is that of the last look at it.
    """

    def __init__(self, launcher: Launcher, zygotes: ZygotePool) -> None:
        self._launcher = launcher
        self._zygotes = zygotes
        self._used_s: dict[str, dict[int, float]] = {}
        self._ended_s: dict[str, float] = {}

    def figures(self) -> dict[str, dict[str, float]]:
        """Returns `active`, `memory_bytes` (RSS) and `cpu_ms` of each part."""
        found: dict[str, dict[str, float]] = {}
        own = {"daemon": [os.getpid()], "launcher": [self._launcher.pid], "zygotes": self._zygotes.pids()}
        for part, pids in own.items():
            memory_bytes = 0
            used_s: dict[int, float] = {}
            for pid in pids:
                if (process := read_process(pid)) is not None:
                    memory_bytes += process.rss_bytes
                    used_s[pid] = process.total_s
            before = self._used_s.get(part, {})
            gone_s = sum(each for pid, each in before.items() if each > used_s.get(pid, 0.0))
            self._ended_s[part] = self._ended_s.get(part, 0.0) + gone_s
            self._used_s[part] = used_s
            cpu_s = self._ended_s[part] + sum(used_s.values())
            found[part] = {"active": len(used_s), "memory_bytes": memory_bytes, "cpu_ms": round(cpu_s * 1000, 3)}
        return found
