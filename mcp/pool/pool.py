"""Shares one pool of MCP servers: resolves requests to servers, runs them on processes, and retries safe ones.

A `Backend` provides the processes of a server. At each process calls run in order of arrival, one at a time, because
many servers lose writes when calls overlap; tools marked `readOnlyHint` and requests that only read run concurrently,
and `concurrency` in the configuration takes precedence. Waiting is bounded in number and in time. A call that finds
its process up and free awaits only its response.
"""

import asyncio
import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Overloaded,
    Timeout,
    ToolFailed,
)
from corral.worker.contract.names import qualified

from ..protocol.catalog import FULL, KINDS, Access, Catalogue, Kind, admits, concerns
from ..protocol.messages import CALL, COMPLETE, GET_PROMPT, NOBODY, READ, Caller, Tool
from ..upstream import tool_tasks
from ..upstream.session import Session
from .backend import Backend, Concurrency, Process
from .directory import MAX_NEAR, Directory, held, may_admit, not_allowed, tool_object
from .dispatcher import Dispatcher, is_backing_off, may_retry, too_late, within
from .placement import Share
from .subscriptions import Subscribers
from .tool_index import Document
from .validation import Validators

REFRESH_PAUSE_S = 3.0
"""Seconds between two listings of a server because of its `ttlMs`, which may be 0."""


class Stats(msgspec.Struct, frozen=True):
    """Counts the requests of one server since it was added."""

    calls: int = 0
    failures: int = 0
    """Number of calls that ended with an error or with `isError`."""
    retries: int = 0
    in_flight: int = 0
    waiting: int = 0
    refused: int = 0
    used: int = 0
    """Number of calls that count towards `max_calls_per_minute` now; those that exceeded it are `refused`."""


class Target(NamedTuple):
    """Represents a resolved request: its server, the params with the server's own names, and its tool."""

    entry: Dispatcher
    name: str
    params: Mapping[str, object]
    tool: Tool | None


class Pool:
    """Holds the shared servers."""

    def __init__(self, *, on_refused: Callable[[str, int, float], None] | None = None) -> None:
        self._entries: dict[str, Dispatcher] = {}
        self._directory = Directory()
        self._validators = Validators()
        self._watchers: dict[int, Callable[[Kind], None]] = {}
        self._last_watcher = 0
        self._on_refused = on_refused
        self._subscribers = Subscribers(self._connect)

    # -- adding, changing and removing servers

    def add(self, backend: Backend) -> None:
        """Adds a server."""
        if backend.name in self._entries:
            raise Conflict(f'cannot add MCP server "{backend.name}": the name is taken')
        self._entries[backend.name] = Dispatcher(backend)
        self._directory.put(backend.name, backend.catalogue, backend.settings.denied_tools, backend.settings.share)
        self._notify(self._directory.of(backend.name).differs(Catalogue()) if backend.catalogue.is_known else KINDS)

    def remove(self, name: str) -> None:
        """Removes a server; running calls continue to their end."""
        entry = self._entry(name)
        del self._entries[name]
        entry.close()
        self._subscribers.drop(name)
        while entry.waiting:
            entry.wake()
        self._validators.forget(self._directory.of(name).tools)
        self._notify(self._directory.drop(name))

    def listed(self, name: str) -> None:
        """Takes note that a server's catalogue or `denied_tools` has changed."""
        entry = self._entries.get(name)
        if entry is not None:
            backend = entry.backend
            earlier = self._directory.of(name)
            facts = (backend.catalogue, backend.settings.denied_tools, backend.settings.share)
            self._notify(self._directory.put(name, *facts))
            if earlier is not backend.catalogue:
                self._validators.forget(earlier.tools)

    def changed(self, name: str) -> None:
        """Takes note that a server's processes have changed: waiting callers choose again."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.changed()
            self._subscribers.renew(name, entry.backend.processes)

    def updated(self, name: str, number: int, uri: str) -> None:
        """Takes note of a changed resource, reported by the process of this number, from 0."""
        entry = self._entries.get(name)
        if entry is not None:
            self._subscribers.updated(name, entry.backend.processes[number], uri)

    def end(self, sharer: str) -> None:
        """Ends the processes that this agent or client has alone; a later call starts them again."""
        for entry in self._entries.values():
            if entry.backend.settings.share == "agent":
                entry.end(sharer)

    def end_tenant(self, tenant: str) -> None:
        """Ends the processes that this tenant has alone; a later call starts them again."""
        for entry in self._entries.values():
            if entry.backend.settings.share == "tenant":
                entry.end(tenant)

    async def close(self) -> None:
        """Ends timers and subscriptions."""
        for entry in self._entries.values():
            entry.close()
        await self._subscribers.close()

    def names(self) -> list[str]:
        """Returns the names of the servers, sorted."""
        return sorted(self._entries)

    def stats(self, name: str) -> Stats:
        """Returns the counts of a server."""
        entry = self._entry(name)
        slots = entry.slots
        in_flight = sum(slot.in_flight for slot in slots)
        waiting = sum(slot.gate.waiting for slot in slots) + len(entry.waiting)
        return Stats(entry.calls, entry.failures, entry.retries, in_flight, waiting, entry.refused, entry.used)

    # -- lists

    def concerned(self, access: Access) -> list[str]:
        """Returns the servers that an access sees and any of whose tools it admits."""
        return sorted(full for full, shown in self._directory.view(access).names.items() if concerns(access, shown))

    def tools(self, access: Access = FULL) -> list[dict[str, object]]:
        """Returns the records of known and allowed tools, sorted by exposed name; starts no server."""
        return self._directory.records(access)

    def offered(self, kind: Kind, access: Access = FULL) -> list[dict[str, object]]:
        """Returns MCP's objects of known and allowed entries, sorted by exposed name; starts no server."""
        return self._directory.offered(kind, access)

    def tool(self, name: str, access: Access = FULL) -> dict[str, object] | None:
        """Returns MCP's object of the tool of this name, None if it is not known or allowed; starts no server."""
        try:
            _, found = self._directory.tool(name, access)
        except CorralError:
            return None
        return {**tool_object(found), "name": name}

    def documents(self, access: Access = FULL) -> list[Document]:
        """Returns what is searched of known and allowed tools, sorted by exposed name; starts no server."""
        return self._directory.documents(access)

    def watch(self, on_change: Callable[[Kind], None]) -> Callable[[], None]:
        """Calls `on_change` when a list has changed, whatever the access; returns a function that ends that."""
        self._last_watcher += 1
        number = self._last_watcher
        self._watchers[number] = on_change

        def end() -> None:
            self._watchers.pop(number, None)

        return end

    def _notify(self, kinds: Sequence[Kind]) -> None:
        for kind in kinds:
            for watcher in list(self._watchers.values()):
                watcher(kind)

    async def list_servers(
        self, names: Sequence[str] | None = None, *, patience_s: float | None = None
    ) -> dict[str, CorralError]:
        """Starts the servers that have never listed anything, so that the lists contain them.

        A running server with expired lists is asked again, and watchers are notified of changes.

        Returns:
            The errors of those that could not be started, by name.
        """
        chosen = [self._entries[name] for name in (self._entries if names is None else names) if name in self._entries]
        for entry in chosen:
            self._refresh(entry)
        wanted = [entry for entry in chosen if not entry.backend.catalogue.is_known]
        if not wanted:
            return {}
        failures: dict[str, CorralError] = {}

        async def start(entry: Dispatcher) -> None:
            waits = [slot.process for slot in entry.slots if is_backing_off(slot.process)]
            if len(waits) == len(entry.slots) and waits:
                trouble = waits[0].trouble()
                if trouble is not None:  # a listing does not wait for the next start of a failing server
                    failures[entry.backend.name] = trouble
                    return
            try:
                async with asyncio.timeout(patience_s):
                    await self._any_session(entry)
            except TimeoutError:
                name = entry.backend.name
                text = f'cannot wait for MCP server "{name}" longer than {patience_s:g} s'
                failures[name] = Timeout(text, server=name, timeout_s=patience_s)
            except CorralError as error:
                failures[entry.backend.name] = error

        async with asyncio.TaskGroup() as group:
            for entry in wanted:
                group.create_task(start(entry))
        return failures

    def _refresh(self, entry: Dispatcher) -> None:
        """Reads lists again that are older than their server's `ttlMs`."""
        now = asyncio.get_running_loop().time()
        if now - entry.refreshed_at < REFRESH_PAUSE_S:
            return
        for slot in entry.slots:
            session = slot.process.session
            if session is not None:
                age_s = time.time() - session.catalogue.listed_at
                kinds = [kind for kind, ttl_s in session.ttl_s.items() if age_s > ttl_s]
                if kinds:
                    entry.refreshed_at = now
                    session.refresh(kinds)
                return

    async def _any_session(self, entry: Dispatcher, deadline: float | None = None) -> Session:
        """Returns a session for listing; no data of a caller is sent over it."""
        entry.backend.check()
        slots = entry.slots
        slot = min(slots, key=lambda each: each.process.phase) if slots else None
        if slot is None:
            await entry.backend.grow()
            slot = entry.slots[0]
        return slot.process.session or await entry.acquire(slot.process, deadline)

    # -- resolving requests

    async def resolve(self, name: str, access: Access = FULL) -> tuple[Backend, Tool]:
        """Returns the server and the tool of a name; starts a server that never listed its tools."""
        target = await self._resolve(CALL, {"name": name}, access)
        assert target.tool is not None, "a call is of a tool"
        return target.entry.backend, target.tool

    async def _resolve(
        self, method: str, params: Mapping[str, object], access: Access, deadline: float | None = None
    ) -> Target:
        """Resolves a request, after starting the servers without a known catalogue that it could concern."""
        name = _name_in(method, params)
        server = self._directory.server_in(name, access)
        if server is not None:
            if method == CALL and not may_admit(access, name):
                raise not_allowed(name)
            if not self._directory.of(server).is_known:
                await self._any_session(self._entries[server], deadline)
            return self._target(method, name, params, access)
        try:
            return self._target(method, name, params, access)
        except NotFound:
            view = self._directory.view(access)
            unknown = [each for each in view.names if not self._directory.of(each).is_known]
            asked = [each for each in unknown if concerns(access, view.names[each])]
            # A server that cannot be started does not take part in the resolution.
            if asked:
                await within(deadline, self.list_servers(asked), lambda: _not_in_time(name))
        try:
            return self._target(method, name, params, access)
        except NotFound as error:
            if method == CALL and len(asked) < len(unknown) and not error.data["near"]:
                raise not_allowed(name) from error  # a server that was not asked may have it
            raise

    def _target(self, method: str, name: str, params: Mapping[str, object], access: Access) -> Target:
        directory = self._directory
        if method == CALL:
            server, tool = directory.tool(name, access)
            return Target(self._entries[server], name, {**params, "name": tool.name}, tool)
        if method == GET_PROMPT:
            server, own = directory.prompt(name, access)
            return Target(self._entries[server], name, {**params, "name": own}, None)
        ref = as_object(params.get("ref")) if method == COMPLETE else None
        if ref is not None and ref.get("type") == "ref/prompt":
            server, own = directory.prompt(name, access)
            return Target(self._entries[server], name, {**params, "ref": {**ref, "name": own}}, None)
        server, own = directory.resource(name, access)
        sent = {**params, "uri": own} if ref is None else {**params, "ref": {**ref, "uri": own}}
        return Target(self._entries[server], name, sent, None)

    # -- requests

    async def call(
        self,
        name: str,
        arguments: Mapping[str, object],
        *,
        access: Access = FULL,
        caller: Caller = NOBODY,
        timeout_s: float | None = None,
    ) -> dict[str, object]:
        """Calls a tool and returns MCP's result object; see `request`."""
        params = {"name": name, "arguments": arguments}
        return await self.request(CALL, params, access=access, caller=caller, timeout_s=timeout_s)

    async def request(
        self,
        method: str,
        params: Mapping[str, object],
        *,
        access: Access = FULL,
        caller: Caller = NOBODY,
        timeout_s: float | None = None,
    ) -> dict[str, object]:
        """Runs one request and returns MCP's result, unchanged."""
        deadline = None
        if timeout_s is not None:
            deadline = asyncio.get_running_loop().time() + timeout_s
        name = params.get("name")
        found = None
        if method == CALL and type(name) is str:
            found = self._directory.view(access).tools.get(name)
        if found is not None and (access is FULL or admits(access, str(name), found[1].is_read_only)):
            server, tool = found
            target = Target(self._entries[server], str(name), {**params, "name": tool.name}, tool)
        else:
            target = await self._resolve(method, params, access, deadline)
        entry, settings = target.entry, target.entry.backend.settings
        if timeout_s is not None and timeout_s > settings.max_request_timeout_s:
            assert deadline is not None, "a timeout implies a deadline"
            deadline -= timeout_s - settings.max_request_timeout_s
            timeout_s = settings.max_request_timeout_s
        entry.calls += 1
        has_failed = True
        try:
            if target.tool is not None:
                if target.tool.is_held:
                    raise held(target.name, entry.backend.name)
                self._check_arguments(target)
            if settings.max_calls_per_minute:
                self._check_rate(entry)
            result = await self._run(target, method, caller, deadline, timeout_s)
            has_failed = result.get("isError") is True
            return result
        finally:
            entry.failures += has_failed

    def _check_arguments(self, target: Target) -> None:
        arguments = target.params.get("arguments")
        tool = target.tool
        assert tool is not None, "only tools have schemas"
        fields = {} if arguments is None else as_object(arguments)
        if fields is None:
            text = f'cannot call "{target.name}": its arguments are not an object'
            raise InvalidParams(text, tool=target.name, key="arguments", rule="type")
        self._validators.check(target.name, tool, fields)

    def _check_rate(self, entry: Dispatcher) -> None:
        wait_s = entry.check_rate()
        if not wait_s:
            entry.is_refusing = False
            return
        entry.refused += 1
        name, limit = entry.backend.name, entry.backend.settings.max_calls_per_minute
        if not entry.is_refusing:
            entry.is_refusing = True
            if self._on_refused is not None:
                self._on_refused(name, limit, wait_s)
        raise Overloaded(
            f'cannot call MCP server "{name}": max_calls_per_minute = {limit} is used up',
            server=name,
            limit="max_calls_per_minute",
            value=limit,
            retry_after_s=round(wait_s, 3),
        )

    async def _run(
        self, target: Target, method: str, caller: Caller, deadline: float | None, timeout_s: float | None
    ) -> dict[str, object]:
        """Sends a request to a process, and retries it where that is safe and useful."""
        entry = target.entry
        settings, listed = entry.backend.settings, entry.backend.catalogue.tools
        is_shared = may_overlap(target.tool, settings.concurrency)
        sharer = _sharer(settings.share, caller)
        attempt = 0
        limit_s = settings.request_timeout_s if timeout_s is None else timeout_s
        late = partial(too_late, target.name, limit_s)
        while True:
            slot = entry.pick(sharer, is_shared) or await entry.wait(sharer, is_shared, deadline)
            try:
                process, gate = slot.process, slot.gate
                session = process.session
                if session is None:  # its start is not part of the wait at the gate
                    session = await entry.acquire(process, deadline, late)
                is_current = gate.enter(is_shared)
                if not is_current:
                    until = asyncio.get_running_loop().time() + limit_s if deadline is None else deadline
                    await within(until, gate.wait(is_shared), late)
                try:
                    if not is_current:  # it may be another incarnation by now
                        session = process.session or await entry.acquire(process, deadline, late)
                    if sharer is not None:
                        slot.leased_in = process.life
                    left_s = None
                    if deadline is not None:
                        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
                    if target.tool is not None and entry.backend.catalogue.tools is not listed:
                        _check_not_held(target)  # the process that was started or waited for lists other words
                    present = entry.backend.settings  # they may have changed during the wait
                    limits_s = (present.request_timeout_s, present.max_request_timeout_s)
                    return await tool_tasks.request(
                        session, method, target.params, target.tool, timeout_s=left_s, caller=caller, limits_s=limits_s
                    )
                finally:
                    gate.leave(is_shared)
            except ToolFailed as error:
                attempt += 1
                if not may_retry(target.tool, error, attempt, entry.backend.settings.max_retries):
                    raise
                entry.retries += 1
            finally:
                entry.release(slot)

    # -- subscriptions

    async def subscribe(
        self, uri: str, on_updated: Callable[[str], None], access: Access = FULL, *, caller: Caller = NOBODY
    ) -> Callable[[], None]:
        """Calls `on_updated` with the URI whenever the resource changes; returns a function that ends that.

        Callers share one subscription at the server. It outlives the process, which is kept up for it.
        """
        target = await self._resolve(READ, {"uri": uri}, access)
        backend = target.entry.backend
        key = (backend.name, str(target.params["uri"]), _sharer(backend.settings.share, caller))
        return await self._subscribers.subscribe(key, lambda: on_updated(uri))

    async def _connect(self, server: str, sharer: str | None) -> tuple[Process, Callable[[], None]]:
        """Returns the process for a subscription of this sharer, and a function that releases it."""
        entry = self._entry(server)
        slot = entry.pick(sharer, True) or await entry.wait(sharer, True, None)

        slot.watching += 1

        def release() -> None:
            slot.watching -= 1
            entry.release(slot)

        try:
            if slot.process.session is None:
                await entry.acquire(slot.process, None)
            slot.leased_in = slot.process.life
        except BaseException:
            release()
            raise
        return slot.process, release

    def _entry(self, name: str) -> Dispatcher:
        entry = self._entries.get(name)
        if entry is None:
            near = difflib.get_close_matches(name, self._entries, MAX_NEAR)
            raise NotFound(f'cannot find MCP server "{name}"', server=name, near=near)
        return entry


# -- decisions


def _name_in(method: str, params: Mapping[str, object]) -> str:
    if method in (CALL, GET_PROMPT):
        field, value = "name", params.get("name")
    elif method == READ:
        field, value = "uri", params.get("uri")
    elif method == COMPLETE:
        ref = as_object(params.get("ref")) or {}
        field = "name" if ref.get("type") == "ref/prompt" else "uri"
        value = ref.get(field)
        field = f"ref.{field}"
    else:
        raise MethodNotFound(f'cannot call "{method}": the pool has no such method', method=method)
    if not isinstance(value, str) or not value:
        raise InvalidParams(f'cannot call "{method}": it needs {field}', key=field)
    return value


def _check_not_held(target: Target) -> None:
    """Refuses a call of a tool that is held by now."""
    own, backend = target.params["name"], target.entry.backend
    if any(tool.is_held for tool in backend.catalogue.tools if tool.name == own):
        raise held(target.name, backend.name)


def _sharer(share: Share, caller: Caller) -> str | None:
    """Returns the sharer of a caller's processes; None where all callers share them."""
    if share == "all":
        return None
    return caller.tenant if share == "tenant" else qualified(caller.sharer, caller.tenant)


def _not_in_time(name: str) -> Timeout:
    text = f'cannot find "{name}" in time: the servers that could have it are being started'
    return Timeout(text, tool=name, reason="starting")


def may_overlap(tool: Tool | None, concurrency: Concurrency) -> bool:
    """Returns True if a request may run concurrently with other shared ones: of a tool, or (None) a read."""
    if concurrency == "auto":
        return tool is None or tool.is_read_only
    return concurrency == "parallel"
