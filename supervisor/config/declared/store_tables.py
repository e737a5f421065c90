"""Decodes the tables `[stores.NAME]`, and resolves the names by which agents refer to them."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import PurePosixPath

from corral.worker.contract.names import FULL, tenant_of

from ..decoding.decoder import Document
from ..decoding.values import Refused
from .stores import KINDS, STORE_KEYS, DeclaredStore, checked, is_relative, variable_of

_NAME = re.compile(FULL)


def decode_stores(document: Document, tables: Mapping[str, object]) -> tuple[dict[str, DeclaredStore], set[str]]:
    """Returns the stores of a file, and the names of those whose tables are refused, which are noted."""
    found: dict[str, DeclaredStore] = {}
    names: dict[tuple[str, str], str] = {}
    for name, table in tables.items():
        with document.collecting():
            if not _NAME.fullmatch(name):
                reason = "a name has 1 to 48 letters, digits, _ and -, and starts with a letter"
                raise document.error(("stores", name), name, reason)
            if (other := names.setdefault((tenant_of(name), variable_of(name)), name)) != name:
                reason = f'the store "{other}" has the same variable, {variable_of(name)}'
                raise document.error(("stores", name), name, reason)
            found[name] = _store(document, name, table)
    return found, {*tables} - found.keys()


def urls_of(
    names: Collection[str], stores: Mapping[str, DeclaredStore], broken: Collection[str] = ()
) -> dict[str, str]:
    """Returns the addresses of stores by name; `broken` are names whose tables were refused."""
    for name in names:
        if name not in stores and name not in broken:
            near = get_close_matches(name, [*stores, *broken], 1)
            guess = f'; did you mean "{near[0]}"?' if near else ""
            raise Refused(f"no store has this name: write [stores.{name}]{guess}", name)
    return {name: stores[name].url for name in names if name in stores}


def _store(document: Document, name: str, table: object) -> DeclaredStore:
    path = ("stores", name)
    keys = document.decode(path, table, STORE_KEYS)
    for key, example in (("kind", f'kind = "{KINDS[0]}"'), ("url", 'url = "..."')):
        if key not in keys:
            raise document.error((*path, key), None, f"it is missing: write {example}")
    store = DeclaredStore(name=name, **keys)
    kind, url = store.kind, str(store.url)
    if is_relative(kind, url):
        url = str(PurePosixPath(document.part_of(path).directory, url))
    try:
        checked(kind, url)
    except Refused as refused:
        raise document.error((*path, "url"), None, refused.reason) from None
    return DeclaredStore(name=name, kind=kind, url=url)
