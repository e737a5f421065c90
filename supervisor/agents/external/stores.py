"""Probes the declared stores, lists them, and tells when one goes down or comes up.

A probe opens its path, or connects to its host and port: nothing is written, and nothing is asked. A store is probed at the
start, then at intervals while an agent that uses it runs, and when stores are listed. One that nobody uses is not probed. A
probe that is under way serves all who ask meanwhile.
"""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NamedTuple

from msgspec import Struct

from corral.supervisor.config.declared.stores import DeclaredStore, Kind, place_of
from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.config.spec.in_force import InForce
from corral.worker.contract.errors import SpawnFailed

SQLITE_BEGINNING = b"SQLite format 3\0"


def why_not_opened(kind: Kind, path: str) -> str:
    """Opens a path for reading, and returns why that cannot be done; "" if it can. It may block as long as the disk does."""
    try:
        # Without waiting: opening a pipe without a writer would block.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            return _why_unfit(kind, fd)
        finally:
            os.close(fd)
    except OSError as error:
        return _words(error)


async def why_not_connected(host: str, port: int) -> str:
    """Connects to a TCP port, and returns why that cannot be done; "" if it can."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except (OSError, ValueError) as error:  # ValueError: a name that IDNA refuses
        return _words(error)
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


def _why_unfit(kind: Kind, fd: int) -> str:
    mode = os.fstat(fd).st_mode
    if kind == "files":
        is_good = stat.S_ISDIR(mode) or stat.S_ISREG(mode)
        return "" if is_good else "it is neither a folder nor a file"
    if not stat.S_ISREG(mode):
        return "it is no regular file"
    beginning = os.read(fd, len(SQLITE_BEGINNING))  # an empty file is an empty database
    return "" if beginning in (b"", SQLITE_BEGINNING) else "it is no SQLite database"


def _words(error: Exception) -> str:
    """Returns the reason without the address, which may have come from a secret."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return "its host has no address" if isinstance(error, socket.gaierror) else "no connection"


INTERVAL_S = 30.0
"""Seconds between two probes of a store whose users run."""

TIMEOUT_S = 3.0
"""Seconds that a probe may take."""

PROBES_MAX = 16
"""Number of probes at a time."""

State = Literal["up", "down", "unused", "unknown"]


class User(NamedTuple):
    """Represents an agent, with the stores that it uses, and whether a worker of it runs."""

    name: str
    stores: tuple[str, ...]
    runs: bool


class StoreFacts(Struct, frozen=True, kw_only=True):
    """Represents what is known of a store; `url` has no secret, `reason` tells why the state is down or unknown."""

    name: str
    kind: Kind
    url: str
    state: State
    reason: str
    used_by: tuple[str, ...]


class _Finding(NamedTuple):
    store: DeclaredStore
    state: Literal["up", "down", "unknown"]
    reason: str


class Stores:
    """Probes the stores of one daemon."""

    def __init__(
        self,
        in_force: InForce,
        users: Callable[[], Iterable[User]],
        expand: Callable[[DeclaredStore, str], str],
        publish: Callable[..., object],
        *,
        interval_s: float = INTERVAL_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._in_force = in_force
        self._users = users
        self._expand = expand
        self._publish = publish
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._found: dict[str, _Finding] = {}
        self._probing: dict[str, asyncio.Task[None]] = {}
        self._opening: dict[str, asyncio.Future[str]] = {}
        self._turns = asyncio.Semaphore(PROBES_MAX)

    async def run(self) -> None:
        """Probes the stores that are used, then at intervals those whose users run; until it is cancelled."""
        try:
            await self._probe(self.used_by())
            while True:
                await asyncio.sleep(self._interval_s)
                running = {name for user in self._users() if user.runs for name in user.stores}
                await self._probe(running & self._in_force.config.stores.keys())
        finally:
            for probe in self._probing.values():
                probe.cancel()

    def used_by(self) -> dict[str, tuple[str, ...]]:
        """Returns the declared stores that agents use, each with the names of these agents."""
        found: dict[str, list[str]] = {}
        for user in self._users():
            for name in user.stores:
                found.setdefault(name, []).append(user.name)
        return {name: tuple(sorted(found[name])) for name in self._in_force.config.stores if name in found}

    async def listed(self) -> list[StoreFacts]:
        """Probes the stores that are used, and returns all that are declared, by name."""
        await self._probe(self.used_by())
        used = self.used_by()
        return [self._facts(store, used.get(name, ())) for name, store in sorted(self._in_force.config.stores.items())]

    def _facts(self, store: DeclaredStore, used_by: tuple[str, ...]) -> StoreFacts:
        found = self._found.get(store.name)
        state: State = "unused"
        reason = ""
        if used_by:
            is_known = found is not None and found.store == store
            state, reason = found[1:] if found and is_known else ("unknown", "not probed yet")
        return StoreFacts(
            name=store.name, kind=store.kind, url=store.shown, state=state, reason=reason, used_by=used_by
        )

    async def _probe(self, names: Iterable[str]) -> None:
        """Probes stores at the same time; waits for a probe that is under way in place of a second one."""
        for name in names:
            if name not in self._probing:
                probe = asyncio.create_task(self._probe_one(name))
                self._probing[name] = probe
                probe.add_done_callback(partial(self._probed, name))
        waiting = [self._probing[name] for name in names]
        if waiting:
            await asyncio.wait(waiting)

    def _probed(self, name: str, _: object) -> None:
        del self._probing[name]

    def _opened(self, path: str, _: object) -> None:
        del self._opening[path]

    async def _probe_one(self, name: str) -> None:
        store, users = self._in_force.config.stores[name], self.used_by().get(name, ())
        if not users:
            return
        async with self._turns:
            found = await self._finding(store, users[0])
        before = self._found.get(name)
        if self._in_force.config.stores.get(name) != store:
            return  # it was changed meanwhile
        self._found[name] = found
        was_down = before is not None and before.store == store and before.state == "down"
        if found.state == "down" and not was_down:
            self._publish("store.down", name=name, reason=found.reason)
        elif found.state == "up" and was_down and before is not None:
            self._publish("store.up", name=name, reason=before.reason)

    async def _finding(self, store: DeclaredStore, user: str) -> _Finding:
        try:
            async with asyncio.timeout(self._timeout_s):
                place = place_of(store.kind, await asyncio.to_thread(self._expand, store, user))
                if place.path:
                    reason = await self._why_not_opened(store.kind, place.path)
                else:
                    reason = await why_not_connected(place.host, place.port)
        except TimeoutError:
            return _Finding(store, "down", f"no answer within {self._timeout_s:g} s")
        except SpawnFailed as error:
            return _Finding(store, "unknown", error.message)
        except Refused as refused:
            return _Finding(store, "unknown", f"with its secret: {refused.reason}")
        return _Finding(store, "down" if reason else "up", reason)

    async def _why_not_opened(self, kind: Kind, path: str) -> str:
        """Opens a path in a thread; while one hangs at a dead disk, no second one is sent there."""
        opening = self._opening.get(path)
        if opening is None:
            opening = asyncio.ensure_future(asyncio.to_thread(why_not_opened, kind, path))
            self._opening[path] = opening
            opening.add_done_callback(partial(self._opened, path))
        return await asyncio.shield(opening)
