"""`python -P -m corral.supervisor.models.gateway.program`: the gateway of the daemon, an HTTP server for its workers.

stdin is one end of a SOCK_SEQPACKET pair whose other end the daemon holds (see `launcher.protocol`):

    → models {models: [endpoint…]}    → listen {unit} + a listening socket, "" for that of the machine's loopback
    → close {unit}    → journal {name} + its file    → go {call, unit, models, account, keeps}    → refuse {call, status, reason, retry_after_s, facts}
    → read {call, unit}    → recorded {call, unit, step, answer}    → kept {call}
    ← ready    ← ask {call, key, model, task, traceparent, request}    ← used {call, model, …}    ← closed {journal}
    ← keep {call, unit, task, request, at, duration_s, answer}

`read` asks for the name of the `request`: the record of its task may have its answer.

It ends with its daemon. The keys of the providers come over this pair alone, and no process of the same user may look at
its memory.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import aiohttp
import msgspec
import uvloop
from aiohttp import web

from corral.supervisor.machine.launcher import protocol
from corral.supervisor.machine.linux.kernel import forbid_inspection

from .call_journal import Account, Journal
from .calls import Calls, Decision, Passed, Unread
from .recorded import KeptAnswer, Recorded
from .shapes import Endpoint, Refused
from .upstream import Upstream

ASK_S = 30.0
"""Seconds that the daemon may take to decide about a call."""
BACKLOG = 512
CONNECTIONS = 1024
"""Number of connections to providers."""
KEEP_ALIVE_S = 75.0
HEADER_BYTES = 16 * 1024
"""Bytes of one line of a request's header."""


class Daemon:
    """Represents the daemon at the other end of the pair."""

    def __init__(self, channel: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = channel
        self._channel = protocol.Channel(channel)
        self._is_writing = False
        self._asked: dict[int, asyncio.Future[Decision]] = {}
        self._keeping: dict[int, asyncio.Future[None]] = {}

    async def ask(self, asked: Mapping[str, object]) -> Decision:
        """Returns the decision about a call."""
        call = asked["call"]
        assert isinstance(call, int), "it is a number"
        answer: asyncio.Future[Decision] = self._loop.create_future()
        self._asked[call] = answer
        self.send(op="ask", **asked)
        try:
            async with asyncio.timeout(ASK_S):
                return await answer
        except TimeoutError:
            raise Refused(503, f"the daemon has not decided within {ASK_S:g} s", retry_after_s=1.0) from None
        finally:
            del self._asked[call]
            if answer.cancelled() or not answer.done():
                self.send(op="used", call=call, outcome="cancelled")

    async def keep(self, call: int, told: Mapping[str, object]) -> None:
        """Has an answer kept; one that the daemon does not keep in time is passed on all the same."""
        kept: asyncio.Future[None] = self._loop.create_future()
        self._keeping[call] = kept
        self.send(op="keep", call=call, **told)
        try:
            async with asyncio.timeout(ASK_S):
                await kept
        except TimeoutError:
            pass
        finally:
            del self._keeping[call]

    def kept(self, call: int) -> None:
        """Takes that the answer of a call is kept."""
        found = self._keeping.get(call)
        if found is not None and not found.done():
            found.set_result(None)

    def report(self, used: Mapping[str, object]) -> None:
        """Reports the usage of a call."""
        self.send(op="used", **used)

    def closed(self, journal: str) -> None:
        """Reports that all calls of a journal have ended."""
        self.send(op="closed", journal=journal)

    def decided(self, message: Any) -> None:  # Any: JSON
        """Takes the decision about a call."""
        answer = self._asked.get(message["call"])
        if answer is None or answer.done():  # its worker has hung up
            if message["op"] == "go":
                self.send(op="used", call=message["call"], outcome="cancelled")
            return
        if message["op"] == "go":
            account = msgspec.convert(message["account"], Account)
            answer.set_result(Passed(message["unit"], message["models"], account, message.get("keeps", 0)))
        elif message["op"] == "read":
            answer.set_result(Unread(message["unit"]))
        elif message["op"] == "recorded":
            kept = msgspec.convert(message["answer"], KeptAnswer)
            answer.set_result(Recorded(message["unit"], message["step"], kept))
        else:
            refused = Refused(
                message["status"],
                message["reason"],
                retry_after_s=message.get("retry_after_s"),
                facts=message.get("facts"),
            )
            answer.set_exception(refused)

    def send(self, **message: object) -> None:
        """Sends a message, or keeps it until the daemon reads again: there are few for each call."""
        self._channel.send(**message)
        self._watch()

    def _watch(self) -> None:
        is_wanted = bool(self._channel.queue)
        if is_wanted and not self._is_writing:
            self._loop.add_writer(self._sock.fileno(), self._flush)
        elif self._is_writing and not is_wanted:
            self._loop.remove_writer(self._sock.fileno())
        self._is_writing = is_wanted

    def _flush(self) -> None:
        self._channel.flush()
        self._watch()


class Gateway:
    """Holds the listening sockets, and performs the requests of the daemon."""

    def __init__(self, daemon: Daemon, calls: Calls, runner: web.ServerRunner) -> None:
        self._daemon = daemon
        self._calls = calls
        self._runner = runner
        self._sites: dict[str, web.SockSite] = {}

    async def perform(self, message: Any, fds: list[int]) -> None:  # Any: JSON
        """Carries out a request of the daemon."""
        match message["op"]:
            case "models":
                found = msgspec.convert(message["models"], list[Endpoint])
                self._calls.endpoints = {each.name: each for each in found}
            case "listen" if fds:
                sock = socket.socket(fileno=fds.pop(0))
                sock.setblocking(False)
                site = web.SockSite(self._runner, sock, backlog=BACKLOG)
                self._sites[message["unit"]] = site
                await site.start()
            case "journal" if fds:
                self._calls.begin_journal(Journal(message["name"], fds.pop(0)))
            case "close":
                self._calls.end_unit(message["unit"])
                site_or_none = self._sites.pop(message["unit"], None)
                if site_or_none is not None:
                    await site_or_none.stop()
            case _:
                pass
        for fd in fds:
            os.close(fd)


async def serve(channel: socket.socket) -> NoReturn:
    """Serves until the daemon closes its end, which ends the process."""
    loop = asyncio.get_running_loop()
    channel.setblocking(False)
    daemon = Daemon(channel)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        calls = Calls(Upstream(session), daemon.ask, daemon.report, daemon.closed, daemon.keep)
        server = web.Server(calls.serve, handler_cancellation=True, max_line_size=HEADER_BYTES)
        runner = web.ServerRunner(server)
        await runner.setup()
        gateway = Gateway(daemon, calls, runner)
        requests: asyncio.Queue[tuple[Any, list[int]]] = asyncio.Queue()  # Any: JSON

        def receive() -> None:
            try:
                while True:
                    message, fds = protocol.receive(channel)
                    if message["op"] in ("go", "refuse", "read", "recorded"):
                        daemon.decided(message)
                    elif message["op"] == "kept":
                        daemon.kept(message["call"])
                    else:
                        requests.put_nowait((message, fds))
            except BlockingIOError:
                pass
            except (EOFError, OSError):
                # At once: an orderly end would cut the calls under way, and note them as failed without a usage. As it is, their
                # last lines say that they have not ended, and the daemon estimates them.
                os._exit(0)

        loop.add_reader(channel.fileno(), receive)
        daemon.send(op="ready")
        while True:
            await gateway.perform(*await requests.get())


def main() -> None:
    """Serves the daemon at the other end of stdin."""
    forbid_inspection()
    uvloop.run(serve(socket.socket(fileno=os.dup(sys.stdin.fileno()))))


if __name__ == "__main__":
    main()
