"""Decides what of a listing was accepted before, and what of the rest is trusted: the words of each tool are pinned.

The first listing of a server is accepted. From then on a tool that is new, or has other words, is pending until a person
accepts it. Values in, values out; no I/O and no clock.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from ..protocol.messages import Tool

WORDS = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
"""Keys of a tool that are pinned: what a model or a person decides by."""

HINTS = frozenset({"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"})
"""Annotations that decide something; the default of each is the cautious value."""

MAX_GONE = 1_000
"""Number of tools of one server that it lists no longer and whose pins are kept: one that is forgotten is new when it comes back."""

MAX_GONE_BYTES = 4 * 1024 * 1024
"""Bytes of the words of those."""

Part = Literal["new", "title", "description", "inputSchema", "outputSchema", "annotations"]


class Pin(msgspec.Struct, frozen=True):
    """Holds the words of one tool: those that were accepted, None for a tool that nobody has accepted, and others that it has now."""

    accepted: bytes | None
    pending: bytes | None = None


Pins = Mapping[str, Pin]
"""The pins of one server, by the tool's own name."""


def words_of(tool: Tool) -> bytes:
    """Returns the words of a tool as JSON, the same for every order of keys."""
    fields = tool.fields or {"name": tool.name, "description": tool.description, "annotations": tool.annotations}
    return msgspec.json.encode({key: fields[key] for key in WORDS if key in fields}, order="sorted")


def digest(words: bytes | None) -> str:
    """Returns the SHA-256 of a tool's words, empty where there are none."""
    return "" if words is None else hashlib.sha256(words).hexdigest()


def digest_of(pins: Pins, names: Iterable[str]) -> str:
    """Returns one SHA-256 of all that is pending of these tools."""
    return digest(msgspec.json.encode([(name, digest(pins[name].pending)) for name in sorted(names)]))


def decoded(words: bytes) -> dict[str, object]:
    """Returns a tool's words as the keys that its server sent."""
    return msgspec.json.decode(words, type=dict[str, object])


def pinned(pins: Pins, tools: Sequence[Tool]) -> dict[str, Pin]:
    """Returns the pins after a listing: a tool is pending where its words are not the accepted ones."""
    listed = {tool.name: words_of(tool) for tool in tools}
    if not pins:
        return {name: Pin(words) for name, words in listed.items()}
    found = {name: _after(pins.get(name), words) for name, words in listed.items()}
    size_bytes, gone = 0, 0
    for name, pin in pins.items():
        if name not in found and pin.accepted is not None:
            size_bytes, gone = size_bytes + len(pin.accepted), gone + 1
            if gone > MAX_GONE or size_bytes > MAX_GONE_BYTES:
                break
            found[name] = Pin(pin.accepted)
    return found


def _after(pin: Pin | None, words: bytes) -> Pin:
    accepted = None if pin is None else pin.accepted
    return Pin(accepted, None if words == accepted else words)


def changed_parts(pin: Pin) -> list[Part]:
    """Returns which parts of a pending tool are not the accepted ones."""
    if pin.accepted is None or pin.pending is None:
        return ["new"]
    before, after = decoded(pin.accepted), decoded(pin.pending)
    parts: tuple[Part, ...] = ("title", "description", "inputSchema", "outputSchema", "annotations")
    return [key for key in parts if before.get(key) != after.get(key)]


def trusted(pins: Pins, tools: tuple[Tool, ...], *, hold: bool) -> tuple[Tool, ...]:
    """Returns the tools as they are offered.

    The accepted annotations hold, without each hint that is another now: its default is the cautious value. Of a new tool
    no hint is trusted. With `hold` a pending tool is held, and has its accepted words.
    """
    if not any(pin.pending is not None for pin in pins.values()):
        return tools
    return tuple(_trusted(pins.get(tool.name), tool, hold) for tool in tools)


def _trusted(pin: Pin | None, tool: Tool, hold: bool) -> Tool:
    if pin is None or pin.pending is None:
        return tool
    if pin.accepted is None:
        annotations = {key: value for key, value in tool.annotations.items() if key not in HINTS}
    else:
        before = Tool.from_wire(decoded(pin.accepted))
        assert before is not None, "only tools with names are pinned"
        if hold:
            return replace(before, change="changed", is_held=True)
        now = tool.annotations
        annotations = {
            key: value for key, value in before.annotations.items() if key not in HINTS or now.get(key) == value
        }
    fields = {key: value for key, value in tool.fields.items() if key != "annotations"}
    if annotations:
        fields["annotations"] = annotations
    change: Literal["changed", "new"] = "new" if pin.accepted is None else "changed"
    return replace(tool, annotations=annotations, fields=fields, change=change, is_held=hold)
