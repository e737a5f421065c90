"""Decodes `[stores.NAME]` and the names by which agents refer to stores: reads addresses, and hides what may be a secret in them."""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, NamedTuple, get_args
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from corral.worker.contract.names import FULL, local_name, tenant_of

from ..decoding.decoder import Document, KeyPath
from ..decoding.keys import Key, fields_of
from ..decoding.shapes import TEXT, accepts
from ..decoding.values import Refused, did_you_mean
from ..secrets.secrets import BEGINNING, REFERENCE

Kind = Literal["sqlite", "postgres", "redis", "http", "files"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SCHEMES: Mapping[Kind, Mapping[str, int]] = {
    "postgres": {"postgres": 5432, "postgresql": 5432},
    "redis": {"redis": 6379, "rediss": 6379},
    "http": {"http": 80, "https": 443},
}
"""The schemes of addresses with a host, each with its usual port. A driver may follow, behind a +."""

VARIABLE = "CORRAL_STORE_"
"""The beginning of the variables that pass the addresses of stores to a process."""

URL_CHARS_MAX = 4096

_REFUSED_CHARS = re.compile(r"[\x00-\x20\x7f\\]")


@accepts("address or path", TEXT)
def store_url(raw: object) -> str:
    """Accepts a text that may be an address or a path; it is never repeated, since it may have a password."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise Refused("write an address or a path as a string", "..." if raw else raw)
    if len(raw) > URL_CHARS_MAX:
        raise Refused(f"write at most {URL_CHARS_MAX} characters", "...")
    if BEGINNING in REFERENCE.sub("", raw):
        raise Refused("write ${secret:NAME}, or ${secret:NAME} within a text", "...")
    return raw


class DeclaredStore(Struct, frozen=True, kw_only=True):
    """Represents a declared store; `url` has its secrets as `${secret:NAME}`, and an absolute path."""

    name: str
    kind: Kind
    """What the address has to be, and how it is probed."""
    url: Annotated[str, store_url, Key("restart")]
    """Its address, with [`${secret:NAME}`](#secrets) where it has one."""

    @property
    def shown(self) -> str:
        """Returns the address without what may be a secret."""
        return shown(self.kind, self.url)


class Place(NamedTuple):
    """Represents where a store is: a path, or a host and a TCP port."""

    path: str = ""
    host: str = ""
    port: int = 0


def variable_of(name: str) -> str:
    """Returns the variable that passes the address of a store: CORRAL_STORE_MAIN_DB of "main-db" and of "acme/main-db"."""
    return VARIABLE + local_name(name).upper().replace("-", "_")


def checked(kind: Kind, url: str) -> None:
    """Refuses an address that no secret can make right; one that begins with a secret is not known yet."""
    if not REFERENCE.match(url):
        place_of(kind, REFERENCE.sub("0", url))


def place_of(kind: Kind, url: str) -> Place:
    """Returns where a store is, from its address with the secrets in it."""
    if kind in SCHEMES:
        return _network_place(SCHEMES[kind], url)
    return Place(path=_path(kind, url))


def shown(kind: Kind, url: str) -> str:
    """Returns an address without userinfo, query and fragment; a path as it is."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        found = REFERENCE.match(url) if kind in SCHEMES else None
        return url if kind not in SCHEMES else found[0] if found else ""
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    if kind not in SCHEMES:
        return f"{scheme}://{rest}"
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def is_relative(kind: Kind, url: str) -> bool:
    """Returns whether the text is a path that is relative to the folder of its file."""
    is_plain = kind not in SCHEMES and "://" not in url
    return is_plain and not url.startswith("/") and not REFERENCE.match(url)


def _network_place(ports: Mapping[str, int], url: str) -> Place:
    example = f'write "{next(iter(ports))}://HOST:PORT/..."'
    if _REFUSED_CHARS.search(url):
        raise Refused(f"{example} without spaces and backslashes", "...")
    scheme, mark, rest = url.partition("://")
    usual = ports.get(scheme.partition("+")[0])
    if not mark or usual is None:
        raise Refused(example, "...")
    # Behind a stray /, ? or # of a password, the rest of it would be shown as a path.
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        raise Refused('write "@", "/", "?" and "#" of a password as %40, %2F, %3F and %23', "...")
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port
    except ValueError:  # whose text has the address
        host, port = None, None
    if not host:
        raise Refused(example, "...")
    return Place(host=host, port=usual if port is None else port)


def _path(kind: Kind, url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if not mark:
        path = url
    elif scheme == "file":
        path = unquote(rest.partition("?")[0])
    elif kind == "sqlite" and scheme.partition("+")[0] == "sqlite" and rest.startswith("/"):
        path = rest[1:].partition("?")[0]
    else:
        path = ""
    if not path.startswith("/") or "\0" in path:
        also = ' or "sqlite:////PATH"' if kind == "sqlite" else ""
        raise Refused(f'write an absolute path, "file:///PATH"{also}', "...")
    return path


# --- tables ---------------------------------------------------------------------------------------


def decode_stores(document: Document, tables: Mapping[str, object]) -> tuple[dict[str, DeclaredStore], set[str]]:
    """Returns the stores of a file, and the names of those whose tables are refused, which are noted."""
    names: dict[tuple[str, str], str] = {}

    def decode(path: KeyPath, name: str, table: object) -> DeclaredStore:
        if not re.fullmatch(FULL, name):
            raise document.error(path, name, "a name has 1 to 48 letters, digits, _ and -, and starts with a letter")
        if (other := names.setdefault((tenant_of(name), variable_of(name)), name)) != name:
            raise document.error(path, name, f'the store "{other}" has the same variable, {variable_of(name)}')
        return _store(document, path, name, table)

    return document.decode_named("stores", tables, decode)


def urls_of(
    names: Collection[str], stores: Mapping[str, DeclaredStore], broken: Collection[str] = ()
) -> dict[str, str]:
    """Returns the addresses of stores by name; `broken` are names whose tables were refused."""
    for name in names:
        if name not in stores and name not in broken:
            guess = did_you_mean(name, [*stores, *broken])
            raise Refused(f"no store has this name: write [stores.{name}]{guess}", name)
    return {name: stores[name].url for name in names if name in stores}


def _store(document: Document, path: KeyPath, name: str, table: object) -> DeclaredStore:
    keys = document.decode(path, table, fields_of(DeclaredStore))
    document.require(path, keys, kind=f'kind = "{KINDS[0]}"', url='url = "..."')
    store = DeclaredStore(name=name, **keys)
    kind, url = store.kind, str(store.url)
    if is_relative(kind, url):
        url = str(PurePosixPath(document.part_of(path).directory, url))
    try:
        checked(kind, url)
    except Refused as refused:
        raise document.error((*path, "url"), None, refused.reason) from None
    return DeclaredStore(name=name, kind=kind, url=url)
