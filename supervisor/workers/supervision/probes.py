"""Probes programs by a command, by HTTP or by connecting; and posts alerts by HTTP.

Every probe ends with a Finding, within its time; a program that answers anything, nothing or too much
costs no more than one descriptor and a few KiB. Few probes run at a time, so that many hanging programs are
probed late without delaying others. The meaning of the results is decided in `health_check`.
"""

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import SplitResult, urlsplit
from weakref import WeakValueDictionary

from msgspec import Struct

from corral import __version__
from corral.supervisor.config.spec.probe_spec import Readiness, Way
from corral.supervisor.config.spec.spec import Spec

from ..process.command import Commands, Outcome

COMMANDS_MAX = 32
"""Number of probes by a command at a time, in the whole daemon; waiting does not count against their time."""

CONNECTIONS_MAX = 256
"""Number of probes by HTTP and TCP at a time, which cost a descriptor each."""

PER_AGENT_MAX = 8
"""Number of probes of one agent at a time: hanging programs of one must not block the others."""

RECOVERIES_MAX = 16
"""Number of recovery commands at a time."""

RECOVERY_TIMEOUT_S = 60.0
"""Seconds for one recovery command."""

HEAD_BYTES = 16 * 1024
"""Bytes read of an answer by HTTP: its first line is enough."""


class Finding(Struct, frozen=True):
    """Represents the result of a probe; `message` describes the fault, and is empty without one."""

    is_good: bool
    message: str = ""


class Question(Protocol):
    """Defines a probe: a Check or a Readiness."""

    @property
    def way(self) -> Way:
        """Returns the kind of the probe."""
        ...

    @property
    def target(self) -> tuple[str, ...]:
        """Returns the argv or the address."""
        ...


class Probes:
    """Runs all probes and recoveries of one daemon."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self._turns: dict[tuple[bool, bool], asyncio.Semaphore] = {}
        self._shares = WeakValueDictionary[tuple[str, bool], asyncio.Semaphore]()
        self._recoveries = asyncio.Semaphore(RECOVERIES_MAX)

    async def ask(
        self, question: Question, spec: Spec, worker: str, *, timeout_s: float, environment: Mapping[str, str]
    ) -> Finding:
        """Probes a program of `spec`; the probe takes at most `timeout_s`."""
        # A start is not held up by the health of what runs: it has turns of its own.
        is_start = isinstance(question, Readiness)
        by_command = question.way == "exec"
        most = COMMANDS_MAX if by_command else CONNECTIONS_MAX
        turns = self._turns.setdefault((is_start, by_command), asyncio.Semaphore(most))
        share = self._shares.setdefault((spec.name, is_start), asyncio.Semaphore(PER_AGENT_MAX))
        async with share, turns:
            if question.way == "exec":
                outcome = await self.commands.run(
                    spec, question.target, unit=f"{worker}.check", timeout_s=timeout_s, environment=environment
                )
                return Finding(outcome.is_success, "" if outcome.is_success else outcome.words)
            if question.way == "http":
                return await ask_http(question.target[0], timeout_s)
            assert question.way == "tcp", "logs are read, and servers asked by their session"
            return await ask_tcp(question.target[0], timeout_s)

    async def recover(self, name: str, spec: Spec, worker: str, *, environment: Mapping[str, str]) -> Outcome:
        """Runs an action of `[recovery.actions]` once."""
        async with self._recoveries:
            return await self.commands.run(
                spec,
                spec.recovery.actions[name],
                unit=f"{worker}.recovery",
                timeout_s=RECOVERY_TIMEOUT_S,
                environment=environment,
            )


async def ask_tcp(address: str, timeout_s: float) -> Finding:
    """Checks whether a connection is accepted."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return Finding(False, f"no connection to {address} within {timeout_s:g} s")
    except (OSError, ValueError) as error:
        return Finding(False, f"no connection to {address}: {_words(error)}")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Finding(True)


async def ask_http(url: str, timeout_s: float) -> Finding:
    """Checks whether GET is answered with a status of 200 to 399; a redirection is not followed."""
    try:
        status = await http_status("GET", url, timeout_s=timeout_s)
    except TimeoutError:
        return Finding(False, f"no answer of {url} within {timeout_s:g} s")
    except (OSError, ValueError) as error:
        return Finding(False, f"no answer of {url}: {_words(error)}")
    is_good = 200 <= status < 400
    return Finding(is_good, "" if is_good else f"{url} answers with status {status}")


async def http_status(method: str, url: str, *, timeout_s: float, body: bytes = b"") -> int:
    """Sends one HTTP request, a body as JSON, and returns the status. Only the first line is read."""
    parts = urlsplit(url)
    async with asyncio.timeout(timeout_s):
        is_tls = parts.scheme == "https"
        context = await asyncio.to_thread(trusting) if is_tls else None
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or (443 if is_tls else 80), ssl=context, limit=HEAD_BYTES
        )
        try:
            writer.write(_request(method, parts, body))
            await writer.drain()
            try:
                line = await reader.readuntil(b"\r\n")
            except asyncio.IncompleteReadError as error:
                raise OSError("the connection was closed without an answer") from error
            except asyncio.LimitOverrunError as error:
                raise ValueError("the answer is not HTTP") from error
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("the answer is not HTTP")
    return int(words[1])


def _request(method: str, parts: SplitResult, body: bytes) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: corral/{__version__}",
        "Accept: */*",
        "Connection: close",
    ]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


@functools.cache
def trusting() -> ssl.SSLContext:
    """Loads the trusted certificates of this machine, which takes milliseconds."""
    return ssl.create_default_context()


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
