"""Makes a method of both clients from the definition of a method and the signature that programs see."""

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from ..methods.method import Method
from .async_ import Reconnecting
from .loop_thread import LoopThread
from .parameters import given

P = ParamSpec("P")
T = TypeVar("T")


class Caller:
    """Calls methods over one connection."""

    def __init__(self, connection: Reconnecting) -> None:
        self._connection = connection


class Waiter:
    """Calls methods by a Caller on the loop of another thread, and waits for their results."""

    def __init__(self, loop: LoopThread, caller: Caller) -> None:
        self._loop = loop
        self._caller = caller


class Declared(Generic[P, T]):
    """Represents a declared method: a coroutine function of a Caller, and a function of a Waiter."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        self._function = function

        @wraps(function)
        def wait(waiter: Waiter, /, *args: P.args, **keywords: P.kwargs) -> T:
            return waiter._loop.wait(function(waiter._caller, *args, **keywords))  # pyright: ignore[reportPrivateUsage]  its own

        self._wait = wait

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[Concatenate[Any, P], Any]: ...
    @overload
    def __get__(self, instance: Waiter, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Caller, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: object, owner: type) -> object:
        """Returns the method of an object, or the function of a class."""
        function = self._wait if issubclass(owner, Waiter) else self._function
        return function if instance is None else MethodType(function, instance)


def calls(
    definition: Method[Any, Any],
) -> Callable[[Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]], Declared[P, T]]:
    """Returns a decorator for a signature without a body: the method sends its arguments as params, and decodes the result.

    The text of the definition becomes its docstring.
    """

    def define(declared: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Declared[P, T]:
        @wraps(declared)
        async def call(self: Caller, /, *args: P.args, **keywords: P.kwargs) -> T:
            # Per call and not per method: an import of the client would take 10 ms longer.
            arguments = inspect.signature(declared).bind(self, *args, **keywords).arguments
            del arguments["self"]
            params = given(definition.params, **arguments)
            return await self._connection.ask(definition.result, definition.name, params)  # pyright: ignore[reportPrivateUsage]  its own

        call.__doc__ = f'{definition.doc}\n\nNeeds the right "{definition.access.permission}".'
        return Declared(call)

    return define
