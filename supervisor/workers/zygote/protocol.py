"""Decodes and validates the messages of a zygote to the daemon.

The other end runs an agent's code as the agent's user: it may send anything. An unknown message, or one with
impossible numbers, is InvalidMessage; `client` decides whether a message is in its place.

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

from corral.supervisor.machine.launcher.main_loop import ROOTS
from corral.supervisor.machine.launcher.protocol import DESCRIPTORS, MESSAGE_BYTES

UNREQUESTED = (256.0, 20.0)
"""Token bucket of unrequested messages: capacity, and refill a second for the zygote and each unit."""

TEXT_CHARS = 1000
"""Characters of a message about a failed start."""
FACTS = frozenset(("key", "path", "needs_abi", "abi"))
"""Facts of a failed start (see `child_setup`); others are dropped."""


Count = Annotated[int, Meta(ge=0)]
Word = Annotated[str, Meta(max_length=TEXT_CHARS)]
Seconds = Annotated[float, Meta(ge=0)]


class Unfit(Struct, frozen=True):
    """Describes an obstacle to forking: `kind` is one of `fork_safety.Unfit`; `module` is the one that created it."""

    kind: Word
    what: Word
    module: Word


class Loaded(Struct, frozen=True, kw_only=True, tag="loaded", tag_field="op"):
    """Reports the cost of the imports, and obstacles to forking."""

    duration_s: Seconds
    rss_bytes: Count
    modules: Count
    files: Count = 0
    unfit: list[Unfit] = []


class Spawned(Struct, frozen=True, tag="spawned", tag_field="op"):
    """Reports that a unit has become a worker."""

    unit: str
    pid: Count
    starttime: Count


class Failed(Struct, frozen=True, tag="failed", tag_field="op"):
    """Reports that a unit has not become a worker, and why."""

    unit: str
    stage: str
    errno: int
    message: str
    retryable: bool
    data: dict[str, str] = {}

    @property
    def facts(self) -> dict[str, object]:
        """Returns the data of a `SpawnFailed`."""
        known = {key: value for key, value in self.data.items() if key in FACTS}
        return {**known, "stage": self.stage[:TEXT_CHARS], "errno": self.errno, "retryable": self.retryable}

    @property
    def words(self) -> str:
        """Returns its message as one line."""
        return " ".join(self.message.split())[:TEXT_CHARS]


class Usage(Struct, frozen=True):
    """Holds the resources that a dead process and its reaped children have used."""

    utime_s: Seconds
    stime_s: Seconds
    maxrss_bytes: Count


class Exited(Struct, frozen=True, tag="exited", tag_field="op"):
    """Reports that the leader of a unit is dead."""

    unit: str
    status: int
    rusage: Usage

    def __post_init__(self) -> None:
        """Rejects a number that is no wait status of an exit."""
        status = self.status
        if not 0 <= status <= 0xFFFF or not (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            raise ValueError(f"{status} is no status of an end")


class Emptied(Struct, frozen=True, tag="emptied", tag_field="op"):
    """Reports that no process of a unit is left."""

    unit: str


class Roots(Struct, frozen=True, tag="roots", tag_field="op"):
    """Reports the escaped processes of a unit."""

    unit: str
    pids: Annotated[list[Count], Meta(max_length=ROOTS)]


class Pong(Struct, frozen=True, tag="pong", tag_field="op"):
    """Answers a ping."""

    seq: int


class Checked(Struct, frozen=True, tag="checked", tag_field="op"):
    """Answers a check with the sources that differ from the imported ones."""

    seq: int
    changed: list[str]


class Changed(Struct, frozen=True, tag="changed", tag_field="op"):
    """Reports sources that differ from the imported ones, unasked."""

    paths: list[str]


Message = Loaded | Spawned | Failed | Exited | Emptied | Roots | Pong | Checked | Changed

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class InvalidMessage(Exception):
    """Raised for an invalid message; its text describes the fault."""


def decoded(packet: bytes) -> Message:
    """Decodes the message in a packet."""
    try:
        return _decoder.decode(packet)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidMessage(f"no message: {error}") from error


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Returns the next packet and its descriptors, which the caller closes."""
    data, ancillary, flags, _ = sock.recvmsg(
        MESSAGE_BYTES, socket.CMSG_SPACE(4 * DESCRIPTORS), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    )
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += memoryview(payload[: len(payload) - len(payload) % 4]).cast("i")
    if not data and not fds:
        raise EOFError
    return b"" if flags & socket.MSG_TRUNC else data, fds


def check(is_so: bool, accusation: str) -> None:
    """Requires a condition."""
    if not is_so:
        raise InvalidMessage(accusation)


class MessageLimit:
    """Limits the messages that nobody has requested, with a token bucket."""

    def __init__(self, now: float) -> None:
        self._tokens, self._counted_s = UNREQUESTED[0], now

    def count(self, now: float, units: int) -> None:
        """Counts a message of a zygote with this number of units."""
        gained = (now - self._counted_s) * UNREQUESTED[1] * (1 + units)
        self._tokens = min(UNREQUESTED[0], self._tokens + gained) - 1
        self._counted_s = now
        check(self._tokens >= 0, "too many unrequested messages")
