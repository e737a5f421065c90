"""Opens, moves and closes the services of agents, teams and workflows as their addresses change.

An address that is not available makes its service degraded: it is tried again after RETRY_S, twice that, and so
on to RETRY_MAX_S. A service that leaves its address answers the requests that it has, however long they take.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.decoding.values import HttpAuth, place_of
from corral.supervisor.config.spec.references import check_addresses
from corral.supervisor.config.spec.spec import Group, Spec
from corral.supervisor.records.events.bus import Bus, Subscription
from corral.supervisor.records.store.store import Store
from corral.worker.contract.errors import Conflict, CorralError, InvalidParams
from corral.worker.contract.records import ServiceStatus

if TYPE_CHECKING:
    from ..http.listener import HttpHandover
    from ..http.server import HttpServer  # aiohttp: only who wants HTTP pays

KEY = "exposures"
"""Key of all of them in the table `meta`."""


class Exposure(msgspec.Struct, frozen=True):
    """Represents where one is served: at `address`, or nowhere (None)."""

    address: str | None
    auth: HttpAuth = "token"


def written(entry: Spec | Group) -> Exposure:
    """Returns what the table of an agent, team or workflow says."""
    return Exposure(entry.http, entry.http_auth)


class Exposures:
    """Holds what was changed at run time, by name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_name: Mapping[str, Exposure] = {}

    async def load(self) -> None:
        """Reads them from the store."""
        rows = await self._store.read("SELECT value FROM meta WHERE key = ?", (KEY,))
        if rows:
            self._by_name = msgspec.json.decode(str(rows[0][0]), type=dict[str, Exposure])

    def of(self, entry: Spec | Group) -> Exposure:
        """Returns what is in force for an agent, team or workflow."""
        return self._by_name.get(entry.name) or written(entry)

    def has(self, name: str) -> bool:
        """Returns whether it was changed at run time."""
        return name in self._by_name

    async def set(self, entry: Spec | Group, exposure: Exposure) -> None:
        """Stores a change; one to what the table says is none."""
        others = {name: each for name, each in self._by_name.items() if name != entry.name}
        is_none = exposure.address == entry.http and (exposure.address is None or exposure.auth == entry.http_auth)
        await self._write(others if is_none else {**others, entry.name: exposure})

    async def forget(self, names: Collection[str]) -> None:
        """Removes those of names that are no longer there."""
        kept = {name: each for name, each in self._by_name.items() if name not in names}
        if kept != self._by_name:
            await self._write(kept)

    async def _write(self, by_name: Mapping[str, Exposure]) -> None:
        sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
        await self._store.write((sql, (KEY, msgspec.json.encode(by_name).decode())))
        self._by_name = by_name


RETRY_S = 1.0
RETRY_MAX_S = 30.0
"""Seconds between two attempts to listen at an address."""

ANY = frozenset({"0.0.0.0", "::"})
"""Hosts that stand for every address of the machine."""

CHANGES = (
    *("agent.added", "agent.changed", "agent.removed"),
    *("team.added", "team.changed", "team.removed"),
    *("workflow.added", "workflow.changed", "workflow.removed"),
)
"""Events after which another address may be wanted."""

logger = logging.getLogger(__name__)


class Listening(Protocol):
    """Serves one agent, team or workflow at one address."""

    server: "HttpServer"

    @property
    def url(self) -> str:
        """Returns where it is reached."""
        ...

    async def leave(self) -> None:
        """Stops listening at once, and returns when the last request is answered."""
        ...

    async def close(self) -> None:
        """Ends at once, with all requests."""
        ...


Listen = Callable[[str, str, Callable[[], HttpAuth], "HttpHandover | None"], Awaitable[Listening]]
"""Opens the service of a name at an address, or goes on with what another program has left; the third argument returns whether a token
is asked for, as it is now."""


@dataclass(eq=False)
class _Service:
    """Represents one service: open where it has a listener, else degraded for `error`."""

    name: str
    address: str
    auth: HttpAuth
    listener: Listening | None = None
    error: CorralError | None = None
    failures: int = 0
    due_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


class AgentServices:
    """Holds all services of one daemon."""

    def __init__(self, agents: Agents, bus: Bus, store: Store, token_file: str) -> None:
        self._agents = agents
        self._bus = bus
        self._exposures = Exposures(store)
        self._prepare: Callable[[], Listen] | None = None
        self._listen: Listen | None = None
        self.token_file = token_file
        self._loop = asyncio.get_running_loop()
        self._services: dict[str, _Service] = {}
        self._statuses: dict[str, ServiceStatus] = {}
        self._leaving: dict[asyncio.Task[None], Listening] = {}
        self._changing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._left: dict[str, HttpHandover] = {}

    def listen_by(self, prepare: Callable[[], Listen]) -> None:
        """Takes what returns the opener of services, when the first is opened."""
        self._prepare = prepare

    # -- what there is

    @property
    def servers(self) -> "dict[str, HttpServer]":
        """Returns what listens, by the names of agents, teams and workflows."""
        return {each.name: each.listener.server for each in self._services.values() if each.listener is not None}

    @property
    def is_changing(self) -> bool:
        """Returns whether an address is being opened or left."""
        return self._changing.locked() or bool(self._leaving)

    def status(self, name: str) -> ServiceStatus | None:
        """Returns the service of an agent, team or workflow; None where it has none."""
        return self._statuses.get(name)

    @property
    def degraded(self) -> list[str]:
        """Returns the names of those that cannot listen at their address."""
        return [each.name for each in self._services.values() if each.listener is None]

    def _entries(self) -> dict[str, Spec | Group]:
        agents = self._agents
        specs = {name: agent.spec for name, agent in agents.agents.items()}
        return {**{n: s for n, s in specs.items() if s.kind == "agent"}, **agents.groups.by_name}

    # -- the life of all of them

    async def open(self, left: "Mapping[str, HttpHandover]") -> None:
        """Reads what was exposed at run time, and opens every service that is wanted, or goes on with what was left."""
        self._left = dict(left)
        await self._exposures.load()
        await self._follow()

    async def run(self) -> None:
        """Follows the changes of addresses, and tries again where one could not be had; until it is cancelled."""
        with self._bus.subscribe(CHANGES) as subscription:
            watching = self._loop.create_task(self._watch(subscription))
            try:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    await self._follow()
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, subscription: Subscription) -> None:
        while batch := await subscription.next_batch():
            self._wake.set()
            gone = {each.agent for each in batch if each.type.endswith(".removed")}
            names = {name for name in gone if name is not None} - self._entries().keys()
            with contextlib.suppress(CorralError):  # it is looked at again with the next removal
                await self._exposures.forget(names)

    async def close(self) -> None:
        """Ends every service at once."""
        for service in self._services.values():
            if service.timer is not None:
                service.timer.cancel()
        leaving = dict(self._leaving)
        for task in leaving:
            task.cancel()
        listeners = [each.listener for each in self._services.values() if each.listener is not None]
        await asyncio.gather(*(each.close() for each in (*listeners, *leaving.values())))
        await asyncio.gather(*leaving, return_exceptions=True)

    # -- one change

    async def _follow(self) -> None:
        """Makes the services those that are wanted now: first the addresses that are left become free."""
        async with self._changing:
            wanted = {name: self._exposures.of(each) for name, each in self._entries().items()}
            for service in list(self._services.values()):
                exposure = wanted.get(service.name)
                if exposure is None or exposure.address != service.address:
                    self._end(service)
                    await asyncio.sleep(0)  # it does not listen any more: another may take the address
            for name, exposure in wanted.items():
                if exposure.address is None:
                    continue
                service = self._services.setdefault(name, _Service(name, exposure.address, exposure.auth))
                service.auth = exposure.auth
                if service.listener is None and service.due_at <= self._loop.time():
                    await self._open(service)
                self._note(service)

    async def _open(self, service: _Service) -> None:
        left = self._left.pop(service.name, None)
        try:
            listener = await self._listener(service, left)
        except CorralError as error:
            self._fail(service, error)
            return
        if left is None:
            self._begin(service, listener)
        else:
            service.listener = listener

    async def _listener(self, service: _Service, left: "HttpHandover | None" = None) -> Listening:
        if self._listen is None:
            assert self._prepare is not None, "it is there before a service is opened"
            self._listen = self._prepare()
        return await self._listen(service.name, service.address, lambda: service.auth, left)

    def _begin(self, service: _Service, listener: Listening) -> None:
        service.listener, service.error, service.failures = listener, None, 0
        self._bus.publish("agent.http_opened", agent=service.name, address=listener.url)
        logger.info("serving", extra={"fields": {"agent": service.name, "url": listener.url}})

    def _fail(self, service: _Service, error: CorralError) -> None:
        """Notes that an address is not available, and when it is tried again; reports it where the reason is new."""
        delay_s = min(RETRY_MAX_S, RETRY_S * 2.0**service.failures)
        is_new = service.error is None or service.error.message != error.message
        service.error, service.failures = error, min(service.failures + 1, 10)
        service.due_at = self._loop.time() + delay_s
        service.timer = self._loop.call_at(service.due_at, self._wake.set)
        if is_new:
            address = service.address
            self._bus.publish("agent.http_failed", agent=service.name, address=address, reason=error.message)
            logger.warning("%s", error.message)

    def _end(self, service: _Service) -> None:
        del self._services[service.name]
        self._statuses.pop(service.name, None)
        if service.timer is not None:
            service.timer.cancel()
        listener = service.listener
        if listener is None:
            return
        task = self._loop.create_task(listener.leave())
        self._leaving[task] = listener
        task.add_done_callback(self._leaving.pop)
        self._bus.publish("agent.http_closed", agent=service.name, address=listener.url)

    def _note(self, service: _Service) -> None:
        """Keeps the status of a service, the same object while nothing in it changes."""
        listener, error = service.listener, service.error
        status = ServiceStatus(
            address=service.address,
            auth=service.auth,
            state="degraded" if listener is None else "open",
            url=None if listener is None else listener.url,
            reason="" if error is None else error.message,
            exposed=self._exposures.has(service.name),
        )
        if self._statuses.get(service.name) != status:
            self._statuses[service.name] = status

    # -- at run time

    async def expose(self, name: str, address: str | None, auth: HttpAuth) -> ServiceStatus | None:
        """Serves an agent, team or workflow at an address from now on, or not at all; kept until it is removed."""
        entry = self._entries().get(name)
        if entry is None:
            spec = self._agents.of(name).spec  # raises NotFound
            text = f'cannot expose "{spec.name}": an MCP server takes no tasks; it is at /mcp'
            raise InvalidParams(text, key="name", value=name)
        before, wanted = self._exposures.of(entry), Exposure(address, auth)
        if address is not None:
            self._check(entry, wanted)
            if not self._holds(name, address):
                await self._move(entry, address, wanted)
                return self.status(name)
        await self._exposures.set(entry, wanted)
        await self._follow()
        service = self._services.get(name)
        if address is None or service is None or service.error is None:
            return self.status(name)
        await self._exposures.set(entry, before)
        await self._follow()
        if isinstance(service.error, InvalidParams):
            raise service.error
        raise Conflict(service.error.message, name=name, address=address)

    def _holds(self, name: str, address: str) -> bool:
        """Returns whether the service of a name has to leave its own address before it can have this one."""
        service = self._services.get(name)
        if service is None:
            return False
        (host, port), (other, _) = place_of(address), place_of(service.address)
        listener = service.listener
        is_port = listener is not None and listener.url.endswith(f":{port}")
        return address == service.address or (is_port and (host == other or bool({host, other} & ANY)))

    async def _move(self, entry: Spec | Group, address: str, wanted: Exposure) -> None:
        """Opens the new address before the old one is left, so that a refusal changes nothing."""
        async with self._changing:
            new = _Service(entry.name, address, wanted.auth)
            try:
                listener = await self._listener(new)
            except InvalidParams:
                raise
            except CorralError as error:
                raise Conflict(error.message, name=entry.name, address=address) from error
            try:
                await self._exposures.set(entry, wanted)
            except BaseException:
                await asyncio.shield(listener.close())
                raise
            old = self._services.get(entry.name)
            if old is not None:
                self._end(old)
            self._services[entry.name] = new
            self._begin(new, listener)
            self._note(new)

    def _check(self, entry: Spec | Group, wanted: Exposure) -> None:
        address = str(wanted.address)
        if int(address.rpartition(":")[2]) > 65_535:
            text = f'cannot expose "{entry.name}" at "{address}": write a port from 0 to 65535'
            raise InvalidParams(text, key="address", value=address)
        entries = {**self._entries(), entry.name: entry}
        exposures = {name: self._exposures.of(each) for name, each in entries.items()}
        exposures[entry.name] = wanted
        in_force = [
            replace(each, http=exposures[name].address, http_auth=exposures[name].auth)
            for name, each in entries.items()
            if name != entry.name
        ]
        in_force.append(replace(entry, http=address, http_auth=wanted.auth))
        check_addresses(in_force, self._agents.config.daemon)
