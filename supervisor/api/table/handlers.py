"""Marks the functions that serve the methods of the table, and collects them.

A handler module has a class whose constructor takes what its methods need. It must not know a method or a right.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from msgspec import Raw, Struct

from corral.worker.methods.method import Method

from .caller import Caller

S = TypeVar("S")
P = TypeVar("P", bound=Struct)
A = TypeVar("A")

Serve: TypeAlias = Callable[[S, P, Caller], Awaitable[A]]
"""A function of a class that serves a method, with its params and its answer."""

Handler: TypeAlias = Callable[[Any, Caller], Awaitable[object]]  # Any: each has params of its own
"""Such a function of one object."""

SERVES = "serves"


def serve(method: Method[P, A]) -> Callable[[Serve[S, P, A | Raw]], Serve[S, P, A | Raw]]:
    """Returns a decorator for the function that serves a method. It returns the method's result, or its encoded form."""

    def mark(handler: Serve[S, P, A | Raw]) -> Serve[S, P, A | Raw]:
        setattr(handler, SERVES, method.name)
        return handler

    return mark


def handlers_of(objects: Iterable[object]) -> dict[str, Handler]:
    """Returns the functions of these objects that serve methods, by the names of those."""
    return {
        str(name): getattr(each, attribute)
        for each in objects
        for attribute, function in vars(type(each)).items()
        if (name := getattr(function, SERVES, None)) is not None
    }
