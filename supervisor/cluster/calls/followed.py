"""Follows events, logs or the status of several nodes as one stream: each record has its node, each notification the places of all nodes.

A node that does not answer is named, and followed further from its place once it is back. Of a node that was not there at the
beginning the stream has what is later than that. The order is that of each node; a log that is not followed is in the
order of its times. The status has no place: that of a node begins anew, and each notification has its node.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

import msgspec

from corral.supervisor.api.table.handlers import Caller
from corral.supervisor.records.logs.merging import in_batches
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound, Timeout, Unreachable
from corral.worker.control.nodes import places_of, places_text
from corral.worker.control.results import Done, LogPlace, Position

from .passing_caller import PassingCaller

FOLLOWED = frozenset(("daemon.follow", "event.follow", "log.follow"))
"""Methods whose streams of several nodes are one."""

FOLLOWED_OF_ONE = "daemon.follow"
"""The method whose stream is that of one node unless a call names all."""

CURSORS = {"event.follow": "since", "event.list": "since", "log.follow": "after", "log.read": "after"}
"""The keys of the params with the place of a reader; of all nodes it is a text with a colon."""

MISSING = "nodes.missing"
"""The notification that names the nodes that do not answer now; with none of them, all are back."""

END = "log.end"
"""The notification that ends a log."""

AGAIN_S = 1.0
"""Seconds between two attempts to reach a node that is missing."""

LATER_S = 2.0
"""Seconds between two looks for nodes that are new, and for what a node did not know before."""

BEGIN_S = 5.0
"""Seconds that a node has to begin."""

FORGET_S = 3600.0
"""Seconds after which a node that is missing and has no lease is not looked for any more."""

AWAY = (NotFound, Timeout, TimeoutError, Unreachable)
"""Errors of a node that may be followed later."""

Ask = Callable[[str, Mapping[str, object], Caller], Awaitable[object]]
"""Begins the stream of one node."""

Record = dict[str, object]


def reads_own(method: str, params: Mapping[str, object]) -> bool:
    """Returns whether a call goes on from a place of one node, which is that of the node that is asked."""
    place = params.get(CURSORS.get(method, ""))
    return place is not None and not (isinstance(place, str) and ":" in place)


class Followed:
    """Represents one stream over nodes."""

    def __init__(
        self,
        method: str,
        params: Mapping[str, object],
        caller: Caller,
        ask: Ask,
        nodes: Callable[[], Awaitable[Sequence[str]]],
        alone: str = "",
    ) -> None:
        self.caller = caller
        self.ask = ask
        self.is_ended = method == "log.follow" and params.get("follow") is False
        self.broken: BaseException | None = None
        """Why the caller takes nothing more."""
        self._method = method
        self._key = CURSORS.get(method, "")
        self._params = params
        self._nodes = nodes
        self._alone = alone
        self._places = self._given()
        self._is_late = bool(self._places)
        self._began_at = time.time()
        self._readers: dict[str, _NodeReader] = {}
        self._sent_missing: list[str] = []
        self._last: Mapping[str, object] = {}
        self._over = asyncio.Event()

    def _given(self) -> dict[str, str]:
        place = self._params.get(self._key)
        if place is None:
            return {}
        if self._alone:
            return {self._alone: str(place)}
        try:
            return places_of(str(place))
        except ValueError:
            text = f'cannot go on after "{str(place)[:100]}" on all nodes: it is NODE:PLACE,… of an answer'
            raise InvalidParams(text, key=self._key, value=str(place)[:100]) from None

    # -- for the call

    async def begin(self) -> Done | Position | LogPlace:
        """Returns the place of the stream, once each node has begun or is known to be missing."""
        self._readers = {name: _NodeReader(name, self) for name in await self._nodes()}
        failures = await asyncio.gather(*(each.begin() for each in self._readers.values()))
        refused = [each for each in failures if each is not None]
        fatal = next((each for each in refused if not isinstance(each, AWAY)), None)
        fatal = fatal or self._unknown()
        if fatal is None and any(each.state == "following" for each in self._readers.values()):
            self._is_late = True
            return self._answer()
        await self._drop()
        unknown = next((each for each in refused if isinstance(each, NotFound)), None)
        raise fatal or unknown or refused[0]

    def _unknown(self) -> NotFound | None:
        """Returns the error of a name that no node has, if all have answered."""
        readers = [*self._readers.values()]
        if not readers or any(each.state == "missing" for each in readers):
            return None
        names = set(readers[0].unknown).intersection(*(each.unknown for each in readers))
        return readers[0].unknown[min(names)] if names else None

    def _answer(self) -> Done | Position | LogPlace:
        if self._method == FOLLOWED_OF_ONE:
            return Done()
        if self._method == "log.follow":
            return LogPlace(position=self._place())
        return Position(position=int(self._places[self._alone]) if self._alone else self._place() or "")

    async def run(self) -> None:
        """Passes on what the nodes send until the caller hangs up; an ended log, or one of a task, to its end."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            self.changed()
            async with asyncio.TaskGroup() as group:
                for each in self._readers.values():
                    tasks[each.node] = group.create_task(each.run())
                if not self.is_ended:
                    looking = group.create_task(self._look(group, tasks))
                    tasks[""] = looking
                await self._over.wait()
                for task in tasks.values():
                    task.cancel()
        except BaseExceptionGroup as found:
            raise found.exceptions[0] from None
        finally:
            await self._drop()
        self.caller.notify(END, self._last)

    async def _look(self, group: asyncio.TaskGroup, tasks: dict[str, asyncio.Task[None]]) -> None:
        """Follows nodes that are new, too; forgets those that are gone for long."""
        while True:
            await asyncio.sleep(LATER_S)
            names = await self._nodes()
            for name in names:
                if name not in self._readers:
                    self._readers[name] = _NodeReader(name, self)
                    tasks[name] = group.create_task(self._readers[name].run())
            now = time.monotonic()
            for name, reader in list(self._readers.items()):
                if reader.state == "missing" and name not in names and now > reader.lost_at + FORGET_S:
                    tasks.pop(name).cancel()
                    del self._readers[name]
                    self.changed()

    async def _drop(self) -> None:
        for each in self._readers.values():
            await each.drop()

    # -- for the readers

    def params_of(self, node: str) -> dict[str, object]:
        """Returns the params for a node: from its place on, where it has one; later than the beginning, where it comes late."""
        own = {key: value for key, value in self._params.items() if key != self._key}
        if self._method == FOLLOWED_OF_ONE:
            return own
        since = "since_time" if self._method == "event.follow" else "since"
        place = self._places.get(node)
        if place is not None:
            own.pop("n", None)
            if since == "since_time":
                own.pop(since, None)
            is_number = self._method == "event.follow" and place.isdecimal()
            own[self._key] = int(place) if is_number else place
        elif self._is_late:
            own.pop("n", None)
            own.setdefault(since, self._began_at)
        return own

    def begun(self, node: str, answer: object) -> None:
        """Takes the answer of a node that has begun."""
        found = codec.as_object(msgspec.json.decode(msgspec.json.encode(answer))) or {}
        if (place := found.get("position")) is not None:
            self._places.setdefault(node, str(place))

    def take(self, node: str, method: str, params: Mapping[str, object]) -> None:
        """Passes on a notification of a node."""
        if method == END:
            if params:
                self._last = params
                self._over.set()
            return
        if self._method == FOLLOWED_OF_ONE:
            self.caller.notify(method, {**params, "node": node})
            return
        key = "events" if method == "event" else "records"
        records = [{**each, "node": node} for each in _records(params, key)]
        if self.is_ended:
            self._readers[node].keep(records, params.get("position"))
            self._merge()
            return
        place: object = params.get("position")
        if method == "event":
            numbers = [each["seq"] for each in records if isinstance(each.get("seq"), int)]
            place = numbers[-1] if numbers else None
        self._move(node, place)
        self._send(method, key, records)

    def changed(self) -> None:
        """Sends which nodes are missing, if they are others than before; ends what has ended."""
        states = {name: each.state for name, each in self._readers.items()}
        missing = sorted(name for name, state in states.items() if state == "missing")
        if missing != self._sent_missing:
            self._sent_missing = missing
            self.caller.notify(MISSING, {"missing_nodes": missing})
        if self.is_ended:
            self._merge()
        found = set(states.values())
        if "following" not in found and ("ended" in found or self.is_ended):
            self._over.set()

    # -- what is sent

    def _move(self, node: str, place: object) -> None:
        if place is not None:
            self._places[node] = str(place)

    def _place(self) -> str | None:
        if self._alone:
            return self._places.get(self._alone)
        return places_text(self._places) if self._places else None

    def _send(self, method: str, key: str, records: list[Record]) -> None:
        sent: dict[str, object] = {key: records}
        if method == "log" or not self._alone:
            sent["position"] = self._place()
        self.caller.notify(method, sent)

    def _merge(self) -> None:
        """Sends the records of an ended log that no node can have earlier ones than."""
        readers = self._readers.values()
        open_ends = [each.last_at for each in readers if each.state == "following"]
        if "" in open_ends:
            return
        horizon = min(open_ends, default=None)
        found: list[tuple[str, Record]] = []
        for each in readers:
            found += each.up_to(horizon)
            if not each.last_at:
                self._move(each.node, each.place)
        for batch in in_batches([record for _, record in sorted(found, key=lambda pair: pair[0])]):
            self._send("log", "records", batch)
        for each in readers:
            each.go_on()


class _NodeReader:
    """Follows one node; it is the caller of the calls there, too."""

    def __init__(self, node: str, stream: Followed) -> None:
        self.node = node
        self.state: Literal["missing", "unknown", "following", "ended"] = "unknown"
        """unknown: the node has not what is asked for, or was not asked yet."""
        self.lost_at = 0.0
        self.unknown: dict[str, NotFound] = {}
        """The names that the node does not have, of those that are asked for."""
        self.place: object = None
        self._stream = stream
        self._following: Awaitable[None] | None = None
        self._kept: list[tuple[str, Record]] = []
        self._at = ""
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def begin(self) -> CorralError | TimeoutError | None:
        """Begins the stream of the node; returns why it does not."""
        caller = _ReaderCaller(self._stream, self)
        try:
            async with asyncio.timeout(BEGIN_S):
                answer = await self._ask(caller)
        except (CorralError, TimeoutError) as error:
            self.state = "unknown" if isinstance(error, NotFound) else "missing"
            self.lost_at = time.monotonic()
            await _dropped(caller.following)
            if isinstance(error, CorralError):
                return error
            return Timeout(f'cannot reach node "{self.node}" within {BEGIN_S:g} s', node=self.node)
        self._stream.begun(self.node, answer)
        self._following, self.state = caller.following, "following"
        return None

    async def _ask(self, caller: Caller) -> object:
        """Begins with those of the names that the node has."""
        params = self._stream.params_of(self.node)
        self.unknown = {}
        while True:
            try:
                return await self._stream.ask(self.node, params, caller)
            except NotFound as error:
                names = codec.as_array(params.get("names")) or []
                name = str(error.data.get("name"))
                self.unknown[name] = error
                left = [each for each in names if each != name]
                if not left or len(left) == len(names):
                    raise
                params["names"] = left

    async def run(self) -> None:
        """Follows the node, again and again from where it was."""
        while True:
            if (following := self._following) is not None:
                self._following = None
                is_lost = await self._lost(following)
                self.state = "missing" if is_lost else "ended"
                self.lost_at = time.monotonic()
            self._stream.changed()
            if self.state == "ended" or self._stream.is_ended:
                return
            if self.lost_at:
                await asyncio.sleep(LATER_S if self.state == "unknown" else AGAIN_S)
            failure = await self.begin()
            if failure is not None and not isinstance(failure, AWAY):
                raise failure
            self._stream.changed()

    async def _lost(self, following: Awaitable[None]) -> bool:
        try:
            await following
        except (CorralError, TimeoutError):
            if self._stream.broken is not None:
                raise
            return True
        return False

    async def drop(self) -> None:
        """Ends what was begun and is not followed."""
        following, self._following = self._following, None
        await _dropped(following)

    # -- the records of an ended log

    @property
    def last_at(self) -> str:
        """Returns the time of the last record that is kept, "" without one."""
        return self._kept[-1][0] if self._kept else ""

    def keep(self, records: Sequence[Record], place: object) -> None:
        """Keeps records until they have their turn."""
        for each in records:
            self._at = max(self._at, str(each.get("at")))
            self._kept.append((self._at, each))
        self.place = place
        if self._kept:
            self._has_room.clear()

    def up_to(self, horizon: str | None) -> list[tuple[str, Record]]:
        """Returns the records up to a time, None for all, and keeps the others."""
        count = sum(horizon is None or at <= horizon for at, _ in self._kept)
        found, self._kept = self._kept[:count], self._kept[count:]
        return found

    def go_on(self) -> None:
        """Lets the node send more, if none of its records is kept."""
        if not self._kept:
            self._has_room.set()

    async def drain(self) -> None:
        """Waits until the caller takes more, and none of the records is kept."""
        try:
            await self._stream.caller.drain()
        except CorralError as error:
            self._stream.broken = error
            raise
        await self._has_room.wait()


class _ReaderCaller(PassingCaller):
    """Represents the caller of the stream of one node."""

    def __init__(self, stream: Followed, reader: _NodeReader) -> None:
        super().__init__(stream.caller)
        self._stream = stream
        self._reader = reader

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Passes a notification on."""
        self._stream.take(self._reader.node, method, params)

    async def drain(self) -> None:
        """Waits while the caller reads too slowly."""
        await self._reader.drain()


async def _dropped(following: Awaitable[None] | None) -> None:
    """Ends what was never followed; it has to begin to clean up."""
    if following is None:
        return
    task = asyncio.ensure_future(following)
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(task, return_exceptions=True)


def _records(params: Mapping[str, object], key: str) -> list[Record]:
    found = params.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
