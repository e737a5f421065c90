"""A small daemon: hosts a Launcher, starts WORKERS trees of launcher_tree.py, and waits to be killed.

`launcher_host.py TOKEN WORKERS [OPTIONS]` prints the pid of its launcher when every tree is complete;
OPTIONS are those of Launcher, as JSON.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from corral.supervisor.workers.process.launcher_client import Child, Exit, Launch, Launcher

TREE = Path(__file__).with_name("launcher_tree.py")


async def read_line(child: Child) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    assert child.stdout_fd is not None
    loop.add_reader(child.stdout_fd, readable.set)
    line = b""
    while not line.endswith(b"\n"):
        await readable.wait()
        readable.clear()
        line += os.read(child.stdout_fd, 4096)
    loop.remove_reader(child.stdout_fd)


class Printer:
    """Prints the reports about a unit."""

    def exited(self, report: Exit) -> None:
        """Prints the exit of the leader."""
        print(report)

    def emptied(self, unit: str) -> None:
        """Prints the name of a unit that is empty."""
        print(unit)


async def main() -> None:
    token, workers = sys.argv[1], int(sys.argv[2])
    options: dict[str, Any] = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    if "state_dir" in options:
        options["state_dir"] = Path(options["state_dir"])
    launcher = Launcher(**options)
    await launcher.start()
    argv = [sys.executable, "-I", "-S", str(TREE), token, "3", "0"]
    for n in range(workers):
        launch = Launch(unit=f"a-{n}#1", argv=argv, env={"PATH": os.defpath}, cwd="/")
        await read_line(await launcher.spawn(launch, Printer()))
    print(launcher.pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
