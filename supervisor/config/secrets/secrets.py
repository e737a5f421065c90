"""Resolves references to secrets, and masks values that look like secrets.

`${secret:NAME}` is the one form that is expanded, in values of environments, of headers and of addresses of stores. A secret is read when
a process is started and is kept nowhere, so that the next start has the one that is there then. No error and
no log has a value. This module must not know which process gets which secret.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.worker.contract import codec
from corral.worker.contract.errors import SpawnFailed
from corral.worker.contract.names import qualified, tenant_of

from .store import FOLDER, SecretStore

REFERENCE = re.compile(r"\$\{secret:([A-Za-z_][A-Za-z0-9_.-]*)\}")

BEGINNING = "${secret:"
"""The beginning of a reference; a malformed one is a mistake, and no plain value."""

MAX_BYTES = 1024 * 1024
"""Bytes of the file of secrets, and of one credential: systemd has the same bound for all of them."""

MAX_DEPTH = 40
"""Number of levels that are masked: no accepted table has more, and the walk must not exhaust the stack."""

TELLING = re.compile(
    "token|secret|password|passwd|passphrase|(api|access|private)[_-]?key|credential|authorization|cookie",
    re.IGNORECASE,
)
"""Words in the name of a key that hide its value."""

IN_ADDRESS = re.compile(r"(?P<before>://)[^/?#@\s]*(?=@)|(?P<name>[?&][^=&#\s]{1,128}=)[^&#\s]+")
"""Parts of an address that may be a secret: userinfo, and the members of its query."""

TELLING_IN_ADDRESS = re.compile(f"{TELLING.pattern}|^.(key|auth|sig|signature|code|pwd|pass)=$", re.I)

HIDDEN = frozenset({"env", "environment", "headers", "http_headers"})
"""Keys that hide all values below them, whatever their shape: also in the error about that shape."""

MASK = "***"


@dataclass(frozen=True)
class Secrets:
    """Reads the secrets that a daemon can reach: kept ones, those of `[daemon] secrets_file`, then the service manager's.

    `folder` is that of the credentials of systemd.exec(5), `$CREDENTIALS_DIRECTORY`; `store` has those that were set
    by command.
    """

    file: str | None = None
    folder: str | None = None
    store: SecretStore | None = None

    def expand(self, values: Mapping[str, str], owner: str, what: str) -> dict[str, str]:
        """Returns the values with each reference replaced by its secret, which is taken as it is."""
        if not any(BEGINNING in value for value in values.values()):
            return dict(values)
        stored: dict[str, str] | None = None
        expanded: dict[str, str] = {}
        for name, value in values.items():
            here = _Place(owner, what, name)
            names = list(_names(value, here))
            if names and stored is None:
                stored = self._stored(here)
            found = {each: self._secret(each, stored or {}, here) for each in names}
            expanded[name] = _filled(value, found)
        return expanded

    @classmethod
    def of(cls, file: str | None, environ: Mapping[str, str], state_dir: Path) -> "Secrets":
        """Makes the secrets of a daemon with this `secrets_file`, environment and state folder."""
        return cls(file, environ.get("CREDENTIALS_DIRECTORY"), SecretStore(state_dir / FOLDER))

    def listed(self) -> list[dict[str, object]]:
        """Returns the name, the place that counts and the scope of each secret, without a value; of an unreadable one, the reason."""
        found: dict[str, dict[str, object]] = {}
        for name in [] if self.store is None else self.store.names():
            found[name] = {"name": name, "source": "kept", **self._scope(name)}
        try:
            in_file = self._stored(_Place("", "secret", ""))
        except SpawnFailed:  # "corral doctor" says why
            in_file = {}
        for name in in_file:
            found.setdefault(name, {"name": name, "source": "secrets_file"})
        for name in _file_names(self.folder):
            found.setdefault(name, {"name": name, "source": "credentials"})
        return [found[name] for name in sorted(found)]

    def _scope(self, name: str) -> dict[str, object]:
        assert self.store is not None, "the caller has looked"
        try:
            kept = self.store.get(name)
        except (OSError, ValueError) as error:
            return {"problem": _why(error)}
        return {} if kept is None else {"agents": kept.agents, "changed_at": kept.changed_at}

    def problems(self, values: Mapping[str, str], owner: str, what: str) -> list[str]:
        """Returns a line for each value that cannot be expanded now."""
        found: list[str] = []
        for name, value in values.items():
            try:
                self.expand({name: value}, owner, what)
            except SpawnFailed as error:
                found.append(error.message)
        return found

    def _stored(self, here: "_Place") -> dict[str, str]:
        if self.file is None:
            return {}
        try:
            return _parse(read_text(self.file, is_private=True, encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise here.error(f'secrets_file "{self.file}": {_why(error)}') from None

    def _secret(self, name: str, stored: Mapping[str, str], here: "_Place") -> str:
        """Returns the value of a secret; the name that a tenant's agent or server gives is one of the tenant, which are all kept."""
        tenant = tenant_of(here.owner)
        name = qualified(name, tenant)
        value = self._kept(name, here)
        if value is None and not tenant:
            value = stored.get(name)
        if value is None and not tenant and self.folder is not None:
            value = self._credential(name, here)
        if value is None:
            places = f'"corral secret set {name}" keeps one' if tenant else self._places
            raise here.error(f'there is no secret "{name}"; {places}', secret=name)
        if "\0" in value:
            raise here.error(f'the secret "{name}" has a NUL', secret=name)
        return value

    def _kept(self, name: str, here: "_Place") -> str | None:
        if self.store is None:
            return None
        try:
            kept = self.store.get(name)
        except (OSError, ValueError) as error:
            raise here.error(f'the secret "{name}": {_why(error)}', secret=name) from None
        if kept is None:
            return None
        if not kept.is_for(here.owner):
            words = f'the secret "{name}" is for {", ".join(kept.agents)} alone'
            raise here.error(words, secret=name, agents=kept.agents)
        return kept.value

    def _credential(self, name: str, here: "_Place") -> str | None:
        assert self.folder is not None, "the caller has looked"
        try:
            text = read_text(os.path.join(self.folder, name))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise here.error(f'credential "{name}": {_why(error)}', secret=name) from None
        return text.removesuffix("\n")

    @property
    def _places(self) -> str:
        places = [] if self.file is None else [f'"{self.file}"']
        places += [] if self.folder is None else ["the service manager's credentials"]
        places += [] if self.store is None else ['those of "corral secret set"']
        if not places:
            return "[daemon] secrets_file is not set, and the service manager has given no credentials"
        return f"looked in {' and '.join(places)}"


@dataclass(frozen=True)
class _Place:
    """Names the value that is being expanded, for errors."""

    owner: str
    what: str
    name: str

    def error(self, why: str, **data: object) -> SpawnFailed:
        facts = {"agent": self.owner, self.what: self.name, **data}
        return SpawnFailed(f'cannot expand {self.what} "{self.name}" of "{self.owner}": {why}', **facts)


def read_text(path: str, *, is_private: bool = False, encoding: str = "utf-8") -> str:
    """Reads a file of at most MAX_BYTES, which has to be its owner's alone where `is_private`."""
    # Without waiting: opening a pipe without a writer would block.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if is_private and found.st_uid not in (0, os.geteuid()):
            raise ValueError(f"it belongs to uid {found.st_uid}: chown it to the daemon's user")
        if is_private and found.st_mode & 0o077:
            raise ValueError(f"others may use it, mode {stat.S_IMODE(found.st_mode):04o}: chmod 600")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:  # whose text has the bytes
        raise ValueError("it is not UTF-8") from None


def referred(values: Iterable[str]) -> set[str]:
    """Returns the names of the secrets that values name."""
    return {match[1] for value in values for match in REFERENCE.finditer(value)}


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)


def _file_names(folder: str | None) -> list[str]:
    try:
        return [] if folder is None else os.listdir(folder)
    except OSError:
        return []


def is_reference(value: str) -> bool:
    """Returns whether a value names a secret, or begins as if."""
    return BEGINNING in value


def _filled(value: str, secrets: Mapping[str, str]) -> str:
    return REFERENCE.sub(lambda match: secrets[match[1]], value)


def _names(value: str, here: _Place) -> Iterator[str]:
    for match in REFERENCE.finditer(value):
        yield match[1]
    if BEGINNING in REFERENCE.sub("\0", value):
        raise here.error(
            "${secret:NAME} is malformed; a name has letters, digits, _ . and -, and no digit, . or - first"
        )


def _parse(text: str) -> dict[str, str]:
    """Parses `NAME=VALUE` lines; `#` begins a comment line, nothing is quoted or expanded."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.removesuffix("\r").partition("=")
        if not equals or not name.strip():
            raise ValueError(f"line {number} has no NAME=VALUE")
        found[name.strip()] = value
    return found


def masked(value: object, key: str = "", depth: int = MAX_DEPTH) -> object:
    """Returns a JSON value without values of environments, and without those under keys that name secrets."""
    if not depth and isinstance(value, dict | list):
        return MASK
    if (table := codec.as_object(value)) is not None:
        hidden = _hides(key) or _differs(key)
        return {name: MASK if hidden else masked(each, name, depth - 1) for name, each in table.items()}
    if (items := codec.as_array(value)) is not None:
        return [masked(each, key, depth - 1) for each in items]
    if value is not None and (_hides(key) or _differs(key)):
        return MASK
    return masked_address(value) if isinstance(value, str) else value


def masked_address(text: str) -> str:
    """Returns the text without userinfo and query values of addresses, which may be secrets."""
    return IN_ADDRESS.sub(_masked_part, text) if "://" in text else text


def _masked_part(found: re.Match[str]) -> str:
    if found["before"]:
        return f"{found['before']}{MASK}"
    name = found["name"]
    return f"{name}{MASK}" if TELLING_IN_ADDRESS.search(name) else found[0]


def _differs(key: str) -> bool:
    return TELLING.search(key) is not None


def _hides(key: str) -> bool:
    """Returns whether a key hides all values below it; `process.environment` does as well."""
    return key.rpartition(".")[2].lower() in HIDDEN
