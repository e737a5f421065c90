"""Gives a handler the session of its task, and computes the changes that it made.

A session is the agent's memory of one conversation, kept by the daemon: history, variables and data, up to its
configured limits. For knowledge that agents share and search by words there is the memory server (`mcp.cortex`).

Only changes are sent back (additions, assignments, deletions), so that a turn costs its own size. To detect an earlier
message that was changed in place, the history is encoded once at its first use and once at the end; a handler that
never uses it pays nothing. This module is imported together with the agent, so it must stay cheap.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

Json = Any  # a JSON value of the agent's own: only its author knows the shape

Encode = Callable[[object], bytes]


class Memory:
    """Holds the state of a session between its tasks; changes are kept if the task succeeds.

    A task without a session has an empty one, which is discarded with it.

    Attributes:
        turns: number of earlier tasks of this session that succeeded.
    """

    def __init__(self, given: Mapping[str, Json], encode: Encode) -> None:
        self.turns: int = given.get("turns") or 0
        self._given = given
        self._encode = encode
        self._ttl_s: float | None = None
        self._is_expiry_set = False

    # Each is created at its first use: most tasks have no session.

    @cached_property
    def _history(self) -> "_TrackedList":
        return _TrackedList(cast("list[Json]", self._given.get("history") or []), self._encode)

    @cached_property
    def _variables(self) -> "_TrackedDict":
        return _TrackedDict(cast("dict[str, Json]", self._given.get("variables") or {}), self._encode)

    @cached_property
    def _data(self) -> "_TrackedDict":
        return _TrackedDict(cast("dict[str, Json]", self._given.get("data") or {}), self._encode)

    @property
    def history(self) -> list[dict[str, Json]]:
        """Returns the messages of the conversation, the oldest first; they may be changed in place."""
        return self._history.current()

    @history.setter
    def history(self, messages: list[dict[str, Json]]) -> None:
        self._history.replace(messages)

    @property
    def variables(self) -> dict[str, Json]:
        """Returns the variables of the conversation, by name; never trimmed."""
        return self._variables.current()

    @variables.setter
    def variables(self, values: dict[str, Json]) -> None:
        self._variables.replace(values)

    @property
    def data(self) -> dict[str, Json]:
        """Returns other data of the agent for the session, by name; never trimmed."""
        return self._data.current()

    @data.setter
    def data(self, values: dict[str, Json]) -> None:
        self._data.replace(values)

    def add(self, role: str, content: Json, **more: Json) -> None:
        """Adds a message to the history."""
        self._history.add({**more, "role": role, "content": content})

    def expires_in(self, seconds: float | None) -> None:
        """Ends the session so many seconds after this task; None for no end but that of `retention`.

        A later task that does not set it anew leaves the end as it is.

        Raises:
            ValueError: the seconds are not above 0, or no number.
        """
        if seconds is not None:
            if isinstance(seconds, bool) or not 0 < seconds < float("inf"):
                raise ValueError(f"a session ends in more than 0 seconds, not in {seconds!r:.100}")
            seconds = float(seconds)
        self._ttl_s, self._is_expiry_set = seconds, True

    def delta(self) -> dict[str, object]:
        """Returns the changes, for the response to `task/run`; empty if there are none.

        Raises:
            ValueError: JSON cannot express a value.
            TypeError: a message is not an object, or the name of a value not a string.
        """
        found: dict[str, object] = {**self._history.delta()}
        for key, values in (("variables", self._variables), ("data", self._data)):
            if changes := values.delta():
                found[key] = changes
        if self._is_expiry_set:
            found["ttl_s"] = self._ttl_s
        return found


class _TrackedList:
    """Detects whether a list of messages was changed elsewhere than at its end."""

    def __init__(self, messages: list[dict[str, Json]], encode: Encode) -> None:
        self._messages = messages
        self._encode = encode
        self._count = len(messages)
        self._before: bytes | None = None

    def current(self) -> list[dict[str, Json]]:
        if self._before is None:
            self._before = self._encode(self._messages[: self._count])
        return self._messages

    def add(self, message: dict[str, Json]) -> None:
        self._messages.append(message)

    def replace(self, messages: list[dict[str, Json]]) -> None:
        self.current()
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


class _TrackedDict:
    """Detects which values of a dictionary have changed."""

    def __init__(self, values: dict[str, Json], encode: Encode) -> None:
        self._values = values
        self._encode = encode
        self._before: dict[str, bytes] | None = None

    def current(self) -> dict[str, Json]:
        if self._before is None:
            self._before = {key: self._encode(value) for key, value in self._values.items()}
        return self._values

    def replace(self, values: dict[str, Json]) -> None:
        self.current()
        self._values = dict(values)

    def delta(self) -> dict[str, object]:
        if self._before is None:
            return {}
        for key in self._values:
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  an author's
                raise TypeError(f"the name of a value is a text, not {key!r:.100}")
        before = self._before
        changed = {key: value for key, value in self._values.items() if before.get(key) != self._encode(value)}
        found: dict[str, object] = {}
        if changed:
            found["set"] = changed
        if gone := [key for key in before if key not in self._values]:
            found["delete"] = gone
        return found
