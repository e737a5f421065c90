"""What a handler sees of the session of its task, and what it has changed of it at the end.

Only the change travels back, so that a turn costs its own size: what was added, what was set, what was deleted. To
know whether a handler has changed an earlier message in place, the history is written out once when it is first
looked at and once at the end; who never looks at it does not pay. This module is imported together with the agent,
so it must stay cheap.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

Json = Any  # a JSON value of the agent's own: only its author knows the shape

Encode = Callable[[object], bytes]


class Memory:
    """What is remembered of a session from task to task; what a task changes is kept when it succeeds.

    A task without a session has an empty one, which is gone with it.

    Attributes:
        turns: how many tasks of this session have succeeded before.
    """

    def __init__(self, given: Mapping[str, Json], encode: Encode) -> None:
        self.turns: int = given.get("turns") or 0
        self._given = given
        self._encode = encode

    # Each is made when it is first looked at: most tasks have no session.

    @cached_property
    def _history(self) -> "_Watched":
        return _Watched(cast("list[Json]", self._given.get("history") or []), self._encode)

    @cached_property
    def _variables(self) -> "_Values":
        return _Values(cast("dict[str, Json]", self._given.get("variables") or {}), self._encode)

    @cached_property
    def _data(self) -> "_Values":
        return _Values(cast("dict[str, Json]", self._given.get("data") or {}), self._encode)

    @property
    def history(self) -> list[dict[str, Json]]:
        """The messages of the conversation, the oldest first; yours to add to and to change."""
        return self._history.seen()

    @history.setter
    def history(self, messages: list[dict[str, Json]]) -> None:
        self._history.replace(messages)

    @property
    def variables(self) -> dict[str, Json]:
        """The context: what is known by now, by name. It is never trimmed."""
        return self._variables.seen()

    @variables.setter
    def variables(self, values: dict[str, Json]) -> None:
        self._variables.replace(values)

    @property
    def data(self) -> dict[str, Json]:
        """Whatever else the agent keeps of the session, by name. It is never trimmed."""
        return self._data.seen()

    @data.setter
    def data(self, values: dict[str, Json]) -> None:
        self._data.replace(values)

    def add(self, role: str, content: Json, **more: Json) -> None:
        """Adds a message to the history."""
        self._history.add({**more, "role": role, "content": content})

    def delta(self) -> dict[str, object]:
        """What has changed, for the answer to `task/run`; empty where nothing has.

        Raises:
            ValueError: something in it cannot be said in JSON.
            TypeError: a message is no object, or the name of a value no text.
        """
        found: dict[str, object] = {**self._history.delta()}
        for key, values in (("variables", self._variables), ("data", self._data)):
            if changes := values.delta():
                found[key] = changes
        return found


class _Watched:
    """The history, of which it is found out whether more than its end has changed."""

    def __init__(self, messages: list[dict[str, Json]], encode: Encode) -> None:
        self._messages = messages
        self._encode = encode
        self._count = len(messages)
        self._before: bytes | None = None

    def seen(self) -> list[dict[str, Json]]:
        if self._before is None:
            self._before = self._encode(self._messages[: self._count])
        return self._messages

    def add(self, message: dict[str, Json]) -> None:
        self._messages.append(message)

    def replace(self, messages: list[dict[str, Json]]) -> None:
        self.seen()
        self._messages = list(messages)

    def delta(self) -> dict[str, object]:
        messages = self._messages
        for message in messages[self._count :] if self._before is None else messages:
            if not isinstance(message, dict):
                raise TypeError(f"a message of the history is an object, not {message!r:.100}")
        earlier, new = messages[: self._count], messages[self._count :]
        if self._before is not None and self._encode(earlier) != self._before:
            return {"history": messages}
        return {"append": new} if new else {}


class _Values:
    """Values by name, of which it is found out which have changed."""

    def __init__(self, values: dict[str, Json], encode: Encode) -> None:
        self._values = values
        self._encode = encode
        self._before: dict[str, bytes] | None = None

    def seen(self) -> dict[str, Json]:
        if self._before is None:
            self._before = {key: self._encode(value) for key, value in self._values.items()}
        return self._values

    def replace(self, values: dict[str, Json]) -> None:
        self.seen()
        self._values = dict(values)

    def delta(self) -> dict[str, object]:
        if self._before is None:
            return {}
        for key in self._values:
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  an author's
                raise TypeError(f"the name of a value is a text, not {key!r:.100}")
        before = self._before
        changed = {
            key: value
            for key, value in self._values.items()
            if before.get(key) != self._encode(value)
        }
        found: dict[str, object] = {}
        if changed:
            found["set"] = changed
        if gone := [key for key in before if key not in self._values]:
            found["delete"] = gone
        return found
