"""Defines what the functions that serve methods share: their caller, their mark, and the parts of several results.

A handler module has a class whose constructor takes what its methods need. It must not know a method.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from pwd import getpwuid
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct

from corral.supervisor.records.audit.log import refusal_key
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, NotFound
from corral.worker.contract.records import Error
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams
from corral.worker.methods.method import Method


class Caller(Protocol):
    """Represents a caller: its permission, and the way to send it notifications during a call."""

    name: str
    permission: Rights
    who: Mapping[str, object]
    """As the audit names it: `uid` and `pid` from the kernel, the `agent` of the worker that it descends from, the name of its `token`, its `tenant`."""
    agents: Sequence[str] | None
    """Globs of the agents that it may know, those of its tenant alone where it has one; None for all."""
    tenant: str
    """Tenant that it is bound to; "" for the owner's view."""
    supervisor: WorkerSupervisor | None
    """Of the worker in whose tree it is, if that is known."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""

    async def drain(self) -> None:
        """Waits while the caller reads too slowly."""

    def follow(self, following: Awaitable[None]) -> None:
        """Runs `following` after the call, until the caller hangs up."""

    def attach(self, view: AttachParams) -> None:
        """Switches the connection to MCP."""

    def log_in(self, digest: bytes | None, tenant: str) -> None:
        """Restricts the connection to what the token of a digest permits, None for no token, and to a tenant, "" for none."""


def _nothing(_: str, __: Mapping[str, object]) -> None:
    return


GOES_ON_AS: ContextVar[Callable[[str, Mapping[str, object]], None]] = ContextVar("GOES_ON_AS", default=_nothing)
"""Takes the call that is served in place of the present one when another program takes the daemon over."""


def turn_key(caller: Caller) -> str:
    """Returns whose calls wait for one another: those of an agent, a token, an HTTP client's name, or a process of a user."""
    is_shared = not caller.who.keys().isdisjoint(("agent", "token", "http"))
    return refusal_key(caller.who) if is_shared else caller.name


def narrowed(tenants: Tenants, present: str, wanted: str) -> str:
    """Returns the tenant of a caller that is bound to `present` and asks for `wanted`, "" for none."""
    if not wanted or wanted == present:
        return present
    if present:
        raise NotFound(f'cannot find tenant "{wanted}"', name=wanted, known=[])
    return tenants.of(wanted).name


def generated_name(kind: str) -> str:
    """Returns `KIND-` with six hexadecimal digits, the first of them a letter: only a worker's id ends in digits alone."""
    return f"{kind}-{secrets.choice('abcdef')}{secrets.token_hex(3)[1:]}"


def made_by(caller: Caller) -> str:
    """Returns a caller as revisions name it: its token, the agent that it descends from, else the user of its process."""
    who = caller.who
    if isinstance(token := who.get("token"), str):
        return f"token {token}"
    if isinstance(agent := who.get("agent"), str):
        return f"agent {agent}"
    uid = who.get("uid")
    if not isinstance(uid, int):
        return caller.name
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


S = TypeVar("S")
P = TypeVar("P", bound=Struct)
A = TypeVar("A")

Serve: TypeAlias = Callable[[S, P, Caller], Awaitable[A]]
"""A function of a class that serves a method, with its params and its answer."""

Handler: TypeAlias = Callable[[Any, Caller], Awaitable[object]]  # Any: each has params of its own
"""Such a function of one object."""

SERVES = "serves"


def serve(method: Method[..., P, A]) -> Callable[[Serve[S, P, A | Raw]], Serve[S, P, A | Raw]]:
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


T = TypeVar("T")


def recorded_values(result: object, keys: tuple[str, ...]) -> dict[str, object]:
    """Returns these keys of a result as plain values, without those that it lacks."""
    found = {key: getattr(result, key, UNSET) for key in keys}
    return {key: msgspec.to_builtins(each) for key, each in found.items() if each is not UNSET}


def error_records(errors: Mapping[str, CorralError]) -> dict[str, Error]:
    """Returns errors by name as results have them."""
    return {name: Error.of(error) for name, error in errors.items()}


def as_result(found: object, type_: type[T]) -> T:
    """Returns what a room answers as a result of the table, to which no key is unknown."""
    result = msgspec.convert(found, type_)
    _check_keys(found, result)
    return result


def _check_keys(found: object, result: object) -> None:
    entries, keys = codec.as_array(found), codec.as_object(found)
    if entries is not None:
        results = cast("Sequence[object]", result) if entries else ()
        for each, converted in zip(entries, results, strict=True):
            _check_keys(each, converted)
    elif keys is not None and isinstance(result, Struct):
        names = dict(zip(result.__struct_encode_fields__, result.__struct_fields__, strict=True))
        assert keys.keys() <= names.keys(), f"{type(result).__name__}: {keys.keys() - names}"
        for key, value in keys.items():
            if isinstance(value, list | dict):
                _check_keys(cast("object", value), getattr(result, names[key]))
    elif keys is not None and found is not result:
        results_by_key = codec.as_object(result) or {}
        for key, value in keys.items():
            _check_keys(value, results_by_key[key])
