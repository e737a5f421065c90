"""Memory pools, as they are decoded, and the pools that agents and tenants name."""

from typing import Any

import pytest

from corral.supervisor.config.spec import loader
from corral.supervisor.config.spec.spec import Config
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

TEXT = """
[pools.all]
max_bytes = "1MiB"

[pools."acme/own"]
max_bytes = "64KiB"
overflow = "trim"
retention = "1h"
cleanup_interval = "1m"

[memory]
pool = "all"

[tenants.acme]
pool = "acme/own"

[tenants.other]
pool = "all"

[agents.plain]
command = ["x"]

[agents."acme/quiet"]
command = ["x"]
memory = { max_keys = 5 }

[agents."acme/named"]
command = ["x"]
memory = { pool = "own" }
"""


def decode(text: str) -> Config:
    return loader.decode(text, source="c.toml", directory="/d")


def test_a_pool_has_its_bytes_and_the_rest_by_default() -> None:
    pools = decode(TEXT).pools
    assert (pools["all"].max_bytes, pools["all"].overflow) == (1 << 20, "evict")
    assert (pools["all"].retention, pools["all"].cleanup_interval) == (0, 0)
    own = pools["acme/own"]
    assert (own.overflow, own.retention, own.cleanup_interval) == ("trim", 3600, 60)


def test_an_agent_has_the_pool_of_its_section_and_one_of_a_tenant_only_its_own() -> None:
    agents = decode(TEXT).agents
    assert agents["plain"].memory.pool == "all"
    assert agents["acme/quiet"].memory.pool is None
    assert agents["acme/named"].memory.pool == "acme/own"


@pytest.mark.parametrize("name", ["plain", "acme/quiet", "acme/named"])
def test_a_table_that_was_encoded_decodes_to_the_same(name: str) -> None:
    config = decode(TEXT)
    spec = config.agents[name]
    again = loader.decode_agent(
        name,
        loader.to_table(spec, config.defaults),
        kind="agent",
        defaults=config.defaults,
        source=spec.source,
        directory="/d",
        pools=config.pools,
    )
    assert again == spec


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("[pools.p]", "pools.p.max_bytes", None),
        ('[pools.p]\nmax_bytes = "1 Byte"', "pools.p.max_bytes", "1 Byte"),
        ("[pools.p]\nmax_bytes = 1023", "pools.p.max_bytes", 1023),
        ('[pools.p]\nmax_bytes = 1024\noverflow = "drop"', "pools.p.overflow", "drop"),
        ('[pools."x y"]\nmax_bytes = 1024', 'pools."x y"', "x y"),
        ('[pools."nobody/p"]\nmax_bytes = 1024', 'pools."nobody/p"', "nobody"),
        ('[memory]\npool = "nowhere"', "memory.pool", "nowhere"),
        ('[tenants.acme]\npool = "nowhere"', "tenants.acme.pool", "nowhere"),
        ('[tenants.a]\n[tenants.b]\npool = "a/p"\n[pools."a/p"]\nmax_bytes = 1024', "tenants.b.pool", "a/p"),
        ('[agents.x]\ncommand = ["x"]\nmemory = { pool = "nowhere" }', "agents.x.memory.pool", "nowhere"),
        (
            '[tenants.a]\n[pools."a/p"]\nmax_bytes = 1024\n[agents.x]\ncommand = ["x"]\nmemory = { pool = "a/p" }',
            "agents.x.memory.pool",
            "a/p",
        ),
        (
            '[tenants.a]\n[pools.p]\nmax_bytes = 1024\n[agents."a/x"]\ncommand = ["x"]\nmemory = { pool = "p" }',
            'agents."a/x".memory.pool',
            "a/p",
        ),
    ],
)
def test_a_pool_that_does_not_fit_or_is_not_there_is_an_error(text: str, key: str, value: object) -> None:
    with pytest.raises(InvalidParams) as caught:
        decode(text)
    data: Any = caught.value.data
    assert (data["key"], data["value"]) == (key, value)


def test_an_agent_that_is_added_names_a_pool_that_is_there() -> None:
    config = decode(TEXT)
    with pytest.raises(InvalidParams) as caught:
        loader.decode_agent(
            "x",
            {"command": ["x"], "memory": {"pool": "nowhere"}},
            kind="agent",
            defaults=config.defaults,
            source="store",
            directory="/d",
            pools=config.pools,
        )
    assert caught.value.data["key"] == "agents.x.memory.pool"
