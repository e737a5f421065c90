"""Keeps the tokens: their SHA-256, rights, agents and ends in the store, all of them in memory for the look-up.

The text of a token exists in the answer to the call that made it, and nowhere else. A look-up finds the digest of
what was sent, and compares it in constant time. A removed, replaced or expired token is none from the next
look-up on. A token of a tenant has its full name, and is none while there is no such tenant. Times are seconds of the Unix epoch, since an end has to survive the daemon.
"""

import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from corral.supervisor.records.store.sealed import seal, unseal
from corral.supervisor.records.store.store import LAST_MOMENT, Store
from corral.worker.contract.errors import Conflict, Corrupted, NotFound, ResourceLimitExceeded
from corral.worker.contract.names import tenant_of
from corral.worker.control.access import NewToken, Rights, TokenRecord

from .scope import bound

PREFIX = "corral_"
"""Beginning of a token's text, by which scanners of repositories know one."""

TOKEN_BYTES = 32
"""Bytes of chance in a token."""

MAX_TOKENS = 1000

USED_S = 60.0
"""Seconds between two notes of the use of a token: no request waits for the disk because of it."""

RESERVED = frozenset({"http.token", "OS_SECURITY_KEY"})
"""Names of tokens that are given from outside the store."""

logger = logging.getLogger(__name__)


class Grant(Struct, frozen=True, kw_only=True):
    """Represents what a token permits.

    `agents` are globs of the agents that its holder may know; None for all, or for all of its tenant.
    """

    name: str
    rights: Rights
    agents: tuple[str, ...] | None = None
    expires_at: float | None = None

    @property
    def tenant(self) -> str:
        """Returns the tenant that it belongs to; "" for the owner's view."""
        return tenant_of(self.name)

    @property
    def globs(self) -> Sequence[str] | None:
        """Returns the globs of the agents that its holder may know, those of its tenant alone where it has one; None for all."""
        return bound(self.agents, self.tenant)


class Kept(Struct, frozen=True, kw_only=True):
    """Represents a token as the store has it: digests in hexadecimal, times in Unix seconds."""

    grant: Grant
    sha256: str
    created_at: float
    created_by: str
    old_sha256: str | None = None
    old_until: float = 0.0


class Entry(NamedTuple):
    """Holds what a digest stands for, until a time or without end."""

    digest: bytes
    grant: Grant
    until: float | None


class Tokens:
    """Holds the tokens of one daemon."""

    def __init__(
        self, store: Store, clock: Callable[[], float] = time.time, is_tenant: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._store = store
        self._clock = clock
        self._is_tenant = is_tenant
        self._kept: dict[str, Kept] = {}
        self._fixed: list[Entry] = []
        self._ended: set[str] = set()  # not valid, though the store may still have them
        self._entries: dict[bytes, Entry] = {}
        self._used: dict[str, float] = {}

    async def load(self) -> None:
        """Reads the tokens; one whose record is damaged is none, and is logged."""
        rows = await self._store.read(
            "SELECT name, record, used_at FROM access_token ORDER BY name LIMIT ?", (MAX_TOKENS,)
        )
        for name, blob, used_at in rows:
            try:
                data = unseal(blob if isinstance(blob, bytes) else b"", f'token "{name}"')
                kept = msgspec.json.decode(data, type=Kept)
            except (Corrupted, msgspec.MsgspecError) as error:
                logger.error('cannot use token "%s": its record is damaged: %s', name, error)
                continue
            self._kept[kept.grant.name] = kept
            if isinstance(used_at, int | float):
                self._used[kept.grant.name] = float(used_at)
        self._index()

    def fix(self, name: str, token: str, rights: Rights) -> None:
        """Adds a token that is kept elsewhere, such as in a file or in the environment."""
        assert name in RESERVED, "no kept token can have its name"
        self._fixed.append(Entry(digest_of(token), Grant(name=name, rights=rights), None))
        self._index()

    def named(self, name: str) -> Grant | None:
        """Returns what the token of a name permits now, as a session asks that was opened with it; None for nothing."""
        entries = [entry for entry in self._entries.values() if entry.grant.name == name]
        now = self._clock()
        valid = (entry.grant for entry in entries if entry.until is None or now < entry.until)
        return next((grant for grant in valid if self._is_owned(grant)), None)

    def find(self, token: str) -> Grant | None:
        """Returns what a token permits now; None if it is none, or no longer valid."""
        return self.permitted(digest_of(token))

    def permitted(self, digest: bytes) -> Grant | None:
        """Returns what the token of a digest permits now; None for nothing. A connection asks at each of its calls."""
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            return None
        now = self._clock()
        if (entry.until is not None and now >= entry.until) or not self._is_owned(entry.grant):
            return None
        self._note_use(entry.grant.name, now)
        return entry.grant

    # -- changes

    async def add(
        self, name: str, rights: Rights, agents: Sequence[str] | None, expires_s: float | None, created_by: str
    ) -> NewToken:
        """Makes a token and returns it with its text; it is on disk by then."""
        if name in self._kept or name in RESERVED:
            words = f'it is there already; "corral token rotate {name}" replaces it'
            raise Conflict(f'cannot add token "{name}": {words}', name=name)
        if len(self._kept) >= MAX_TOKENS:
            raise ResourceLimitExceeded(
                f'cannot add token "{name}": there are {MAX_TOKENS} already', limit="tokens", value=MAX_TOKENS
            )
        now, text = self._clock(), _new_text()
        end = None if expires_s is None else now + expires_s
        grant = Grant(name=name, rights=rights, agents=None if agents is None else tuple(agents), expires_at=end)
        kept = Kept(grant=grant, sha256=digest_of(text).hex(), created_at=now, created_by=created_by)
        await self._store.write(("INSERT INTO access_token (name, record) VALUES (?, ?)", (name, _sealed(kept))))
        self._used.pop(name, None)
        self._keep(kept)
        return _with_text(self._record(kept, now), text)

    async def rotate(self, name: str, overlap_s: float, expires_s: float | None) -> NewToken:
        """Gives a token a new text and returns it; the one before is valid for `overlap_s` more."""
        kept = self._of(name)
        now, text = self._clock(), _new_text()
        grant = kept.grant
        if expires_s is not None:
            grant = replace(grant, expires_at=now + expires_s)
        rotated = replace(
            kept,
            grant=grant,
            sha256=digest_of(text).hex(),
            old_sha256=kept.sha256 if overlap_s else None,
            old_until=_first(now + overlap_s, kept.grant.expires_at),
        )
        await self._store.write(("UPDATE access_token SET record = ? WHERE name = ?", (_sealed(rotated), name)))
        if name not in self._kept:
            raise _not_found(name, self._kept)  # it was removed meanwhile
        self._keep(rotated)
        return _with_text(self._record(rotated, now), text)

    async def remove(self, name: str) -> None:
        """Removes a token: it is invalid before this waits for the disk."""
        self._of(name)
        self._ended.add(name)
        self._index()
        await self._store.write(("DELETE FROM access_token WHERE name = ?", (name,)))
        self._kept.pop(name, None)
        self._ended.discard(name)
        self._used.pop(name, None)
        self._index()

    def list(self, tenant: str | None = None) -> list[TokenRecord]:
        """Returns the kept tokens by name: all, or those of one tenant."""
        now = self._clock()
        names = sorted(n for n in self._kept if tenant is None or tenant_of(n) == tenant)
        return [self._record(self._kept[name], now) for name in names]

    # -- helpers

    def _is_owned(self, grant: Grant) -> bool:
        """Returns whether the tenant of a token is there; that of the owner always is."""
        return not grant.tenant or self._is_tenant(grant.tenant)

    def _of(self, name: str) -> Kept:
        kept = self._kept.get(name)
        if kept is None:
            raise _not_found(name, self._kept)
        return kept

    def _keep(self, kept: Kept) -> None:
        self._kept[kept.grant.name] = kept
        self._ended.discard(kept.grant.name)
        self._index()

    def _index(self) -> None:
        """Makes the look-up table anew: changes are rare."""
        found = {entry.digest: entry for entry in self._fixed}
        for name, kept in self._kept.items():
            if name in self._ended:
                continue
            grant = kept.grant
            digests = [(kept.sha256, grant.expires_at)]
            if kept.old_sha256 is not None:
                digests.append((kept.old_sha256, kept.old_until))
            for text, until in digests:
                digest = bytes.fromhex(text)
                found[digest] = Entry(digest, grant, until)
        self._entries = found

    def _note_use(self, name: str, now: float) -> None:
        if name in RESERVED or now - self._used.get(name, 0.0) < USED_S:
            return
        self._used[name] = now
        self._store.post(("UPDATE access_token SET used_at = ? WHERE name = ?", (now, name)))

    def _record(self, kept: Kept, now: float) -> TokenRecord:
        grant, used = kept.grant, self._used.get(kept.grant.name)
        return TokenRecord(
            name=grant.name,
            rights=grant.rights,
            agents=None if grant.agents is None else list(grant.agents),
            tenant=grant.tenant or None,
            created_at=_stamp(kept.created_at),
            created_by=kept.created_by,
            expires_at=None if grant.expires_at is None else _stamp(grant.expires_at),
            last_used=None if used is None else _stamp(used),
            expired=grant.expires_at is not None and now >= grant.expires_at,
        )


def digest_of(token: str) -> bytes:
    """Returns the SHA-256 of the text of a token."""
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def _new_text() -> str:
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def _sealed(kept: Kept) -> bytes:
    return seal(msgspec.json.encode(kept), compress=False)


def _first(moment: float, end: float | None) -> float:
    return moment if end is None else min(moment, end)


def _with_text(record: TokenRecord, text: str) -> NewToken:
    return NewToken(**asdict(record), token=text)


def _stamp(moment: float) -> str:
    """Returns a time as it is shown, in UTC."""
    at = datetime.fromtimestamp(min(moment, LAST_MOMENT), UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _not_found(name: str, known: Iterable[str]) -> NotFound:
    own = sorted(each for each in known if tenant_of(each) == tenant_of(name))
    return NotFound(f'cannot find token "{name}"', name=name, known=own)
