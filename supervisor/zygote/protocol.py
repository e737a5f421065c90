"""What a zygote says to the daemon, decoded and held against what such a thing can be.

The other end runs an agent's code as the agent's user: it may send anything. What is no message of these, or has
numbers that nothing can have, is Nonsense; whether a message is in its place, `zygote` knows.

The messages are those of `process`, and beside them:

    → spawn: argv is empty; a fourth descriptor is the open cgroup.procs of the worker's group, where it has one
    → rename {unit, to}    → check {seq}
    ← loaded {duration_s, rss_bytes, modules, files, unfit: [{kind, what, module}]}    once, before anything else
    ← checked {seq, changed: [paths]}    ← changed {paths}
"""

import os
import socket
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ..launcher.main_loop import ROOTS
from ..launcher.protocol import DESCRIPTORS, MESSAGE_BYTES

TEXT_CHARS = 1000
"""Of what a failed start says."""
FACTS = frozenset(("key", "path", "needs_abi", "abi"))
"""Of a failed start (see `birth`); others are dropped."""


Count = Annotated[int, Meta(ge=0)]
Word = Annotated[str, Meta(max_length=TEXT_CHARS)]
Seconds = Annotated[float, Meta(ge=0)]


class Unfit(Struct, frozen=True):
    """Something that forbids a fork: `kind` is one of `preload.Unfit`; `module` is that whose import brought it."""

    kind: Word
    what: Word
    module: Word


class Loaded(Struct, frozen=True, kw_only=True, tag="loaded", tag_field="op"):
    """What the imports have cost, and what of them forbids a fork."""

    duration_s: Seconds
    rss_bytes: Count
    modules: Count
    files: Count = 0
    unfit: list[Unfit] = []


class Spawned(Struct, frozen=True, tag="spawned", tag_field="op"):
    """A unit has become a worker."""

    unit: str
    pid: Count
    starttime: Count


class Failed(Struct, frozen=True, tag="failed", tag_field="op"):
    """A unit has become none, and why."""

    unit: str
    stage: str
    errno: int
    message: str
    retryable: bool
    data: dict[str, str] = {}

    @property
    def facts(self) -> dict[str, object]:
        """What `SpawnFailed` gets of it."""
        known = {key: value for key, value in self.data.items() if key in FACTS}
        stage = self.stage[:TEXT_CHARS]
        return {**known, "stage": stage, "errno": self.errno, "retryable": self.retryable}

    @property
    def words(self) -> str:
        """Its message as one line."""
        return " ".join(self.message.split())[:TEXT_CHARS]


class Usage(Struct, frozen=True):
    """What a dead process and all that it had waited for have used."""

    utime_s: Seconds
    stime_s: Seconds
    maxrss_bytes: Count


class Exited(Struct, frozen=True, tag="exited", tag_field="op"):
    """The leader of a unit is dead."""

    unit: str
    status: int
    rusage: Usage

    def __post_init__(self) -> None:
        """Refuses what is no status of an end."""
        status = self.status
        if not 0 <= status <= 0xFFFF or not (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            raise ValueError(f"{status} is no status of an end")


class Emptied(Struct, frozen=True, tag="emptied", tag_field="op"):
    """Nothing is left of a unit."""

    unit: str


class Roots(Struct, frozen=True, tag="roots", tag_field="op"):
    """What has escaped of a unit."""

    unit: str
    pids: Annotated[list[Count], Meta(max_length=ROOTS)]


class Pong(Struct, frozen=True, tag="pong", tag_field="op"):
    """The answer to a ping."""

    seq: int


class Checked(Struct, frozen=True, tag="checked", tag_field="op"):
    """Which sources are not what was imported, asked for."""

    seq: int
    changed: list[str]


class Changed(Struct, frozen=True, tag="changed", tag_field="op"):
    """Which sources are not what was imported, found by itself."""

    paths: list[str]


Message = Loaded | Spawned | Failed | Exited | Emptied | Roots | Pong | Checked | Changed

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Nonsense(Exception):
    """It says what it cannot say: a sentence about it."""


def decoded(packet: bytes) -> Message:
    """The message in a packet.

    Raises:
        Nonsense: it is none.
    """
    try:
        return _decoder.decode(packet)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Nonsense(f"no message: {error}") from error


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """The next packet, and what came with it, to be closed.

    Raises:
        BlockingIOError, EOFError: as `packet.receive`.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        MESSAGE_BYTES,
        socket.CMSG_SPACE(4 * DESCRIPTORS),
        socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
    )
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += memoryview(payload[: len(payload) - len(payload) % 4]).cast("i")
    if not data and not fds:
        raise EOFError
    return b"" if flags & socket.MSG_TRUNC else data, fds


def check(is_so: bool, accusation: str) -> None:
    """Nothing, where it is so.

    Raises:
        Nonsense: it is not.
    """
    if not is_so:
        raise Nonsense(accusation)
