"""Runs the steps of a task once: what an earlier beginning of the task has done is answered from its record.

The record is the order in which steps were asked for, with the result of each that has ended. A task that begins again
has to ask for the same steps in the same order, unless its agent says `step_order = "free"`.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..contract import codec
from ..contract.errors import Conflict, CorralError, InvalidParams, Timeout
from ..contract.steps import key_of
from .results import Json, object_of, objects_of
from .threads import is_async, run_in_thread

MAX_NAME = 200
"""Characters of the name of a step."""

ERROR_CHARS = 1_000
"""Characters of the reason of a failure that are kept."""


class Requests(Protocol):
    """Defines the calls to the daemon that steps need."""

    async def request(self, method: str, params: Mapping[str, object], /) -> object:
        """Returns the daemon's response to a request."""
        ...


class Kept(NamedTuple):
    """Represents a step of an earlier beginning: done, failed, or running: a tool call whose end nobody knows."""

    name: str
    state: str
    tries: int
    result: Json


class Place(NamedTuple):
    """Represents the place of a step in its task, with what is kept of it."""

    number: int
    name: str
    kept: Kept | None

    @property
    def is_done(self) -> bool:
        """Returns whether the step has ended, and is not run again."""
        return self.kept is not None and self.kept.state == "done"

    @property
    def result(self) -> Json:
        """Returns the kept result."""
        return None if self.kept is None else self.kept.result

    @property
    def is_unknown(self) -> bool:
        """Returns whether an earlier beginning made the call, and nobody knows its end."""
        return self.kept is not None and self.kept.state == "running"


class Policy(NamedTuple):
    """Says how often a step is tried again, after which delay (doubled each time), and how long one try may take."""

    retries: int = 0
    backoff_s: float = 1.0
    timeout_s: float | None = None

    def delay_s(self, tries: int) -> float | None:
        """Returns the seconds until the next try, None where there is none."""
        return self.backoff_s * 2.0**tries if tries < self.retries else None


ONCE = Policy()


class Steps:
    """Gives each step of one beginning of a task its place, and keeps its end."""

    def __init__(self, task: str, params: Mapping[str, Json], calls: Requests) -> None:
        given = params.get("steps")
        table = object_of(given) if given is not None else {}
        self._task = task
        self._calls = calls
        self._is_free = table.get("order") == "free"
        self._is_whole = table.get("is_whole") is True
        self._kept: dict[int, Kept] = {}
        self._last = 0
        self._has_more = False
        self.asked = 0
        """Number of steps that this beginning has asked for."""
        self._times: dict[str, int] = {}
        self._reading: asyncio.Lock | None = None
        self._take_in(table)

    def _take_in(self, table: Mapping[str, Json]) -> None:
        for each in objects_of(table, "kept") if table else []:
            self._last = max(self._last, each["number"])
            kept = Kept(each["name"], each["state"], each.get("tries", 0), each.get("result"))
            self._kept[each["number"]] = kept
        self._has_more = table.get("more") is True

    async def place(self, name: str) -> Place:
        """Returns the place of the next step; a name that was asked for before gets a number: `fetch#2`.

        Raises:
            InvalidParams: the name is empty or too long.
            Conflict: an earlier beginning asked for another step at this place.
        """
        if not name or len(name) > MAX_NAME:
            raise InvalidParams(f"cannot name a step: write 1 to {MAX_NAME} characters", key="name", value=name[:50])
        self.asked += 1
        number = self.asked
        times = self._times[name] = self._times.get(name, 0) + 1
        name = name if times == 1 else f"{name}#{times}"
        while self._has_more and (self._is_free or number > self._last):
            await self._read(number)
        if self._is_free:
            return self._place_by_name(name)
        kept = self._kept.pop(number, None)
        if self._is_whole and (kept is None or kept.state != "done"):
            raise self._beyond(number, name, kept)
        if kept is not None and kept.name != name:
            raise Conflict(
                f'cannot take step {number} of task "{self._task}": this beginning asks for "{name}" where an earlier one'
                f' asked for "{kept.name}"; the code has changed, or its order depends on something that is no step',
                **{"task": self._task, "step": number, "name": name, "kept": kept.name},
            )
        return Place(number, name, kept)

    def _beyond(self, number: int, name: str, kept: Kept | None) -> Conflict:
        """Returns the error of a step that a replay would have to run."""
        why = "the record ends before it" if kept is None else f"in the record it is {kept.state}"
        text = f'cannot replay step {number} of task "{self._task}": the handler asks for "{name}", and {why}'
        return Conflict(text, task=self._task, step=number, name=name, kept=None if kept is None else kept.name)

    def _place_by_name(self, name: str) -> Place:
        for number, kept in self._kept.items():
            if kept.name == name:
                return Place(number, name, self._kept.pop(number))
        self._last += 1
        return Place(self._last, name, None)

    async def _read(self, number: int) -> None:
        """Reads the next kept steps, unless another step has done so meanwhile."""
        self._reading = self._reading or asyncio.Lock()
        async with self._reading:
            if self._has_more and (self._is_free or number > self._last):
                params = {"task": self._task, "after": self._last}
                self._take_in(object_of(await self._calls.request("step/list", params)))

    async def run(
        self,
        name: str,
        function: Callable[[Place], object],
        policy: Policy = ONCE,
        *,
        kind: str = "step",
        noted: Callable[[Any], Json] | None = None,
    ) -> Any:  # Any: what the function returns
        """Returns the kept result of a step, or runs it and keeps what it returns, as JSON has it.

        Of a result that the daemon finds again by itself only what `noted` makes of it is kept; then the function runs in
        each beginning.
        """
        place = await self.place(name)
        if place.is_done and noted is None:
            return place.result
        tries = 0
        while True:
            began = Began()
            try:
                result = await _tried(partial(function, place), policy.timeout_s, place.name)
                break
            except Exception as error:
                if not place.is_done:
                    await self.fail(place, kind, began, error)
                delay_s = policy.delay_s(tries)
                if delay_s is None:
                    raise
            tries += 1
            await asyncio.sleep(delay_s)
        if noted is None:
            return await self.keep(place, kind, began, result)
        if not place.is_done:
            await self.keep(place, kind, began, noted(result))
        return result

    async def keep(self, place: Place, kind: str, began: "Began", result: object) -> Json:
        """Keeps the result of a step, and returns it as later beginnings will get it."""
        try:
            plain = codec.decode(codec.encode_exactly(result))
        except ValueError as error:
            text = f'cannot keep the result of step "{place.name}": {error}'
            raise InvalidParams(text, task=self._task, step=place.name, reason=str(error)) from error
        await self._put(place, kind, began, result=plain)
        return plain

    async def fail(self, place: Place, kind: str, began: "Began", error: BaseException) -> None:
        """Notes that a step has failed: at the next beginning it runs again."""
        words = str(error)[:ERROR_CHARS] or type(error).__name__
        with suppress(CorralError):  # the failure itself is what the handler has to know
            await self._put(place, kind, began, error=words)

    async def _put(self, place: Place, kind: str, began: "Began", **end: object) -> None:
        facts = {"task": self._task, "number": place.number, "name": place.name, "kind": kind}
        times = {"at": began.at, "duration_s": began.seconds}
        await self._calls.request("step/put", {**facts, **times, **end})

    def key_of(self, place: Place) -> str:
        """Returns the idempotency key of the task that a step delegates."""
        return key_of(self._task, place.number, 0 if place.kept is None else place.kept.tries)


class Began:
    """Holds when a step began: on the wall clock, and on one that is never set."""

    def __init__(self) -> None:
        self.at = time.time()
        self._moment_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Returns the seconds since then."""
        return time.monotonic() - self._moment_s


async def _tried(function: Callable[[], object], timeout_s: float | None, name: str) -> object:
    """Runs a function of a step once; a thread cannot be cut off, so that its timeout is told when it has ended."""
    try:
        async with asyncio.timeout(timeout_s):
            found = function()
            while inspect.isawaitable(found):  # a lambda that runs in a thread may return a coroutine
                found = await found
            return found
    except TimeoutError as error:
        if timeout_s is None:
            raise
        raise late(name, timeout_s) from error


def late(name: str, timeout_s: float) -> Timeout:
    """Returns the error of a step that took too long."""
    return Timeout(f'cannot finish step "{name}" within {timeout_s:g} s', step=name, limit="timeout")


def off_the_loop(function: Callable[..., object]) -> Callable[..., object]:
    """Returns a function that runs a plain one in a thread, so that the loop goes on; an async one as it is."""
    if is_async(function):
        return function
    return lambda *args, **keywords: run_in_thread(partial(function, *args, **keywords), lambda _: None)
