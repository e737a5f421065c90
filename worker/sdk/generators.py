"""Makes a handler of a generator function: each value that it yields is streamed.

The output is what a `def` returns after its last `yield`; else the values together: one text where all are texts, or
the list of them.
"""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, closing
from functools import partial
from typing import Any, cast

from ..contract.parts import JoinedParts, size_of
from .task import SyncTask, Task

Handler = Callable[[Any], object]
"""Takes a Task or a SyncTask, as it is async or not."""


def handler_of(function: Handler) -> Handler:
    """Returns the handler for a function of an author: itself, unless it is a generator function."""
    plain = function
    while isinstance(plain, partial):
        plain = plain.func
    if not inspect.isroutine(plain):
        plain = getattr(plain, "__call__", plain)  # noqa: B004  an object
    if inspect.isasyncgenfunction(plain):
        return _async_handler(cast("Callable[[Task], AsyncGenerator[object, None]]", function))
    if inspect.isgeneratorfunction(plain):
        return _blocking_handler(cast("Callable[[SyncTask], Generator[object, None, object]]", function))
    return function


def _async_handler(function: Callable[[Task], AsyncGenerator[object, None]]) -> Callable[[Task], Awaitable[object]]:
    async def run(task: Task) -> object:
        joined = JoinedParts()
        async with aclosing(function(task)) as parts:
            async for part in parts:
                joined.add(part, size_of(part))
                await task.stream(part)
        return joined.value

    return run


def _blocking_handler(function: Callable[[SyncTask], Generator[object, None, object]]) -> Callable[[SyncTask], object]:
    def run(task: SyncTask) -> object:
        joined = JoinedParts()
        with closing(function(task)) as parts:
            while True:
                try:
                    part = next(parts)
                except StopIteration as end:
                    return joined.value if end.value is None else end.value
                joined.add(part, size_of(part))
                task.stream(part)

    return run
