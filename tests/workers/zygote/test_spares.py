"""What is forked ahead: as many as there are to be, whenever one is taken."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest

from corral.supervisor.config.spec.loader import decode
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.workers.process.launch import Host
from corral.supervisor.workers.process.parent import Child, Launch
from corral.supervisor.workers.zygote.client import Zygote
from corral.supervisor.workers.zygote.spares import Reserve, Spare

pytestmark = pytest.mark.shell

BOUND_S = 60.0


class Forks:
    """A zygote, as far as it is asked for forks: each is there at once, and `on_fork` is called behind it."""

    def __init__(self) -> None:
        self.last: Launch | None = None
        self.forked = asyncio.Queue[str]()
        self.on_fork: Callable[[], object] = lambda: None

    async def spawn(self, launch: Launch, _owner: object) -> Child:
        self.last = launch
        self.forked.put_nowait(launch.unit)
        asyncio.get_running_loop().call_soon(self.on_fork)
        fds = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
        return Child(unit=launch.unit, pid=1, starttime=1, stdin_fd=fds[0], stdout_fd=fds[1], stderr_fd=fds[2])

    def temporary_of(self, launch: Launch) -> None:
        """None has one."""

    def rename(self, unit: str, to: str, _owner: object) -> bool:
        return unit != to

    def kill(self, unit: str) -> None:
        """It is dead at once."""


def test_one_that_is_taken_the_moment_the_last_was_forked_is_replaced(tmp_path: Path) -> None:
    text = '[agents.warm]\nentrypoint = "app:agent"\nmin_spare = 1'
    spec = decode(text, source="c.toml", directory="/").agents["warm"]
    host = Host({"PATH": "/usr/bin"}, tmp_path, ordinary_user=True)

    async def main() -> None:
        reserve = Reserve("warm", host, Bus(1), 1, lambda: False)
        forks = Forks()
        zygote = cast(Zygote, forks)  # it is asked for nothing else
        taken: list[Spare | None] = []

        def take() -> None:
            assert forks.last is not None, "it was forked"
            if not taken:
                launch = msgspec.structs.replace(forks.last, unit="warm-0#1")
                taken.append(reserve.take(zygote, launch, reserve))

        forks.on_fork = take
        reserve.set_goal(zygote, spec)
        async with asyncio.timeout(BOUND_S):
            first, second = await forks.forked.get(), await forks.forked.get()
        assert first != second
        assert len(taken) == 1
        assert taken[0] is not None
        fds = (taken[0].child.stdin_fd, taken[0].child.stdout_fd, taken[0].child.stderr_fd)
        for fd in fds:
            assert fd is not None
            os.close(fd)
        await reserve.close()

    asyncio.run(main())
