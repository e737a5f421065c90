"""Declarations of models, their figures and prices, and the keys of workers."""

import pytest

from corral.supervisor.config.declared.models import Prices
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.models.gateway.keys import Claim, Keys
from corral.supervisor.models.gateway.usage import Usage, usage_of
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

TWO = '[models.a]\nkind = "openai"\n[models.b]\nkind = "anthropic"\n[tenants.acme]\n'


def refused(text: str) -> InvalidParams:
    with pytest.raises(InvalidParams) as caught:
        decode(text, source="c.toml", directory="/")
    return caught.value


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[models.a]\n", "models.a.kind"),
        ('[models.a]\nkind = "openai"\nprices = { input = -1 }\n', "models.a.prices.input"),
        ('[models.a]\nkind = "openai"\nprices = { outputs = 1 }\n', "models.a.prices.outputs"),
        ('[models.a]\nkind = "openai"\nfallback = ["a"]\n', "models.a.fallback"),
        (TWO.replace('"openai"\n', '"openai"\nfallback = ["b"]\n'), "models.a.fallback"),
        (TWO.replace('"openai"\n', '"openai"\nfallback = ["c"]\n'), "models.a.fallback"),
        (TWO.replace('"openai"\n', '"openai"\ntenants = ["other"]\n'), "models.a.tenants"),
        ('[models.a-b]\nkind = "openai"\n[models.a_b]\nkind = "openai"\n', "models.a_b"),
        ('[models.a]\nkind = "openai"\nkey = "a b"\n', "models.a.key"),
        (f'{TWO}[agents.x]\ncommand = ["x"]\nmodels = ["c"]\n', "agents.x.models"),
        ('[agents.x]\nprotocol = "webhook"\nurl = "http://x"\nmemo = true\n', "agents.x.memo"),
        ('[agents.x]\nprotocol = "a2a"\nurl = "http://x"\nmemo = true\n', "agents.x.memo"),
        ('[agents.x]\ncommand = ["x"]\nprotocol = "none"\nmemo = true\n', "agents.x.memo"),
        (f'{TWO}[agents."acme/x"]\ncommand = ["x"]\nmodels = ["a"]\n', "agents.acme/x.models"),
    ],
)
def test_a_mistake_is_reported_by_its_key(text: str, key: str) -> None:
    error = refused(text)
    assert str(error.data["key"]).replace('"', "") == key
    assert "a b" not in error.message


def test_a_tenant_may_use_what_the_owner_allows() -> None:
    text = TWO.replace('"openai"\n', '"openai"\ntenants = ["acme"]\n')
    text += '[agents."acme/x"]\ncommand = ["x"]\nmodels = ["a"]\n'
    config = decode(text, source="c.toml", directory="/")
    assert config.agents["acme/x"].models == ("a",)


def test_both_shapes_of_figures_become_the_same_numbers() -> None:
    chat = {"prompt_tokens": 50, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 20}}
    response = {"input_tokens": 50, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 20}}
    message = {"input_tokens": 30, "cache_read_input_tokens": 20, "output_tokens": 7}
    expected = Usage(input=30, cached=20, output=7)
    assert usage_of("openai", chat) == usage_of("openai", response) == expected
    assert usage_of("anthropic", message) == expected
    assert usage_of("openai", {"prompt_tokens": 5, "total_tokens": 5}) == Usage(input=5)
    assert usage_of("openai", None) is None
    assert usage_of("openai", {"prompt_tokens": "5", "completion_tokens": -1}) == Usage()


def test_cost_is_by_million_tokens() -> None:
    usage = Usage(input=1_000_000, cached=2_000_000, cache_write=500_000, output=100_000)
    prices = Prices(input=250, cached=25, cache_write=300, output=1000)
    assert usage.cost_cents(prices) == 250 + 50 + 150 + 100
    assert usage.tokens == 3_600_000


def test_a_key_names_its_worker_and_cannot_be_made_up() -> None:
    keys = Keys()
    key = keys.of("acme/crawler-0#3.7")
    assert keys.read(key) == Claim("acme/crawler-0#3.7", "")
    assert keys.read(f"{key}.12ab") == Claim("acme/crawler-0#3.7", "12ab")
    name, signature = key.split(".")
    other = keys.of("acme/crawler-1#3.7").split(".")[0]
    for made_up in ("", "corral-", name, f"{other}.{signature}", f"{key}x", key[7:], "corral-é.é"):
        assert keys.read(made_up) is None
    assert Keys().read(key) is None
