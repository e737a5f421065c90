"""Represents one session of an agent: messages, variables and data, as JSON that is never decoded.

A turn is stored as its changes, so that it costs its own size however long the history is. `SessionState.plan` makes that
record out of a worker's answer, within the limit of a session; `SessionState.apply` applies it, in the daemon's memory
and when the records of a session are read back alike.

Messages and values stay the bytes they came in as. A session may be without its content, lean: the sizes that
remain are enough to plan the next turn. It knows no store, no clock and no agent.
"""

from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct

from corral.worker.contract import codec
from corral.worker.contract.errors import ResourceLimitExceeded
from corral.worker.contract.worker_messages import MemoryChanges, MemoryDelta

from ..store.sealed import corrupted, unseal
from .pooling import Name

VERSION = 1
"""Version of the record of a turn."""

MAX_RECORD_BYTES = 64 * 1024 * 1024
"""Bytes of the longest record: a whole session, or the changes of one turn, are far shorter."""

OBJECT_BYTES = 48
"""Bytes that a message takes in memory beside its own."""

VALUE_BYTES = 160
"""Bytes that a variable takes in memory beside its key and its value."""

BASE_BYTES = 512
"""Bytes that an empty session takes in memory."""

Part = Literal["variables", "data"]
PARTS: tuple[Part, ...] = ("variables", "data")


class Turn(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Represents one stored change of a session: new messages and values, and the number of oldest messages to drop.

    `turn` counts the succeeded tasks of the session; with `anew` earlier messages are not kept.
    `set` and `gone` are by part: `variables`, `data`.
    """

    turn: int
    version: int = VERSION
    anew: bool = False
    messages: list[Raw] = []
    drop: int = 0
    set: dict[Part, dict[str, Raw]] = {}
    gone: dict[Part, list[str]] = {}


_DECODER = msgspec.json.Decoder(Turn)


class Content(NamedTuple):
    """Holds the messages and values of a session, encoded."""

    messages: list[bytes]
    values: dict[Part, dict[str, bytes]]


class StoredSession(NamedTuple):
    """Holds the records of a session in the store: that of the whole, if there is one, and those of the turns since."""

    turns: int
    messages: int
    base: bytes | None
    since: Sequence[bytes]
    created_at: float = 0.0
    expires_at: float | None = None

    @property
    def size_bytes(self) -> int:
        """Returns the bytes of all records."""
        return len(self.base or b"") + sum(map(len, self.since))


class SessionState:
    """Represents one session: the sizes of its parts, and its content unless it is lean."""

    def __init__(self) -> None:
        self.turns = 0
        self.size_bytes = 0
        """Bytes of the JSON of all messages and values."""
        self.content: Content | None = Content([], {"variables": {}, "data": {}})
        self._sizes = array("Q")
        self._history_bytes = 0
        self._value_sizes: dict[Part, dict[str, int]] = {"variables": {}, "data": {}}

    @property
    def messages(self) -> int:
        """Returns the number of messages."""
        return len(self._sizes)

    @property
    def footprint_bytes(self) -> int:
        """Estimates the bytes that its content takes of the daemon's memory."""
        if self.content is None:
            return 0
        values = sum(map(len, self._value_sizes.values()))
        return BASE_BYTES + self.size_bytes + OBJECT_BYTES * len(self._sizes) + (VALUE_BYTES * values)

    def apply(self, turn: Turn) -> None:
        """Applies a turn."""
        if turn.anew:
            self._forget(len(self._sizes))
        self._sizes.extend(_message_bytes(each) for each in turn.messages)
        self._history_bytes += sum(_message_bytes(each) for each in turn.messages)
        if self.content is not None:
            self.content.messages.extend(bytes(each) for each in turn.messages)
        self._forget(min(turn.drop, len(self._sizes)))
        for part in PARTS:
            sizes = self._value_sizes[part]
            for key in turn.gone.get(part, ()):
                sizes.pop(key, None)
                if self.content is not None:
                    self.content.values[part].pop(key, None)
            for key, value in turn.set.get(part, {}).items():
                sizes[key] = _value_bytes(key, value)
                if self.content is not None:
                    self.content.values[part][key] = bytes(value)
        self.turns = turn.turn
        self.size_bytes = self._history_bytes + self._values_bytes()

    def after(self, turn: Turn) -> tuple[int, int]:
        """Returns the number of messages after a turn, and the bytes of content."""
        sizes = array("Q") if turn.anew else self._sizes
        every = len(sizes) + len(turn.messages)
        gone, more = min(turn.drop, len(sizes)), max(0, turn.drop - len(sizes))
        history_bytes = (0 if turn.anew else self._history_bytes) - sum(sizes[:gone])
        history_bytes += sum(map(_message_bytes, turn.messages[more:]))
        return every - turn.drop, history_bytes + self._values_bytes_after(turn)

    def drop_content(self) -> None:
        """Drops the content; the sizes stay."""
        self.content = None

    def whole(self) -> Turn:
        """Returns the one turn that has the whole session."""
        assert self.content is not None, "a lean conversation has no content"
        return Turn(
            turn=self.turns,
            anew=True,
            messages=[Raw(each) for each in self.content.messages],
            set={
                part: {key: Raw(value) for key, value in values.items()}
                for part, values in self.content.values.items()
                if values
            },
        )

    def as_json(self, last: int | None = None) -> dict[str, object]:
        """Returns its content for `task/run` and for clients; of the history at most the `last` messages."""
        assert self.content is not None, "a lean conversation has no content"
        messages = self.content.messages
        chosen = messages if last is None else messages[max(0, len(messages) - last) :]
        values: dict[str, object] = {
            part: {key: Raw(value) for key, value in self.content.values[part].items()} for part in PARTS
        }
        history = Raw(b"".join((b"[", b",".join(chosen), b"]")))
        return {"turns": self.turns, "history": history, **values}

    def plan(self, answer: MemoryDelta, *, limit_bytes: int, trims: bool, named: Mapping[str, object]) -> Turn:
        """Plans the turn that a worker's answer makes."""
        anew = answer.history is not None
        messages = [Raw(codec.encode(each)) for each in [*(answer.history or ()), *answer.append]]
        sets, gone = _changes(answer)
        turn = Turn(turn=self.turns + 1, anew=anew, messages=messages, set=sets, gone=gone)
        sizes = array("Q") if anew else self._sizes
        new = [_message_bytes(each) for each in messages]
        values_bytes = self._values_bytes_after(turn)
        history_bytes = (0 if anew else self._history_bytes) + sum(new)
        drop, count = 0, len(sizes) + len(new)
        if trims and values_bytes + history_bytes > limit_bytes:
            # An eighth more than must go, so that a full session is not trimmed at every turn.
            goal_bytes = limit_bytes - limit_bytes // 8
            while drop < count - 1 and values_bytes + history_bytes > goal_bytes:
                history_bytes -= sizes[drop] if drop < len(sizes) else new[drop - len(sizes)]
                drop += 1
        if values_bytes + history_bytes > limit_bytes:
            size = values_bytes + history_bytes
            raise ResourceLimitExceeded(
                f'cannot keep session "{named["session"]}" of agent "{named["agent"]}":'
                f" {size} bytes are more than {limit_bytes}",
                limit="max_session_bytes",
                value=limit_bytes,
                size_bytes=size,
                **named,
            )
        return msgspec.structs.replace(turn, drop=drop) if drop else turn

    def trimmed(self, turn: Turn, goal_bytes: int) -> Turn | None:
        """Returns a turn that drops as many of the oldest messages as `goal_bytes` asks for; None where that is too few."""
        sizes = array("Q") if turn.anew else self._sizes
        new = [_message_bytes(each) for each in turn.messages]
        drop, count = turn.drop, len(sizes) + len(new)
        _, size_bytes = self.after(turn)
        while drop < count - 1 and size_bytes > goal_bytes:
            size_bytes -= sizes[drop] if drop < len(sizes) else new[drop - len(sizes)]
            drop += 1
        return None if size_bytes > goal_bytes else msgspec.structs.replace(turn, drop=drop)

    def _forget(self, count: int) -> None:
        if not count:
            return
        self._history_bytes -= sum(self._sizes[:count])
        del self._sizes[:count]
        if self.content is not None:
            del self.content.messages[:count]

    def _values_bytes(self) -> int:
        return sum(sum(sizes.values()) for sizes in self._value_sizes.values())

    def _values_bytes_after(self, turn: Turn) -> int:
        found = self._values_bytes()
        for part in PARTS:
            sizes = self._value_sizes[part]
            found -= sum(sizes.get(key, 0) for key in turn.gone.get(part, ()))
            for key, value in turn.set.get(part, {}).items():
                found += _value_bytes(key, value) - sizes.get(key, 0)
        return found


def encoded(turn: Turn) -> bytes:
    """Encodes a turn as a record."""
    return msgspec.json.encode(turn)


def decoded(record: bytes) -> Turn:
    """Decodes a record as a turn."""
    return _DECODER.decode(record)


def read(stored: StoredSession, record: str) -> SessionState:
    """Reads a session from its records."""
    made = SessionState()
    for number, blob in enumerate([*filter(None, [stored.base]), *stored.since]):
        try:
            turn = _DECODER.decode(unseal(blob, record, MAX_RECORD_BYTES))
        except (msgspec.DecodeError, UnicodeError) as error:
            raise corrupted(record, "no-turn", str(error)) from error
        if turn.version > VERSION:
            raise corrupted(record, "newer-version", f"its format {turn.version} is newer than {VERSION}")
        if number and turn.turn != made.turns + 1:
            raise corrupted(record, "missing", f"turn {made.turns + 1} is missing")
        made.apply(turn)
    if (made.turns, made.messages) != (stored.turns, stored.messages):
        text = f"{made.messages} messages after {made.turns} turns, not {stored.messages} after {stored.turns}"
        raise corrupted(record, "missing", text)
    return made


def _changes(answer: MemoryDelta) -> tuple[dict[Part, dict[str, Raw]], dict[Part, list[str]]]:
    parts: dict[Part, MemoryChanges] = {"variables": answer.variables, "data": answer.data}
    sets: dict[Part, dict[str, Raw]] = {
        part: {key: Raw(codec.encode(value)) for key, value in changes.set.items()}
        for part, changes in parts.items()
        if changes.set
    }
    gone: dict[Part, list[str]] = {
        part: sorted(set(changes.delete) - changes.set.keys()) for part, changes in parts.items() if changes.delete
    }
    return sets, gone


def _message_bytes(message: Raw) -> int:
    return len(memoryview(message)) + 1


def _value_bytes(key: str, value: Raw) -> int:
    return len(key.encode()) + len(memoryview(value)) + 4


ROWS_MAX = 256
"""Number of turns that are stored one by one before a compaction."""

SINCE_BYTES = 1024 * 1024
"""Bytes of turns that are stored one by one, beside the content: each may store the history as a whole."""


@dataclass(slots=True, eq=False)
class HeldSession:
    """Represents a session that is in memory, with or without its content."""

    state: SessionState
    created_at: float
    is_stored: bool
    expires_at: float | None = None
    """Seconds since 1970 at which it is gone; None for no end of its own."""
    rows: int = 0
    since_bytes: int = 0
    accessed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.accessed_at = self.created_at

    def is_over(self, now: float) -> bool:
        """Returns whether its own time is over."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def needs_compaction(self) -> bool:
        """Returns whether its turns are to be compacted: reading them takes long, or much memory."""
        most = SINCE_BYTES + self.state.size_bytes
        return self.rows >= ROWS_MAX or self.since_bytes > most


class ContentCache:
    """Caches contents, and evicts the least recently used first."""

    def __init__(self) -> None:
        self.limit_bytes = 0
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._sessions: OrderedDict[Name, tuple[HeldSession, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, name: Name) -> HeldSession | None:
        """Returns a session whose content is here, now the most recently used."""
        found = self._sessions.get(name)
        if found is None:
            return None
        self._sessions.move_to_end(name)
        return found[0]

    def put(self, name: Name, session: HeldSession) -> None:
        """Adds a content, or notes its new size; evicts contents beyond the limit, this one too if need be."""
        self.remove(name, drop_content=False)
        size = session.state.footprint_bytes
        if not size:
            return
        self._sessions[name] = (session, size)
        self.size_bytes += size
        while self._sessions and self.size_bytes > self.limit_bytes:
            self.remove(next(iter(self._sessions)))
            self.evictions += 1

    def remove(self, name: Name, *, drop_content: bool = True) -> None:
        """Drops a content, if it is here."""
        found = self._sessions.pop(name, None)
        if found is not None:
            self.size_bytes -= found[1]
            if drop_content:
                found[0].state.drop_content()
