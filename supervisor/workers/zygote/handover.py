"""Holds the shapes in which one program of the daemon hands its zygotes over to the next.

A zygote runs on, and is told nothing: its messages are a contract between neighbouring versions, as the launcher's are.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from corral.supervisor.records.logs.capture import LogHandover
from corral.supervisor.records.logs.capture_pipe import CaptureHandover

from ..process.parent import Child, Launch, UnitHandover
from .policy import Warmth
from .protocol import Loaded


class ZygoteHandover(Struct, frozen=True, kw_only=True):
    """Holds a loaded zygote; `parent` is the unit of the one that it is a fork of, "" for the launcher.

    `pings` is the number of pings sent, and `pongs` that of the last one answered. `due`, `aliases`, `frozen` and `abandoned`
    are what is known of its units, and of the cgroups of those and earlier ones.
    """

    unit: str
    parent: str
    pid: int
    socket_fd: int
    proc_fd: int | None
    temporary: str | None
    memory_bytes: int
    loaded: Loaded
    captures: tuple[CaptureHandover, ...]
    units: tuple[UnitHandover, ...]
    seq: int
    pings: int
    pongs: int
    is_retired: bool = False
    due: Mapping[str, tuple[float, str]] = {}
    aliases: Mapping[str, str] = {}
    frozen: tuple[str, ...] = ()
    abandoned: tuple[str, ...] = ()

    @property
    def launch(self) -> Launch:
        """Returns what has to be known of its start."""
        return Launch(
            unit=self.unit, argv=(), env={}, cwd="/", temporary=self.temporary, memory_bytes=self.memory_bytes
        )

    @property
    def descriptors(self) -> Iterator[int]:
        """Returns the descriptors that are handed over."""
        yield from (self.socket_fd, *(each.fd for each in self.captures))
        if self.proc_fd is not None:
            yield self.proc_fd


class SpareHandover(Struct, frozen=True):
    """Holds a spare, and the recipe that it was started by."""

    child: Child
    recipe: str
    temporary: str | None
    born_at: float


class AgentZygotesHandover(Struct, frozen=True, kw_only=True):
    """Holds the zygotes of one agent by their numbers, and its spares, which are forks of the current one."""

    state: Warmth
    recipe: str | None
    zygotes: Mapping[int, ZygoteHandover]
    spares: tuple[SpareHandover, ...] = ()
    log: LogHandover | None = None


class SharedZygoteHandover(Struct, frozen=True):
    """Holds a process that has imported what agents share, under the name of the agent that began it."""

    agent: str
    zygote: ZygoteHandover
    log: LogHandover


class PreloadHandover(Struct, frozen=True, kw_only=True):
    """Holds what agents that are started alike share: the unit that forks, and by each zygote's unit the one that it came from."""

    recipe: str
    current: str | None
    users: Mapping[str, str]
    checked_at: float
    failed_at: float | None
    loads: int


class PreloadsHandover(Struct, frozen=True):
    """Holds what is shared, and the processes that have imported it."""

    preloads: tuple[PreloadHandover, ...] = ()
    zygotes: tuple[SharedZygoteHandover, ...] = ()


class PoolHandover(Struct, frozen=True):
    """Holds the zygotes of all agents, by the names of those."""

    agents: Mapping[str, AgentZygotesHandover] = {}
    shared: PreloadsHandover = PreloadsHandover()

    @property
    def zygotes(self) -> list[ZygoteHandover]:
        """Returns all zygotes."""
        own = [zygote for agent in self.agents.values() for zygote in agent.zygotes.values()]
        return [*own, *(each.zygote for each in self.shared.zygotes)]

    @property
    def descriptors(self) -> Iterator[int]:
        """Returns the descriptors that are handed over."""
        for zygote in self.zygotes:
            yield from zygote.descriptors
        for agent in self.agents.values():
            for child in (each.child for each in agent.spares):
                yield from (fd for fd in (child.stdin_fd, child.stdout_fd, child.stderr_fd) if fd is not None)

    @property
    def folders(self) -> list[str]:
        """Returns the temporary folders of processes that live on; those of forks are below."""
        return [each.temporary for each in self.zygotes if each.temporary is not None]
