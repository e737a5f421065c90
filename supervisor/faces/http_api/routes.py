"""Finds the method of a request by the routes of the table.

A path is split before it is decoded, so that a key may hold any character (`%2F` is no separator). A segment that a route
spells out goes before a key. This module must not know HTTP or the daemon.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

from corral.worker.contract.errors import InvalidParams, MethodNotFound, NotFound
from corral.worker.methods.faces import Route
from corral.worker.methods.method import AnyMethod

PREFIX = "/api/v1"


class Match(NamedTuple):
    """Represents the method of a request, and the keys of its params that the path has."""

    method: AnyMethod
    route: Route
    keys: dict[str, str]


class VerbRefused(MethodNotFound):
    """Raised for a path that exists, with a verb that it does not serve; `allowed` are those it serves."""

    def __init__(self, path: str, verb: str, allowed: list[str]) -> None:
        super().__init__(f'cannot serve {verb} of "{path}": it serves {", ".join(allowed)}', path=path, allowed=allowed)
        self.allowed = allowed

    @property
    def name(self) -> str:
        """Returns the name in the table of errors."""
        return MethodNotFound.__name__


@dataclass
class _Node:
    literals: dict[str, "_Node"] = field(default_factory=dict[str, "_Node"])
    key: "_Node | None" = None
    methods: dict[str, list[tuple[AnyMethod, Route]]] = field(default_factory=dict[str, list[tuple[AnyMethod, Route]]])


class Router:
    """Finds methods by verb and path."""

    def __init__(self, methods: Mapping[str, AnyMethod]) -> None:
        self._root = _Node()
        for method in methods.values():
            for route in method.faces.routes:
                node = self._root
                for word, is_key in route.segments:
                    if is_key:
                        node.key = node.key or _Node()
                        node = node.key
                    else:
                        node = node.literals.setdefault(word, _Node())
                node.methods.setdefault(route.verb, []).append((method, route))

    def match(self, verb: str, raw_path: str, *, streams: bool) -> Match:
        """Returns the method of a request; `raw_path` is the undecoded path below PREFIX."""
        words = raw_path.removeprefix("/").split("/")
        found = _reached(self._root, words) if all(words) else []
        if not any(node.methods for node, _ in found):
            raise NotFound(f'cannot find "{PREFIX}{raw_path}"', path=f"{PREFIX}{raw_path}")
        asked = "GET" if verb == "HEAD" else verb
        for node, values in found:
            for method, route in _in_order(node.methods.get(asked, ()), streams=streams):
                decoded = map(_decoded, values)
                return Match(method, route, dict(zip(route.keys, decoded, strict=True)))
        allowed = sorted({each for node, _ in found for each in node.methods})
        raise VerbRefused(f"{PREFIX}{raw_path}", verb, allowed)


def _reached(root: _Node, words: list[str]) -> list[tuple[_Node, list[str]]]:
    """Returns the nodes that a path leads to, with the values of their keys; spelled-out segments go first."""
    reached: list[tuple[_Node, list[str]]] = [(root, [])]
    for word in words:
        level: list[tuple[_Node, list[str]]] = []
        for node, values in reached:
            if (literal := node.literals.get(word)) is not None:
                level.append((literal, values))
            if node.key is not None:
                level.append((node.key, [*values, word]))
        reached = level
    return reached


def _in_order(entries: Iterable[tuple[AnyMethod, Route]], *, streams: bool) -> list[tuple[AnyMethod, Route]]:
    """Returns the methods of one verb and path that can answer: of a stream and a plain one that which is asked for."""
    able = [entry for entry in entries if streams or not entry[0].faces.only_streams]
    return sorted(able, key=lambda entry: not entry[0].faces.only_streams)


def _decoded(word: str) -> str:
    try:
        return unquote(word, errors="strict")
    except UnicodeDecodeError:
        raise InvalidParams(f'cannot read "{word}" of the path: it is not UTF-8', key="path", value=word) from None
