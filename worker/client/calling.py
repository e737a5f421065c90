"""Makes a method of the client from the definition of a method and the signature that programs see."""

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar, cast

from ..methods.method import Method
from .async_ import Reconnecting
from .parameters import given

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, object]])


class Caller:
    """Calls methods over one connection."""

    def __init__(self, connection: Reconnecting) -> None:
        self._connection = connection


def calls(definition: Method[Any, Any]) -> Callable[[F], F]:
    """Returns a decorator for a signature without a body: the method sends its arguments as params, and decodes the result.

    The text of the definition becomes its docstring.
    """

    def define(declared: F) -> F:
        @wraps(declared)
        async def call(self: Caller, /, *args: object, **keywords: object) -> object:
            # Per call and not per method: an import of the client would take 10 ms longer.
            arguments = inspect.signature(declared).bind(self, *args, **keywords).arguments
            del arguments["self"]
            params = given(definition.params, **arguments)
            return await self._connection.ask(definition.result, definition.name, params)  # pyright: ignore[reportPrivateUsage]  its own

        call.__doc__ = f'{definition.doc}\n\nNeeds the right "{definition.access.permission}".'
        return cast("F", call)  # it has that signature

    return define
