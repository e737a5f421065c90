"""Describes where a method is offered beside the socket: its HTTP routes, its name in Python, its command.

A route is written "VERB /PATH", below /api/v1. A segment `{key}` of the path is the value of that key of the params; where
the key takes a list, the list of that one value. All other keys are the query of a GET or DELETE, and the JSON body
of other requests. It must not know HTTP or a handler.
"""

from dataclasses import dataclass
from typing import Literal, Self, get_args

Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

VERBS: tuple[Verb, ...] = get_args(Verb)


@dataclass(frozen=True)
class Route:
    """Represents one HTTP route of a method: `segments` are those of the path, keys without their braces."""

    verb: Verb
    path: str
    segments: tuple[tuple[str, bool], ...]
    """Each with whether it is a key."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses "VERB /PATH"."""
        verb, _, path = text.partition(" ")
        if verb not in VERBS or not path.startswith("/"):
            raise ValueError(f"{text!r} is no route: write VERB /PATH")
        segments = tuple(
            (part.strip("{}"), part.startswith("{") and part.endswith("}")) for part in path[1:].split("/")
        )
        return cls(verb, path, segments)

    @property
    def keys(self) -> tuple[str, ...]:
        """Returns the keys of the params that the path holds."""
        return tuple(name for name, is_key in self.segments if is_key)


@dataclass(frozen=True)
class Resumption:
    """Describes how a reader of a stream goes on where it was.

    `field` is sent as the event's id, and comes back as `key`: of each record, which is an event of its own; with
    `of_all` of the notification, which is one event.
    """

    field: str
    key: str
    of_all: bool = False


@dataclass(frozen=True)
class Faces:
    """Describes the faces of one method.

    `routes` is empty where HTTP cannot have it, for the reason in `reason`. With `streams` its routes serve requests that
    accept `text/event-stream`: its notifications are sent as they come, and its result last. `only_streams` leaves
    requests for JSON to another method with the same route. With `parts` such a request asks for what the task streams, too.
    """

    routes: tuple[Route, ...] = ()
    python: str | None = None
    command: str = "call"
    streams: bool = False
    only_streams: bool = False
    parts: bool = False
    resumption: Resumption | None = None
    reason: str = ""


def faces(
    *routes: str,
    python: str | None = None,
    command: str = "call",
    streams: bool = False,
    only_streams: bool = False,
    parts: bool = False,
    resumption: Resumption | None = None,
    reason: str = "",
) -> Faces:
    """Returns the faces of a method; each route is written "VERB /PATH"."""
    parsed = tuple(Route.parse(text) for text in routes)
    return Faces(parsed, python, command, streams, only_streams, parts, resumption, reason)
