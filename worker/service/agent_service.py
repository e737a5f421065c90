"""Defines `corral.AgentService`: one agent as an HTTP service, with a daemon of this program's own.

The daemon and the agent end with the program, however it ends. It must not know how HTTP is served.
"""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from ..client.agent_source import AgentSource, located
from ..client.embedded import START_S, Embedded
from ..client.loop_thread import LoopThread
from ..client.runtime import AgentRuntime
from ..contract.errors import Conflict, CorralError, NotInitialized, SpawnFailed


class AgentService:
    """Serves one agent over HTTP: `POST /run`, `GET /health`, `GET /status`.

    `start` serves until Ctrl-C; a `with` or `async with` serves meanwhile.

    Args:
        agent: its entrypoint "module:agent", "FILE.py:agent", its object, or its table with a `name`.
        host: the address.
        port: the port; 0 takes a free one.
        auth: "none" asks for no token: every program of this machine may use it.
        state_dir: folder that keeps tasks, logs and memories; without it they are removed in the end.
        spec: further keys of its table in the configuration.
    """

    def __init__(
        self,
        agent: AgentSource,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        auth: Literal["token", "none"] = "token",
        state_dir: str | os.PathLike[str] | None = None,
        **spec: object,
    ) -> None:
        self.name, self._table = located(agent, spec)
        self._host, self._port, self._auth = host, port, auth
        self._state_dir = state_dir
        self._runtime: AgentRuntime | None = None
        self._loop_thread: LoopThread | None = None
        self._url = self._token = ""

    @property
    def url(self) -> str:
        """Returns where it is served.

        Raises:
            NotInitialized: it is not served now.
        """
        self._check_served()
        return self._url

    @property
    def token(self) -> str:
        """Returns the bearer token that `/run` and `/status` ask for; "" where they ask for none.

        Raises:
            NotInitialized: it is not served now.
        """
        self._check_served()
        return self._token

    def _check_served(self) -> None:
        if self._runtime is None:
            text = f'cannot tell where "{self.name}" is served: use `with AgentService(...)`, or start'
            raise NotInitialized(text, name=self.name)

    def start(self, port: int | None = None) -> None:
        """Serves until SIGINT (Ctrl-C) or SIGTERM; nothing is left then.

        Raises:
            Conflict: the port is taken, or an event loop runs: use `async with`.
            InvalidParams: the agent's table is wrong.
            SpawnFailed, Timeout: the agent or the daemon did not start, or the daemon has ended.
        """
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            text = f'cannot start "{self.name}" in an event loop: use `async with AgentService(...)`'
            raise Conflict(text, name=self.name)
        if port is not None:
            self._port = port
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop, is_to_end = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError):  # in a thread, there are no signals
                loop.add_signal_handler(number, is_to_end.set)
        async with self:
            print(f'serving "{self.name}" at {self._url}', file=sys.stderr, flush=True)
            ending = asyncio.ensure_future(is_to_end.wait())
            lost = asyncio.ensure_future(self._until_lost())
            await asyncio.wait({ending, lost}, return_when=asyncio.FIRST_COMPLETED)
            for each in (ending, lost):
                each.cancel()
            await asyncio.gather(ending, lost, return_exceptions=True)
            if not is_to_end.is_set():
                raise SpawnFailed(f'cannot serve "{self.name}" any longer: its daemon has ended')

    async def _until_lost(self) -> None:
        """Returns when the daemon has ended: its events end with it."""
        assert self._runtime is not None, "it is served"
        with contextlib.suppress(CorralError):
            async with self._runtime.events(["daemon.stopping"]) as events:
                async for _ in events:
                    return

    # -- as a context

    async def __aenter__(self) -> Self:
        host = f"[{self._host}]" if ":" in self._host else self._host
        table = {**self._table, "http": f"{host}:{self._port}", "http_auth": self._auth}
        embedded = await Embedded.start({"agents": {self.name: table}}, self._state_dir, START_S)
        runtime = AgentRuntime(embedded.socket, embedded)
        try:
            await runtime.call("agent.start", names=[self.name])
            status = await runtime.status([self.name])
            service = status.agents[0].service
            if not service or service.url is None:
                reason = service.reason if service else "it has no service"
                raise Conflict(f'cannot serve "{self.name}": {reason}', name=self.name)
            self._url = service.url
            if self._auth == "token":
                self._token = Path(status.daemon.state_dir, "http.token").read_text("ascii").strip()
        except BaseException:
            await runtime.shutdown()
            raise
        self._runtime = runtime
        return self

    async def __aexit__(self, *_: object) -> None:
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.shutdown()

    def __enter__(self) -> Self:
        thread = LoopThread()
        try:
            thread.wait(self.__aenter__())
        except BaseException:
            thread.close()
            raise
        self._loop_thread = thread
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        thread, self._loop_thread = self._loop_thread, None
        if thread is not None:
            try:
                thread.wait(self.__aexit__())
            finally:
                thread.close()
