"""Defines what a method is: everything about it but the function that serves it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar, overload

from msgspec import Meta, Struct

from ..control.access import Rights
from .faces import Faces
from .rules import Rule

P = TypeVar("P", bound=Struct)
R = TypeVar("R")
S = TypeVar("S", bound=Struct)

Recorded = Literal["never", "by-itself", "always", "or-refused"]
"""Whether a method changes the running set, so that the audit has a record of each call before it is answered.

A method that gives the daemon less to do runs `always`, and its record follows when the store takes it; one that
gives it more is refused while no record can be stored. A tool call records itself (`by-itself`).
"""


@dataclass(frozen=True)
class Open:
    """Describes a result that others shape, so that corral passes it on and no Struct can have its keys.

    These are results of MCP servers, and documents whose form another specification defines.
    """

    title: str
    description: str

    @property
    def type(self) -> Any:  # an annotated type, for which there is no other
        """Returns its type as msgspec takes it, with title and description in its JSON Schema."""
        return Annotated[dict[str, object], Meta(title=self.title, description=self.description)]


@dataclass(frozen=True, eq=False)
class Method(Generic[P, R]):
    """Represents one method; P are its params and R is its result, an instance of a Struct or the plain dict of an `Open` one.

    Attributes:
        name: on the wire, such as "agent.show".
        permission: the right that a caller needs.
        params: a Struct without unknown keys.
        result: the type of its result as msgspec takes it; its JSON Schema describes the answer.
        faces: where it is offered beside the socket.
        doc: what it does, in Markdown; the first line stands alone.
        example: params that show its use; empty where none are needed.
        recorded: whether the audit has a record of each call.
        recorded_keys: keys of its result that go into the record.
        scope: restricts it to the agents of a caller; without a rule it is refused to a caller whose token names agents.
        tenant: restricts it to a tenant; without a rule it is refused to a caller that is bound to a tenant.
    """

    name: str
    permission: Rights
    params: type[P]
    result: Any
    faces: Faces
    doc: str
    example: Mapping[str, object] = field(default_factory=dict[str, object])
    recorded: Recorded = "never"
    recorded_keys: tuple[str, ...] = ()
    scope: Rule | None = None
    tenant: Rule | None = None

    @property
    def summary(self) -> str:
        """Returns the first line of what it does."""
        return self.doc.partition("\n")[0]


AnyMethod: TypeAlias = Method[Struct, Any]
"""One of all methods: its params are some Struct."""


@overload
def method(
    name: str,
    permission: Rights,
    params: type[P],
    result: type[S],
    *,
    faces: Faces,
    doc: str,
    example: Mapping[str, object] = ...,
    recorded: Recorded = ...,
    recorded_keys: tuple[str, ...] = ...,
    scope: Rule | None = ...,
    tenant: Rule | Literal["scope"] | None = ...,
) -> Method[P, S]: ...


@overload
def method(
    name: str,
    permission: Rights,
    params: type[P],
    result: Open,
    *,
    faces: Faces,
    doc: str,
    example: Mapping[str, object] = ...,
    recorded: Recorded = ...,
    recorded_keys: tuple[str, ...] = ...,
    scope: Rule | None = ...,
    tenant: Rule | Literal["scope"] | None = ...,
) -> Method[P, dict[str, object]]: ...


def method(
    name: str,
    permission: Rights,
    params: type[P],
    result: type[Struct] | Open,
    *,
    faces: Faces,
    doc: str,
    tenant: Rule | Literal["scope"] | None = "scope",
    scope: Rule | None = None,
    **more: Any,
) -> Method[P, Any]:  # the overloads say which
    """Defines a method. Its rule for a tenant is that of `scope` unless it has one of its own."""
    shape = result.type if isinstance(result, Open) else result
    own = scope if tenant == "scope" else tenant
    return Method(name, permission, params, shape, faces, inspect.cleandoc(doc), scope=scope, tenant=own, **more)
