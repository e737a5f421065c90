"""Defines what a method is: everything about it but the function that serves it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, cast

from msgspec import Meta, Struct

from ..control.access import Rights
from .faces import Faces
from .rules import Rule

P = ParamSpec("P")
S = TypeVar("S", bound=Struct)
R = TypeVar("R")

Recorded = Literal["never", "by-itself", "always", "or-refused"]
"""Whether a method changes the running set, so that the audit has a record of each call before it is answered.

A method that gives the daemon less to do runs `always`, and its record follows when the store takes it; one that
gives it more is refused while no record can be stored. A tool call records itself (`by-itself`).
"""


def open_result(title: str, description: str) -> type[dict[str, object]]:
    """Returns the type of a result that others shape, so that corral passes it on and no Struct can have its keys.

    These are results of MCP servers, and documents whose form another specification defines. Its JSON Schema has title and description.
    """
    return cast("type[dict[str, object]]", Annotated[dict[str, object], Meta(title=title, description=description)])


@dataclass(frozen=True)
class Signature(Generic[P, S, R]):
    """Represents what stands on the wire: the method's name, such as "agent.show", its params and its result.

    The params are a Struct without unknown keys, written as what makes one, so that a checker knows its parameters. The JSON
    Schema of the result, a Struct or an `open_result`, describes the answer.
    """

    name: str
    params: Callable[P, S]
    result: type[R]


@dataclass(frozen=True)
class Access:
    """Describes who may call a method, and what the audit keeps of it.

    Attributes:
        permission: the right that a caller needs.
        scope: restricts it to the agents of a caller; without a rule it is refused to a caller whose token names agents.
        tenant: restricts it to a tenant; without a rule it is refused to a caller that is bound to a tenant.
        recorded: whether the audit has a record of each call.
        recorded_keys: keys of its result that go into the record.
    """

    permission: Rights
    scope: Rule | None
    tenant: Rule | None
    recorded: Recorded
    recorded_keys: tuple[str, ...]


def access(
    permission: Rights,
    scope: Rule | None = None,
    *,
    tenant: Rule | Literal["scope"] | None = "scope",
    recorded: Recorded = "never",
    recorded_keys: tuple[str, ...] = (),
) -> Access:
    """Returns the access to a method; its rule for a tenant is that of `scope` unless it has one of its own."""
    return Access(permission, scope, scope if tenant == "scope" else tenant, recorded, recorded_keys)


@dataclass(frozen=True, eq=False)
class Method(Generic[P, S, R]):
    """Represents one method; S are its params, P the parameters that make them, R is its result, a Struct or a plain dict.

    Attributes:
        name: see Signature, also for `params` and `result`.
        access: who may call it.
        faces: where it is offered beside the socket.
        doc: what it does, in Markdown; the first line stands alone.
        example: params that show its use; empty where none are needed.
    """

    name: str
    params: type[S]
    result: type[R]
    access: Access
    faces: Faces
    doc: str
    example: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def summary(self) -> str:
        """Returns the first line of what it does."""
        return self.doc.partition("\n")[0]


AnyMethod: TypeAlias = Method[..., Struct, Any]
"""One of all methods: its params are some Struct."""


def method(
    signature: Signature[P, S, R],
    access: Access,
    faces: Faces,
    doc: str,
    *,
    example: Mapping[str, object] | None = None,
) -> Method[P, S, R]:
    """Defines a method."""
    params = cast("type[S]", signature.params)  # the Struct itself
    return Method(signature.name, params, signature.result, access, faces, inspect.cleandoc(doc), example or {})
