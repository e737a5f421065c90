"""Defines the ten operations of an engine, and the values that they take and return.

An operation that fails raises one of four errors, each with `engine`, the name of the thing, and `reason`:

- Conflict: the revision is another one. `revision` is the present one, 0 where there is none.
- NotFound: nothing listens on the subject of a request.
- ResourceLimitExceeded: a value, a name or a queue is above its limit.
- Timeout: no answer in time. With `uncertain` true the engine may have done it: read before you repeat a `put`;
  an `append` with the same id can be repeated as it is.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from msgspec import Struct

VALUE_BYTES_MAX = 1_000_000
"""Bytes of a value or payload: the default limit of a NATS server is 1 MiB, headers included."""

REDELIVERY_S = 3.0
"""Seconds of silence of a taker after which its task is delivered again; as long as a lease."""

APPEND_WINDOW_S = 120.0
"""Seconds within which an append with the same id is the same append."""

MESSAGES_MAX = 10_000
"""Number of messages that a subscription holds for its reader; further ones are dropped and counted."""

TIMEOUT_S = 2.0
"""Seconds that an operation may take."""

TTL_MIN_S = 1
"""Seconds of the shortest lease; JetStream counts whole seconds."""


class TlsFiles(Struct, frozen=True):
    """Holds the paths of the trusted certificates (None: those of the system), and of the own one with its key."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class Entry(Struct, frozen=True):
    """Represents a key with its value. `revision` grows over all keys of the engine."""

    key: str
    value: bytes
    revision: int


class Change(Struct, frozen=True):
    """Represents the newest state of a key: `value` None is its end, deleted or expired."""

    key: str
    value: bytes | None
    revision: int


class Taken(Struct, frozen=True):
    """Represents a task that was delivered here. `delivery` counts from 1; `handle` is the engine's own."""

    queue: str
    id: str
    payload: bytes
    delivery: int
    handle: str


class Message(Struct, frozen=True):
    """Represents a published message or a request; `answer` sends the reply to a request, and does nothing otherwise."""

    subject: str
    payload: bytes
    answer: Callable[[bytes], Awaitable[None]]


class Watch(Protocol):
    """Follows the keys below a prefix: first all present ones, then each change, the newest state of a key alone.

    A reader that is slow gets fewer changes, never old ones. The watch survives a lost connection and a server's restart:
    keys that ended meanwhile are reported then.
    """

    async def next(self) -> Change:
        """Returns the next change, waiting for one."""
        ...

    async def synced(self) -> None:
        """Returns once the present keys were all received."""
        ...

    @property
    def unread(self) -> int:
        """Returns how many changes the reader has not taken."""
        ...

    def entries(self) -> dict[str, Entry]:
        """Returns the keys as they are known now."""
        ...

    def lag_s(self) -> float:
        """Returns the seconds since the engine last proved that the watch is alive."""
        ...

    async def close(self) -> None:
        """Ends the watch."""
        ...


class Subscription(Protocol):
    """Receives messages of a subject, at most once each."""

    @property
    def dropped(self) -> int:
        """Returns how many messages the reader was too slow for."""
        ...

    async def next(self) -> Message:
        """Returns the next message, waiting for one."""
        ...

    async def close(self) -> None:
        """Ends the subscription."""
        ...


Outcome = Literal["done", "working", "again"]
"""done: the task leaves the queue. working: it is not delivered again for another REDELIVERY_S. again: it is, at once."""


class Engine(Protocol):
    """Represents a connection to an engine. Names of keys, queues and subjects are words with "/" between."""

    kind: str

    async def get(self, key: str) -> Entry | None:
        """Returns the newest state of a key; None where there is none."""
        ...

    async def put(self, key: str, value: bytes | None, *, revision: int, ttl_s: int | None = None) -> int:
        """Stores a value if the key is at `revision` (0: absent), and returns the new revision; None removes a present key.

        With `ttl_s` it ends by itself unless it is put again in time: a lease.
        """
        ...

    async def watch(self, prefix: str) -> Watch:
        """Follows the keys below `prefix`."""
        ...

    async def append(self, queue: str, id: str, payload: bytes) -> bool:  # noqa: A002  # the word of the table of tasks
        """Stores a task, and returns whether it is new: the same id within APPEND_WINDOW_S is one task."""
        ...

    async def take(self, queue: str, wait_s: float, count_max: int = 1) -> list[Taken]:
        """Returns the oldest tasks that nobody has, as many as there are, waiting up to `wait_s` for the first; none where none came."""
        ...

    async def queued(self, queue: str, count_max: int) -> list[bytes]:
        """Returns the payloads of the oldest tasks that are not done, taken or not: read on demand, at one step a task."""
        ...

    async def settle(self, taken: Taken, outcome: Outcome) -> None:
        """Reports on a task that was taken, without a confirmation: one whose report is lost is delivered again.

        "done" by a late taker ends the task too: records decide which result counts.
        """
        ...

    async def publish(self, subject: str, payload: bytes) -> None:
        """Sends a message to all who listen now; nobody may."""
        ...

    async def subscribe(self, subject: str, *, messages_max: int = MESSAGES_MAX) -> Subscription:
        """Receives the messages and requests of a subject; with "/*" at its end, of all below."""
        ...

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Sends a request to who listens on a subject, and returns the first answer."""
        ...

    # -- the connection

    @property
    def is_connected(self) -> bool:
        """Returns whether the connection is up, as far as this end knows."""
        ...

    async def weaknesses(self) -> tuple[str, ...]:
        """Returns what this engine, as it is set up now, cannot promise: one line each."""
        ...

    async def close(self) -> None:
        """Closes the connection, with its watches and subscriptions."""
        ...
