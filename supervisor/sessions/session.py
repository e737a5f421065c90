"""What an agent keeps of one session: the messages, the variables and the data, as JSON that is never taken apart.

A turn is stored as what it changed, so that it costs its own size however long the history is. `planned` makes that
record out of what a worker answered, within the limit of a session; `Conversation.apply` puts it onto what was
there, in the daemon's memory and when the records of a session are read back alike.

Messages and values stay the bytes they came in as. A conversation may be without them, lean: the sizes that
remain are enough to plan the next turn. It knows no store, no clock and no agent.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct

from ...worker.contract import codec
from ...worker.contract.errors import Corrupted, ResourceLimitExceeded
from ...worker.contract.worker_messages import MemoryChanges, MemoryDelta
from ..store.sealed import unsealed

VERSION = 1
"""Of the record of a turn."""

MAX_RECORD_BYTES = 64 * 1024 * 1024
"""The longest record: a session as a whole, or what one turn changed, is far shorter."""

OBJECT_BYTES = 48
"""What a message takes in memory beside its bytes."""

VALUE_BYTES = 160
"""What a variable takes in memory beside its key and its value."""

BASE_BYTES = 512
"""What a conversation takes in memory when it is empty."""

Part = Literal["variables", "data"]
PARTS: tuple[Part, ...] = ("variables", "data")


class Turn(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Represents one stored change of a session: what is new, then how many of the oldest messages go.

    `turn` counts the succeeded tasks of the session; `anew` says that earlier messages are not kept.
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


class Body(NamedTuple):
    """Represents the content itself, encoded."""

    messages: list[bytes]
    values: dict[Part, dict[str, bytes]]


class Stored(NamedTuple):
    """A session as the store has it: the record of the whole, if there is one, and those of the turns since."""

    turns: int
    messages: int
    base: bytes | None
    since: Sequence[bytes]

    @property
    def size_bytes(self) -> int:
        """Of all records."""
        return len(self.base or b"") + sum(map(len, self.since))


class Conversation:
    """Represents one session: how large everything in it is, and its content unless it is lean."""

    def __init__(self) -> None:
        self.turns = 0
        self.size_bytes = 0
        """Of the JSON of all messages and values."""
        self.body: Body | None = Body([], {"variables": {}, "data": {}})
        self._sizes = array("Q")
        self._history_bytes = 0
        self._value_sizes: dict[Part, dict[str, int]] = {"variables": {}, "data": {}}

    @property
    def messages(self) -> int:
        """Returns how many messages there are."""
        return len(self._sizes)

    @property
    def footprint_bytes(self) -> int:
        """What its content takes of the daemon's memory, about."""
        if self.body is None:
            return 0
        values = sum(map(len, self._value_sizes.values()))
        return (
            BASE_BYTES + self.size_bytes + OBJECT_BYTES * len(self._sizes) + (VALUE_BYTES * values)
        )

    def apply(self, turn: Turn) -> None:
        """Changes it by a turn."""
        if turn.anew:
            self._forget(len(self._sizes))
        self._sizes.extend(_message_bytes(each) for each in turn.messages)
        self._history_bytes += sum(_message_bytes(each) for each in turn.messages)
        if self.body is not None:
            self.body.messages.extend(bytes(each) for each in turn.messages)
        self._forget(min(turn.drop, len(self._sizes)))
        for part in PARTS:
            sizes = self._value_sizes[part]
            for key in turn.gone.get(part, ()):
                sizes.pop(key, None)
                if self.body is not None:
                    self.body.values[part].pop(key, None)
            for key, value in turn.set.get(part, {}).items():
                sizes[key] = _value_bytes(key, value)
                if self.body is not None:
                    self.body.values[part][key] = bytes(value)
        self.turns = turn.turn
        self.size_bytes = self._history_bytes + self._values_bytes()

    def after(self, turn: Turn) -> tuple[int, int]:
        """Returns how many messages there will be after a turn, and how many bytes of content."""
        sizes = array("Q") if turn.anew else self._sizes
        every = len(sizes) + len(turn.messages)
        gone, more = min(turn.drop, len(sizes)), max(0, turn.drop - len(sizes))
        history_bytes = (0 if turn.anew else self._history_bytes) - sum(sizes[:gone])
        history_bytes += sum(map(_message_bytes, turn.messages[more:]))
        return every - turn.drop, history_bytes + self._values_bytes_after(turn)

    def slim(self) -> None:
        """Lets go of the content."""
        self.body = None

    def whole(self) -> Turn:
        """Returns the turn that makes it out of nothing."""
        assert self.body is not None, "a lean conversation has no content"
        return Turn(
            turn=self.turns,
            anew=True,
            messages=[Raw(each) for each in self.body.messages],
            set={
                part: {key: Raw(value) for key, value in values.items()}
                for part, values in self.body.values.items()
                if values
            },
        )

    def said(self, last: int | None = None) -> dict[str, object]:
        """Its content for `task/run` and for people; of the history at most the `last` messages."""
        assert self.body is not None, "a lean conversation has no content"
        messages = self.body.messages
        chosen = messages if last is None else messages[max(0, len(messages) - last) :]
        values: dict[str, object] = {
            part: {key: Raw(value) for key, value in self.body.values[part].items()}
            for part in PARTS
        }
        history = Raw(b"".join((b"[", b",".join(chosen), b"]")))
        return {"turns": self.turns, "history": history, **values}

    def planned(
        self, said: MemoryDelta, *, limit_bytes: int, trims: bool, named: Mapping[str, object]
    ) -> Turn:
        """Returns the turn that a worker's answer makes.

        Args:
            said: the answer.
            limit_bytes: for the whole session.
            trims: whether the oldest messages give way to the new; else what is too much is refused.
            named: what the session is called in an error.

        Raises:
            ResourceLimitExceeded: the session would be larger than the limit, whatever messages went.
        """
        anew = said.history is not None
        messages = [Raw(codec.encode(each)) for each in [*(said.history or ()), *said.append]]
        sets, gone = _changes(said)
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

    def _forget(self, count: int) -> None:
        """Lets go of the oldest messages."""
        if not count:
            return
        self._history_bytes -= sum(self._sizes[:count])
        del self._sizes[:count]
        if self.body is not None:
            del self.body.messages[:count]

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
    """Returns the record of a turn."""
    return msgspec.json.encode(turn)


def read(stored: Stored, record: str) -> Conversation:
    """Returns the conversation that the records of a session make.

    Raises:
        Corrupted: one of them is damaged, of a newer version, or missing; `data["record"]` is `record`.
    """
    made = Conversation()
    for number, blob in enumerate([*filter(None, [stored.base]), *stored.since]):
        try:
            turn = _DECODER.decode(unsealed(blob, record, MAX_RECORD_BYTES))
        except (msgspec.DecodeError, UnicodeError) as error:
            raise _corrupted(record, "no-turn", str(error)) from error
        if turn.version > VERSION:
            text = f"its format {turn.version} is newer than {VERSION}"
            raise _corrupted(record, "newer-version", text)
        if number and turn.turn != made.turns + 1:
            raise _corrupted(record, "missing", f"turn {made.turns + 1} is missing")
        made.apply(turn)
    if (made.turns, made.messages) != (stored.turns, stored.messages):
        text = f"{made.messages} messages after {made.turns} turns, not {stored.messages} after {stored.turns}"
        raise _corrupted(record, "missing", text)
    return made


def _changes(said: MemoryDelta) -> tuple[dict[Part, dict[str, Raw]], dict[Part, list[str]]]:
    parts: dict[Part, MemoryChanges] = {"variables": said.variables, "data": said.data}
    sets: dict[Part, dict[str, Raw]] = {
        part: {key: Raw(codec.encode(value)) for key, value in changes.set.items()}
        for part, changes in parts.items()
        if changes.set
    }
    gone: dict[Part, list[str]] = {
        part: sorted(set(changes.delete) - changes.set.keys())
        for part, changes in parts.items()
        if changes.delete
    }
    return sets, gone


def _message_bytes(message: Raw) -> int:
    return len(memoryview(message)) + 1


def _value_bytes(key: str, value: Raw) -> int:
    return len(key.encode()) + len(memoryview(value)) + 4


def _corrupted(record: str, reason: str, words: str) -> Corrupted:
    return Corrupted(f"cannot read {record}: {words}", record=record, reason=reason)
