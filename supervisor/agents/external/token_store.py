"""Keeps the grants of remote MCP servers: an encrypted file each in a folder of the state folder.

The key is the credential KEY_CREDENTIAL of the service manager (systemd-creds(1) can seal it to the machine), else a file
beside the folder, made at the first write. AES-256-GCM binds each file to the name of its server. A write replaces the whole
file at once, so that a grant is the old or the new one after a `kill -9`. No error has a value.
"""

import base64
import binascii
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from corral.mcp.oauth.records import Client, Grant
from corral.supervisor.machine.linux.durable import TEMPORARY, replace_file, sync_folder
from corral.worker.contract.errors import CorralError, Corrupted, Overloaded
from corral.worker.contract.names import SEPARATOR

FOLDER = "tokens.d"
"""Name of the folder in the state folder."""

KEY_FILE = "tokens.key"
"""Name of the file with the key, in the state folder."""

KEY_CREDENTIAL = "corral-tokens-key"
"""Name of the credential with the key: 32 bytes in Base64."""

KEY_BYTES = 32
NONCE_BYTES = 12

MAGIC = b"CRLT\x01"
"""Beginning of a file: its kind, and the version of the format."""

MAX_BYTES = 256 * 1024
"""Bytes of a file."""

JOINT = "+"
"""Stands for the `/` of a full name in the name of its file, which is in no name."""


class Kept(Struct, frozen=True, kw_only=True):
    """Holds what is kept of a server: its grant, or only the client as which corral is registered, and the scopes that were asked for."""

    url: str
    grant: Grant | None = None
    client: Client | None = None
    scope: str = ""
    changed_at: str = ""

    def __repr__(self) -> str:
        """Returns it without its values."""
        return f"Kept(has_grant={self.grant is not None})"


@dataclass(frozen=True)
class TokenStore:
    """Reads and writes the grants of one state folder; `credentials` is the folder of the service manager's credentials."""

    state_dir: Path
    credentials: str | None = None

    def get(self, name: str) -> Kept | None:
        """Returns what is kept of a server; None if there is nothing."""
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _damaged(name, error.strerror or "it cannot be read") from None
        if not data.startswith(MAGIC) or len(data) > MAX_BYTES:
            raise _damaged(name, "it is no file of corral")
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # only where there is a token
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        nonce = data[len(MAGIC) : len(MAGIC) + NONCE_BYTES]
        try:
            key = self._key(is_made=False)
            plain = AESGCM(key).decrypt(nonce, data[len(MAGIC) + NONCE_BYTES :], name.encode())
            return msgspec.json.decode(plain, type=Kept)
        except (InvalidTag, msgspec.DecodeError):  # whose text may have a part of a token
            raise _damaged(name, "it was changed, or the key is another one") from None
        except OSError as error:
            raise _damaged(name, f"the key: {error.strerror}") from None
        except ValueError as error:
            raise _damaged(name, f"the key: {error}") from None

    def names(self) -> list[str]:
        """Returns the names of the servers with a kept token, sorted."""
        try:
            found = os.listdir(self.state_dir / FOLDER)
        except FileNotFoundError:
            return []
        return sorted(each.replace(JOINT, SEPARATOR) for each in found if not each.startswith(TEMPORARY))

    def set(self, name: str, kept: Kept) -> None:
        """Keeps a grant; on disk when this returns."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # as above

        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            sealed = AESGCM(self._key(is_made=True)).encrypt(nonce, msgspec.json.encode(kept), name.encode())
            data = MAGIC + nonce + sealed
            folder = self.state_dir / FOLDER
            folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._path(name), data)
        except (OSError, ValueError) as error:
            raise _unwritten(name, error) from None

    def remove(self, name: str) -> bool:
        """Removes what is kept of a server; returns whether there was anything."""
        try:
            os.unlink(self._path(name))
            sync_folder(self.state_dir / FOLDER)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unwritten(name, error) from None
        return True

    def _key(self, *, is_made: bool) -> bytes:
        """Returns the key; with `is_made` it is made if there is none."""
        if self.credentials is not None:
            try:
                return _key_of(Path(self.credentials, KEY_CREDENTIAL).read_bytes())
            except FileNotFoundError:
                pass
        path = self.state_dir / KEY_FILE
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise ValueError(f"others may use {KEY_FILE}, mode {mode:04o}: chmod 600")
                return _key_of(file.read(1024))
        except FileNotFoundError:
            if not is_made:
                raise
        text = base64.b64encode(secrets.token_bytes(KEY_BYTES))
        replace_file(path, text + b"\n")
        return _key_of(text)

    def _path(self, name: str) -> Path:
        return self.state_dir / FOLDER / name.replace(SEPARATOR, JOINT)


def _key_of(text: bytes) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"it is not {KEY_BYTES} bytes in Base64")
    return key


def _damaged(name: str, why: str) -> Corrupted:
    text = f'cannot read the token of "{name}": {why}; corral mcp login {name}'
    return Corrupted(text, record=f'token "{name}"', reason="token")


def _unwritten(name: str, error: Exception) -> CorralError:
    why = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    return Overloaded(f'cannot keep the token of "{name}": {why}', name=name)
