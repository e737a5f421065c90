"""Notes in a file what calls use, before the daemon is told and before the last byte of an answer is passed on.

The file outlives the end of this process and of the daemon by any signal. The daemon opens the file, reads it when
either has died, and removes it. A call has a line when it is passed on, one each second while its answer streams, and one at its
end; the last one counts. Each line has its checksum: one that was not written whole, or was changed, is left out, and its number is told.
"""

import os
import sys
import time
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct

from corral.supervisor.config.declared.models import Prices

from .usage import Usage

CHECKSUM_CHARS = 8


class Account(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Represents what a call counts for: an agent, one of its tasks or none, at the prices of the models that may answer."""

    agent: str
    task: str | None = None
    prices: dict[str, Prices] = {}


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Represents what is known of a call at a moment, in seconds since 1970; the first line has the account, the last the outcome."""

    call: int
    at: float
    model: str
    usage: Usage = Usage()
    is_estimated: bool = False
    outcome: str = ""
    account: Account | None = None


class Noted(NamedTuple):
    """Represents a call of a journal; `end` is the position behind its last line, 0 for one that has not ended."""

    account: Account
    last: Line
    end: int


class Contents(NamedTuple):
    """Represents a journal: its calls, the ended ones first and in order, and the number of lines that cannot be read."""

    calls: list[Noted]
    damaged: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def encoded(line: Line) -> bytes:
    """Returns a line as bytes."""
    text = _encode(line)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def contents(data: bytes) -> Contents:
    """Returns what a journal says."""
    begun: dict[int, tuple[Account, Line]] = {}
    ended: list[Noted] = []
    damaged = position = 0
    for text in data.splitlines(keepends=True):
        position += len(text)
        if text == b"\n":
            continue
        line = _read(text)
        if line is None:
            damaged += 1
            continue
        account = line.account
        if account is None:
            if line.call not in begun:
                damaged += 1
                continue
            account = begun[line.call][0]
        if line.outcome:
            begun.pop(line.call, None)
            ended.append(Noted(account, line, position))
        else:
            begun[line.call] = account, line
    return Contents([*ended, *(Noted(*each, 0) for each in begun.values())], damaged)


def _read(text: bytes) -> Line | None:
    checksum, _, rest = text.partition(b" ")
    body = rest.removesuffix(b"\n")
    try:
        if len(checksum) == CHECKSUM_CHARS and int(checksum, 16) == zlib.crc32(body):
            return _decode(body)
    except (ValueError, msgspec.DecodeError):
        pass
    return None


def prices_of(account: Account, model: str) -> Prices:
    """Returns the prices of the model that has answered a call."""
    found: Mapping[str, Prices] = account.prices
    return found.get(model, Prices())


NOTE_S, NOTE_SHARE = 1.0, 0.1
"""Seconds between two lines of an answer that streams, and their share of the time that it takes already."""


class Journal:
    """Represents one file; calls that have begun in it end in it."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._is_torn = False
        self._calls = 0
        self._is_last = True

    def begin(self, call: int, model: str, size: int, account: Account) -> None:
        """Notes that a call is passed on; its input counts as estimated until more is known."""
        self._calls += 1
        guessed = Usage(input=size)
        self._append(Line(call=call, at=time.time(), model=model, usage=guessed, is_estimated=True, account=account))

    def note(self, call: int, model: str, usage: Usage) -> None:
        """Notes what a call has used until now, as an estimate."""
        self._append(Line(call=call, at=time.time(), model=model, usage=usage, is_estimated=True))

    def end(self, call: int, model: str, usage: Usage, outcome: str, *, is_estimated: bool) -> int:
        """Notes what a call has used, and returns the position behind its line."""
        self._calls -= 1
        line = Line(call=call, at=time.time(), model=model, usage=usage, is_estimated=is_estimated, outcome=outcome)
        self._append(line)
        return self._size

    def retire(self) -> None:
        """Notes that no call begins in it any more."""
        self._is_last = False

    def close_if_over(self) -> bool:
        """Closes it if no call of it is under way, and none begins in it any more; returns whether it is closed."""
        if self._is_last or self._calls or self._fd < 0:
            return False
        os.close(self._fd)
        self._fd = -1
        return True

    def _append(self, line: Line) -> None:
        data = encoded(line)
        if self._is_torn:
            data = b"\n" + data
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            if not self._is_torn:
                sys.stderr.write(f"cannot note calls in a file: {error.strerror}\n")
                sys.stderr.flush()
            self._is_torn = True
            return
        self._size += written
        self._is_torn = written < len(data)
