"""Decodes the tables `[models.NAME]`, and resolves the names by which agents and models refer to them."""

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from corral.worker.contract.names import LOCAL

from ..decoding.decoder import Document
from ..decoding.values import Refused
from .models import ALL_TENANTS, KINDS, MODEL_KEYS, DeclaredModel, variable

_NAME = re.compile(LOCAL)


def decode_models(
    document: Document, tables: Mapping[str, object], tenants: Collection[str]
) -> tuple[dict[str, DeclaredModel], set[str]]:
    """Returns the models of a file, and the names of those whose tables are refused, which are noted."""
    found: dict[str, DeclaredModel] = {}
    names: dict[str, str] = {}
    for name, table in tables.items():
        with document.collecting():
            if not _NAME.fullmatch(name):
                reason = "a name has 1 to 48 letters, digits, _ and -, and starts with a letter"
                raise document.error(("models", name), name, reason)
            if (other := names.setdefault(variable(name, "URL"), name)) != name:
                reason = f'the model "{other}" has the same variable, {variable(name, "URL")}'
                raise document.error(("models", name), name, reason)
            found[name] = _model(document, name, table, tenants)
    for name, model in found.items():
        for fallback, reason in _unfit(model, found, {*tables} - found.keys()):
            document.note(document.error(("models", name, "fallback"), fallback, reason))
    return found, {*tables} - found.keys()


def check_models(
    names: Collection[str], tenant: str, models: Mapping[str, DeclaredModel], broken: Collection[str] = ()
) -> None:
    """Refuses names that an agent of a tenant ("" for the owner's) may not use; `broken` are those of refused tables."""
    known = [name for name, model in models.items() if model.is_for(tenant)]
    for name in names:
        if name in known or name in broken:
            continue
        near = get_close_matches(name, known, 1)
        guess = f'; did you mean "{near[0]}"?' if near else ""
        if tenant:
            words = (
                f'no model of the tenant "{tenant}" has this name: its owner allows it by tenants in [models.{name}]'
            )
            raise Refused(f"{words}{guess}", name)
        raise Refused(f"no model has this name: write [models.{name}]{guess}", name)


def _model(document: Document, name: str, table: object, tenants: Collection[str]) -> DeclaredModel:
    path = ("models", name)
    keys = document.decode(path, table, MODEL_KEYS)
    if "kind" not in keys:
        raise document.error((*path, "kind"), None, f'it is missing: write kind = "{KINDS[0]}"')
    model = DeclaredModel(name=name, **keys)
    for tenant in model.tenants:
        if tenant != ALL_TENANTS and tenant not in tenants:
            reason = f"no tenant has this name: write [tenants.{tenant}]"
            raise document.error((*path, "tenants"), tenant, reason)
    return model


def _unfit(
    model: DeclaredModel, models: Mapping[str, DeclaredModel], broken: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yields the fallbacks that cannot stand in for a model, each with the reason."""
    for name in model.fallback:
        other = models.get(name)
        if name == model.name:
            yield name, "a model is no fallback of itself"
        elif other is None and name not in broken:
            yield name, f"no model has this name: write [models.{name}]"
        elif other is not None and other.kind != model.kind:
            yield name, f'it is of kind "{other.kind}", and calls of "{model.kind}" cannot go there'
