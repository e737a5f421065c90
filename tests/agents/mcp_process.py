"""MCP servers as real processes for tests: one life of one, and a backend that restarts it for the pool."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from corral.mcp.messages import Tool
from corral.mcp.pool import Concurrency
from corral.mcp.session import Session

BOUND_S = 20.0
"""No wait of a test is longer."""

HERE = Path(__file__).parent
ODD = (sys.executable, "-I", str(HERE / "mcp_odd.py"))
OFFICIAL = (sys.executable, str(HERE / "mcp_official.py"))


def spawn(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int, int]:
    """A started server, with our ends of its stdout and stdin."""
    read_fd, its_stdout = os.pipe()
    its_stdin, write_fd = os.pipe()
    process = subprocess.Popen(command, stdin=its_stdin, stdout=its_stdout, start_new_session=True)
    os.close(its_stdin)
    os.close(its_stdout)
    return process, read_fd, write_fd


async def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit status of a process that is ending."""
    return await asyncio.to_thread(process.wait, BOUND_S)


class Life:
    """One server process and the session with it."""

    def __init__(self, session: Session, process: subprocess.Popen[bytes]) -> None:
        self.session = session
        self.process = process

    async def text(self, tool: str, **arguments: object) -> str:
        """The text that a tool answers."""
        result: Any = await self.session.call_tool(tool, arguments)  # MCP's object, read freely
        return str(result["content"][0]["text"])


@asynccontextmanager
async def life(
    command: Sequence[str], *, timeout_s: float = BOUND_S, **options: Any
) -> AsyncGenerator[Life, None]:
    """An open session; the process is gone afterwards. `options` are the session's, of any type."""
    options = {"request_timeout_s": BOUND_S, "client_version": "0", **options}
    session = Session("odd", **options)
    process, read_fd, write_fd = spawn(command)
    try:
        await session.open(read_fd, write_fd, timeout_s=timeout_s)
        yield Life(session, process)
    finally:
        session.close()
        process.kill()
        await ended(process)


class ProcessBackend:
    """A backend as the daemon has one, without policy: it starts the server anew whenever it is gone."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        concurrency: Concurrency = "auto",
        request_timeout_s: float = BOUND_S,
        max_retries: int = 3,
    ) -> None:
        self.name = name
        self.concurrency: Concurrency = concurrency
        self.request_timeout_s = request_timeout_s
        self.max_retries = max_retries
        self.tools: tuple[Tool, ...] = ()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._command = command
        self._session: Session | None = None
        self._lock = asyncio.Lock()

    async def acquire(self) -> Session:
        async with self._lock:
            if self._session is None or not self._session.is_open:
                session = Session(
                    self.name, request_timeout_s=self.request_timeout_s, client_version="0"
                )
                process, read_fd, write_fd = spawn(self._command)
                self.processes.append(process)
                await session.open(read_fd, write_fd, timeout_s=BOUND_S)
                self.tools = session.tools
                self._session = session
            return self._session

    async def stop(self) -> None:
        """Ends every process that it started."""
        if self._session is not None:
            self._session.close()
        for process in self.processes:
            process.kill()
            await ended(process)
