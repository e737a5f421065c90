"""Represents a declared model: where it is, what it costs, and which limits it has."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from msgspec import Struct

from corral.worker.contract.names import FULL

from ..decoding.decoder import fields_of
from ..decoding.values import Refused, above_zero, duration, each, http_headers, is_table, matching, web_url, whole
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


class Prices(Struct, frozen=True, kw_only=True):
    """Holds cents per million tokens: of input, of input from the provider's cache, of input written to it, of output."""

    input: float = 0.0
    cached: float = 0.0
    cache_write: float = 0.0
    output: float = 0.0


PRICE_KEYS = Prices.__struct_fields__


def price_table(raw: object) -> Prices:
    """Accepts a table of prices; cached input costs as much as other input, where it has no price of its own."""
    example = "write a table: { input = 250, cached = 125, output = 1000 }"
    if isinstance(raw, Prices):
        return raw
    if not is_table(raw):
        raise Refused(example)
    found: dict[str, float] = {}
    for key, value in raw.items():
        if key not in PRICE_KEYS:
            raise Refused(f"unknown price; known are {', '.join(PRICE_KEYS)}", key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= PRICE_MAX:
            raise Refused(f"a price is cents per million tokens, 0 to {PRICE_MAX}", value)
        found[key] = float(value)
    given = found.get("input", 0.0)
    return Prices(**{"cached": given, "cache_write": given, **found})


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
    kind: Kind
    base_url: Annotated[str, web_url] = ""
    key: Annotated[str, provider_key] = ""
    headers: Annotated[dict[str, str], http_headers] = {}
    model: Annotated[str, a_provider_name] = ""
    prices: Annotated[Prices, price_table] = Prices()
    fallback: Annotated[tuple[str, ...], each(a_model, "names")] = ()
    tenants: Annotated[tuple[str, ...], each(a_tenant, "names")] = ()
    max_tokens_per_minute: Annotated[int, whole(0, _COUNT_MAX)] = 0
    max_cost_cents_per_day: Annotated[int, whole(0, _COUNT_MAX)] = 0
    max_concurrent_calls: Annotated[int, whole(1, 1000)] = 100
    max_retries: Annotated[int, whole(0, 10)] = 2
    timeout: Annotated[float, duration, above_zero] = 600.0

    def is_for(self, tenant: str) -> bool:
        """Returns whether agents of a tenant, "" for the owner's, may use it."""
        return not tenant or ALL_TENANTS in self.tenants or tenant in self.tenants

    @property
    def address(self) -> str:
        """Returns the address of the provider, without a slash at the end."""
        return (self.base_url or ADDRESSES[self.kind]).rstrip("/")


MODEL_KEYS = fields_of(DeclaredModel, without={"name"})


def variable(name: str, part: Literal["URL", "KEY"]) -> str:
    """Returns the variable that passes the address or the key of a model: CORRAL_MODEL_GPT_5_URL of "gpt-5"."""
    return f"CORRAL_MODEL_{name.upper().replace('-', '_')}_{part}"
