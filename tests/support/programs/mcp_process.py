"""MCP servers as real processes for tests: one life of one, and a backend that restarts it for the pool."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from corral.mcp.pool.backend import Concurrency, Settings
from corral.mcp.pool.placement import Phase
from corral.mcp.pool.pool import Pool
from corral.mcp.protocol.catalog import Catalogue
from corral.mcp.upstream.session import Listener, Session, Terms

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
        params = {"name": tool, "arguments": arguments}
        result: Any = await self.session.request("tools/call", params)  # MCP's object, read freely
        return str(result["content"][0]["text"])


def session_of(name: str, **options: Any) -> Session:
    """A session; `options` are fields of its terms and of its listener."""
    options = {"request_timeout_s": BOUND_S, **options}
    terms: dict[str, Any] = {key: value for key, value in options.items() if key in Terms._fields}
    heard: dict[str, Any] = {key: value for key, value in options.items() if key in Listener._fields}
    assert terms.keys() | heard.keys() == options.keys()
    return Session(name, Terms(**terms), Listener(**heard))


@asynccontextmanager
async def life(command: Sequence[str], *, timeout_s: float = BOUND_S, **options: Any) -> AsyncGenerator[Life, None]:
    """An open session; the process is gone afterwards. `options` are the session's, of any type."""
    session = session_of("odd", **options)
    process, read_fd, write_fd = spawn(command)
    try:
        await session.open(read_fd, write_fd, timeout_s=timeout_s)
        yield Life(session, process)
    finally:
        session.close()
        process.kill()
        await ended(process)


class ServerProcess:
    """One process of a backend, which is started anew whenever it is gone."""

    def __init__(self, backend: "ProcessBackend") -> None:
        self.backend = backend
        self.life = 0
        self._session: Session | None = None
        self._lock = asyncio.Lock()

    @property
    def phase(self) -> Phase:
        return Phase.DOWN if self.session is None else Phase.UP

    @property
    def session(self) -> Session | None:
        return self._session if self._session is not None and self._session.is_open else None

    async def acquire(self) -> Session:
        async with self._lock:
            if self.session is None:
                backend = self.backend
                session = session_of(backend.name, request_timeout_s=backend.settings.request_timeout_s)
                process, read_fd, write_fd = spawn(backend.command)
                backend.started.append(process)
                await session.open(read_fd, write_fd, timeout_s=BOUND_S)
                self.life += 1
                self._session = session
                backend.list(session.catalogue)
            assert self._session is not None
            return self._session

    async def renew(self) -> None:
        self.close()
        await self.acquire()

    def start(self) -> None:
        raise AssertionError("one process is enough")

    def end(self) -> None:
        raise AssertionError("it is nobody's alone")

    def note(self, *, is_busy: bool) -> None:
        self.backend.busy = is_busy

    def trouble(self) -> None:
        return None

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


class ProcessBackend:
    """A backend as the daemon has one, without policy: one process."""

    max_processes = 1

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
        self.command = command
        self.settings = Settings(concurrency, "all", 0, request_timeout_s, 10 * BOUND_S, max_retries, 0, ())
        self.catalogue = Catalogue()
        self.busy = False
        self.pool: Pool | None = None
        self.started: list[subprocess.Popen[bytes]] = []
        self._process = ServerProcess(self)
        self.processes = (self._process,)

    def list(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        if self.pool is not None:
            self.pool.listed(self.name)

    def check(self) -> None:
        return

    async def grow(self) -> None:
        raise AssertionError("one process is enough")

    async def stop(self) -> None:
        """Ends every process that it started."""
        self._process.close()
        for process in self.started:
            process.kill()
            await ended(process)
