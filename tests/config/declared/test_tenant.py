"""Tenants and full names, as they are decoded."""

from typing import Any

import pytest

from corral.supervisor.config.declared.tenant import decode_tenant
from corral.supervisor.config.spec import loader
from corral.supervisor.config.spec.job import Schedule
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.config.spec.team import Team
from corral.supervisor.config.spec.workflow import Workflow
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.names import is_tenant_name, local_name, qualified, tenant_of

TEXT = """
[tiers.free]
max_agents = 5
max_memory_bytes = "1GiB"

[tenants.acme]
tier = "free"
max_agents = 7
max_task_duration = "5m"

[tenants.other]

[agents."acme/researcher"]
command = ["x"]
requires = ["time", "cortex"]
stores = ["main"]

[agents.researcher]
command = ["x"]

[agents."acme/writer"]
command = ["x"]

[mcp.servers."acme/time"]
command = ["x"]

[stores."acme/main"]
kind = "sqlite"
url = "/a/b.db"

[teams."acme/desk"]
lead = "writer"
members = ["acme/researcher"]

[workflows."acme/flow"]
[[workflows."acme/flow".steps]]
name = "one"
agent = "desk"
objective = "x"

[schedules."acme/nightly"]
every = "1h"
agent = "writer"
objective = "x"
"""


def decode(text: str) -> Config:
    return loader.decode(text, source="c.toml", directory="/d")


def refused(text: str) -> dict[str, Any]:  # Any: the data of an error
    with pytest.raises(InvalidParams) as caught:
        decode(text)
    return caught.value.data


def test_a_full_name_has_its_tenant_before_the_slash() -> None:
    assert (tenant_of("acme/x"), tenant_of("x")) == ("acme", "")
    assert (local_name("acme/x"), local_name("x")) == ("x", "x")
    assert (qualified("x", "acme"), qualified("b/x", "acme"), qualified("x", "")) == ("acme/x", "b/x", "x")
    assert is_tenant_name("a-1")
    assert not any(map(is_tenant_name, ("", "A", "1a", "a_b", "a/b", "a" * 33, "a\n", "..")))


def test_a_tenant_has_the_limits_of_its_tier_and_its_own_win() -> None:
    acme = decode(TEXT).tenants["acme"]
    assert acme.limits == {"max_agents": 7, "max_memory_bytes": 1 << 30, "max_task_duration": 300.0}
    assert decode(TEXT).tenants["other"].limits == {}


def test_names_in_the_tables_of_a_tenant_are_its_own() -> None:
    config = decode(TEXT)
    spec = config.agents["acme/researcher"]
    assert spec.requires == ("acme/time", "cortex")
    assert spec.stores == ("acme/main",)
    assert spec.store_urls == {"acme/main": "/a/b.db"}
    desk, flow = config.groups["acme/desk"], config.groups["acme/flow"]
    assert isinstance(desk, Team)
    assert isinstance(flow, Workflow)
    assert (desk.lead, desk.members) == ("acme/writer", ("acme/researcher",))
    assert flow.steps[0].agent == "acme/desk"
    nightly = config.schedules["acme/nightly"]
    assert isinstance(nightly, Schedule)
    assert nightly.task.agent == "acme/writer"


def test_a_table_that_was_encoded_decodes_to_the_same() -> None:
    config = decode(TEXT)
    for name in ("acme/researcher", "acme/time"):
        spec = config.agents[name]
        table = loader.to_table(spec, config.defaults)
        again = loader.decode_agent(
            name,
            table,
            kind=spec.kind,
            defaults=config.defaults,
            source=spec.source,
            directory="/d",
            stores=config.stores,
        )
        assert again == spec
    for name, kind in (("acme/desk", "team"), ("acme/flow", "workflow")):
        group = config.groups[name]
        table = loader.group_table(group)
        assert loader.decode_group(name, table, kind=kind, source=group.source) == group


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('[agents."nobody/x"]\ncommand = ["x"]', 'agents."nobody/x"', "nobody"),
        ('[mcp.servers."nobody/x"]\ncommand = ["x"]', 'mcp.servers."nobody/x"', "nobody"),
        ('[stores."nobody/x"]\nkind = "sqlite"\nurl = "/a"', 'stores."nobody/x"', "nobody"),
        ("[tenants.Acme]", "tenants.Acme", "Acme"),
        ('[tenants.acme]\ntier = "gold"', "tenants.acme.tier", "gold"),
        ("[tenants.acme]\nmax_agents = -1", "tenants.acme.max_agents", -1),
        ('[tenants.acme]\n[agents."acme/x/y"]\ncommand = ["x"]', 'agents."acme/x/y"', "acme/x/y"),
        ('[tenants.acme]\n[agents."acme/"]\ncommand = ["x"]', 'agents."acme/"', "acme/"),
        (
            '[tenants.acme]\n[agents.y]\ncommand = ["x"]\n[agents."acme/x"]\ncommand = ["x"]\nrequires = ["y"]',
            'agents."acme/x".requires',
            "acme/y",
        ),
        (
            '[tenants.acme]\n[agents.y]\ncommand = ["x"]\nrequires = ["acme/x"]\n[agents."acme/x"]\ncommand = ["x"]',
            "agents.y.requires",
            "acme/x",
        ),
        (
            '[tenants.a]\n[tenants.b]\n[agents."b/x"]\ncommand = ["x"]\n[teams."a/t"]\nmode = "broadcast"\nmembers = ["b/x"]',
            'teams."a/t".members',
            "b/x",
        ),
    ],
)
def test_a_name_or_a_limit_that_does_not_fit_is_an_error(text: str, key: str, value: object) -> None:
    data = refused(text)
    assert (data["key"], data["value"]) == (key, value)


def test_a_tenant_alone_is_decoded_as_in_a_file() -> None:
    tiers = decode(TEXT).tiers
    assert decode_tenant("big", {"tier": "free"}, tiers).limits["max_agents"] == 5
    with pytest.raises(InvalidParams) as caught:
        decode_tenant("big", {"tier": "gold"}, tiers)
    assert caught.value.data["key"] == "tenants.big.tier"
