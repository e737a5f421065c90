"""Decodes `[models.NAME]`, where a model is, what it costs and its limits, and the names by which agents and models refer to it."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal, get_args

from msgspec import Struct

from corral.worker.contract.names import FULL, LOCAL

from ..decoding.decoder import Document, KeyPath, decode_inline
from ..decoding.keys import Key, fields_of, schema_of
from ..decoding.shapes import TEXT, accepts
from ..decoding.values import Refused, above_zero, did_you_mean, duration, each, http_headers, matching, web_url, whole
from ..secrets.secrets import BEGINNING, REFERENCE

Kind = Literal["openai", "anthropic", "gemini"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ADDRESSES: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
"""The address of the provider by kind, where a table has none."""

PRICE_MAX = 1_000_000_000
"""Number of cents per million tokens, at most."""

MODEL_CHARS_MAX = 200
"""Characters of the name that a provider gives a model."""

ALL_TENANTS = "*"
"""Stands for every tenant in `tenants`."""

_COUNT_MAX = 1_000_000_000_000

a_model = matching(FULL, "the name of a model")
a_tenant = matching(r"\*|[A-Za-z][A-Za-z0-9_-]{0,47}", 'the name of a tenant, or "*" for all')
a_provider_name = matching(rf"[^\x00-\x20\x7f]{{1,{MODEL_CHARS_MAX}}}", "the provider's name of a model")


@accepts("cents", {"type": "number", "minimum": 0, "maximum": PRICE_MAX})
def price(raw: object) -> float:
    """Accepts a number of cents per million tokens."""
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 <= raw <= PRICE_MAX:
        raise Refused(f"a price is cents per million tokens, 0 to {PRICE_MAX}")
    return float(raw)


Price = Annotated[float, price]


class Prices(Struct, frozen=True, kw_only=True):
    """Holds cents per million tokens: of input, of input from the provider's cache, of input written to it, of output."""

    input: Price = 0.0
    cached: Price = 0.0
    cache_write: Price = 0.0
    output: Price = 0.0


PRICE_KEYS = fields_of(Prices)


@accepts("table of numbers", lambda: schema_of(Prices))
def price_table(raw: object) -> Prices:
    """Accepts a table of prices; cached input costs as much as other input, where it has no price of its own."""
    found = decode_inline(raw, PRICE_KEYS, "{ input = 250, cached = 125, output = 1000 }")
    given = found.get("input", 0.0)
    return Prices(**{"cached": given, "cache_write": given, **found})


@accepts("string", TEXT)
def provider_key(raw: object) -> str:
    """Accepts the key of a provider, which is shown nowhere."""
    if not isinstance(raw, str) or not re.fullmatch(r"[\x21-\x7e]*", raw):
        raise Refused('write a string without spaces: "${secret:NAME}"', "...")
    if BEGINNING in REFERENCE.sub("", raw):
        raise Refused("write ${secret:NAME}, or ${secret:NAME} within a text", "...")
    return raw


class DeclaredModel(Struct, frozen=True, kw_only=True):
    """Represents `[models.NAME]`; `key` and `headers` have their secrets as `${secret:NAME}`.

    `model` takes the place of the name that a caller gives, "" leaves that. The models of `fallback` are asked in this order
    when it does not answer. `tenants` may use it beside the owner. A limit of 0 is none.
    """

    name: str
    kind: Annotated[Kind, Key("restart")]
    """The shape of its API: chat, responses and embeddings of OpenAI, or messages of Anthropic."""
    base_url: Annotated[str, web_url, Key(default="that of the provider")] = ""
    """The address of the provider, as its own client takes it."""
    key: Annotated[str, provider_key] = ""
    """The key of the provider, which no agent sees: [`${secret:NAME}`](#secrets)."""
    headers: Annotated[dict[str, str], http_headers] = {}
    """Further headers for the provider, with `${secret:NAME}`."""
    model: Annotated[str, a_provider_name] = ""
    """The provider's name of the model, in place of the one that a caller gives."""
    prices: Annotated[Prices, price_table, Key(default="`{}`")] = Prices()
    """Cents per million tokens: `input`, `cached` (read from the provider's cache), `cache_write`, `output`; the two of
    the cache cost as much as `input` unless they are given."""
    fallback: Annotated[tuple[str, ...], each(a_model, "names")] = ()
    """Models of the same kind that answer, in this order, when this one does not or has used up a limit."""
    tenants: Annotated[tuple[str, ...], each(a_tenant, "names")] = ()
    """The [tenants](#tenantsname) whose agents may use it, `"*"` for all."""
    max_tokens_per_minute: Annotated[int, whole(0, _COUNT_MAX)] = 0
    """Tokens of all its callers; 0 is off."""
    max_cost_cents_per_day: Annotated[int, whole(0, _COUNT_MAX)] = 0
    """Cost of all its callers within 24 hours; 0 is off."""
    max_concurrent_calls: Annotated[int, whole(1, 1000)] = 100
    """Calls at a time."""
    max_retries: Annotated[int, whole(0, 10)] = 2
    """Further tries of a call that the provider has not answered, before a byte was passed on."""
    timeout: Annotated[float, duration, above_zero] = 600.0
    """For the beginning of an answer, and between two parts of it."""

    def is_for(self, tenant: str) -> bool:
        """Returns whether agents of a tenant, "" for the owner's, may use it."""
        return not tenant or ALL_TENANTS in self.tenants or tenant in self.tenants

    @property
    def address(self) -> str:
        """Returns the address of the provider, without a slash at the end."""
        return (self.base_url or ADDRESSES[self.kind]).rstrip("/")


def variable(name: str, part: Literal["URL", "KEY"]) -> str:
    """Returns the variable that passes the address or the key of a model: CORRAL_MODEL_GPT_5_URL of "gpt-5"."""
    return f"CORRAL_MODEL_{name.upper().replace('-', '_')}_{part}"


# --- tables ---------------------------------------------------------------------------------------


def decode_models(
    document: Document, tables: Mapping[str, object], tenants: Collection[str]
) -> tuple[dict[str, DeclaredModel], set[str]]:
    """Returns the models of a file, and the names of those whose tables are refused, which are noted."""
    names: dict[str, str] = {}

    def decode(path: KeyPath, name: str, table: object) -> DeclaredModel:
        if not re.fullmatch(LOCAL, name):
            raise document.error(path, name, "a name has 1 to 48 letters, digits, _ and -, and starts with a letter")
        if (other := names.setdefault(variable(name, "URL"), name)) != name:
            raise document.error(path, name, f'the model "{other}" has the same variable, {variable(name, "URL")}')
        return _model(document, path, name, table, tenants)

    found, broken = document.decode_named("models", tables, decode)
    for name, model in found.items():
        for fallback, reason in _unfit(model, found, broken):
            document.note(document.error(("models", name, "fallback"), fallback, reason))
    return found, broken


def check_models(
    names: Collection[str], tenant: str, models: Mapping[str, DeclaredModel], broken: Collection[str] = ()
) -> None:
    """Refuses names that an agent of a tenant ("" for the owner's) may not use; `broken` are those of refused tables."""
    known = [name for name, model in models.items() if model.is_for(tenant)]
    for name in names:
        if name in known or name in broken:
            continue
        guess = did_you_mean(name, known)
        if tenant:
            words = (
                f'no model of the tenant "{tenant}" has this name: its owner allows it by tenants in [models.{name}]'
            )
            raise Refused(f"{words}{guess}", name)
        raise Refused(f"no model has this name: write [models.{name}]{guess}", name)


def _model(document: Document, path: KeyPath, name: str, table: object, tenants: Collection[str]) -> DeclaredModel:
    keys = document.decode(path, table, fields_of(DeclaredModel))
    document.require(path, keys, kind=f'kind = "{KINDS[0]}"')
    model = DeclaredModel(name=name, **keys)
    for tenant in model.tenants:
        if tenant != ALL_TENANTS and tenant not in tenants:
            raise document.error((*path, "tenants"), tenant, f"no tenant has this name: write [tenants.{tenant}]")
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
