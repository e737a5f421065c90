"""Makes a method of both clients from the definition of a method and the signature that programs see."""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from functools import update_wrapper, wraps
from inspect import Parameter, Signature
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, get_type_hints, overload

import msgspec
from msgspec import NODEFAULT, UNSET

from ..methods.method import Method
from .async_ import Reconnecting
from .loop_thread import LoopThread


def given(type_: type[msgspec.Struct], **arguments: object) -> dict[str, object]:
    """Returns the arguments that differ from the defaults of `type_`, as JSON; None stands for the default."""
    params: dict[str, object] = {}
    for field in msgspec.structs.fields(type_):
        value = plain(arguments.get(field.name, UNSET))
        if value is UNSET or (value is None and not field.required):
            continue
        default = field.default_factory() if field.default_factory is not NODEFAULT else field.default
        if field.required or value != default or type(value) is not type(default):
            params[field.name] = value
    return params


def plain(value: object) -> object:
    """Returns a value as JSON has it: a Struct or mapping as a dict, a sequence as a list, a time as Unix seconds."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, msgspec.Struct):
        return cast("object", msgspec.to_builtins(value))
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in cast("list[object]", value)]
    return value


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

    def __set_name__(self, owner: type, name: str) -> None:
        for function in (self._function, self._wait):
            function.__name__, function.__qualname__ = name, f"{owner.__qualname__}.{name}"

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


def calls(definition: Method[P, Any, T]) -> Declared[P, T]:
    """Returns the method of a definition that requires all of its params: its parameters are those."""
    hints = get_type_hints(definition.params)
    names = ("self", *definition.params.__struct_fields__)
    kind, empty = Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty
    parameters = [Parameter(each, kind, annotation=hints.get(each, empty)) for each in names]
    call = _call(definition)
    signature = Signature(parameters, return_annotation=definition.result)
    setattr(call, "__signature__", signature)  # noqa: B010 - a function's type does not have it
    return Declared(call)


def declares(
    definition: Method[..., Any, Any],
) -> Callable[[Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]], Declared[P, T]]:
    """Returns a decorator for the signature, without a body, of a method some of whose params may be left out."""

    def define(declared: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Declared[P, T]:
        return Declared(update_wrapper(_call(definition), declared, ("__module__", "__annotations__")))

    return define


def _call(definition: Method[..., Any, T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """Returns a function that sends its arguments as params, and decodes the result; its docstring is the definition's text."""

    async def call(self: Caller, /, *args: object, **keywords: object) -> T:
        # Per call and not per method: an import of the client would take 10 ms longer.
        arguments = inspect.signature(call).bind(self, *args, **keywords).arguments
        del arguments["self"]
        params = given(definition.params, **arguments)
        return await self._connection.ask(definition.result, definition.name, params)  # pyright: ignore[reportPrivateUsage]  its own

    call.__doc__ = f'{definition.doc}\n\nNeeds the right "{definition.access.permission}".'
    return call
