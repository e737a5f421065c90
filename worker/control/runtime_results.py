"""Defines the results of `agent.list`, `agent.set`, `runtime.stats`, `store.list`, `template.list` and `models.list`, which show and change what runs as a whole.

Keys may be added to a result, never changed or removed. Knows no method.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from ..contract.records import AgentStatus

Table: TypeAlias = Annotated[dict[str, object], Meta(description="A table of the configuration, as the file has it")]


class Agents(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.list`."""

    agents: list[AgentStatus]


class AgentSet(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.set`: `changed` are the keys whose values differ from before.

    A team or workflow has no `agent`. `revision` is the number of its last revision; while `rolling`, new workers are brought up,
    and the former table is in force.
    """

    agent: AgentStatus | UnsetType = UNSET
    changed: list[str]
    etag: str
    revision: int
    rolling: bool = False


class _Keyed(Struct, frozen=True):
    """Lets a program read the fields by their keys in JSON, too: `stats["agents"]["count"]`."""

    def __getitem__(self, key: str) -> Any:  # Any: each key has a type of its own
        if key not in self.__struct_fields__:
            raise KeyError(key)
        return getattr(self, key)


class Counted(_Keyed, frozen=True, kw_only=True):
    """Represents the components of one kind: their number and their names."""

    count: int
    ids: list[str]


class RuntimeStatistics(_Keyed, frozen=True, kw_only=True):
    """Represents the result of `runtime.stats`."""

    agents: Counted
    teams: Counted
    workflows: Counted
    databases: Counted


class Store(Struct, frozen=True, kw_only=True):
    """Represents a declared store: `url` without userinfo, query and secrets; `reason` tells why it is down or unknown."""

    name: str
    kind: Literal["sqlite", "postgres", "redis", "http", "files"]
    url: str
    state: Literal["up", "down", "unused", "unknown"]
    reason: str
    used_by: list[str]


class Stores(Struct, frozen=True, kw_only=True):
    """Represents the result of `store.list`."""

    stores: list[Store]


class TemplateParam(Struct, frozen=True, kw_only=True):
    """Represents a parameter of a template: its JSON Schema, and whether it has to be given."""

    name: str
    schema: Table
    required: bool


class Template(Struct, frozen=True, kw_only=True):
    """Represents a template: its file, the template that it begins with, its parameters, and the agents that have it."""

    name: str
    source: str
    base: str | None
    description: str
    params: list[TemplateParam]
    used_by: list[str]


class Templates(Struct, frozen=True, kw_only=True):
    """Represents the result of `template.list`."""

    templates: list[Template]


class TemplateUse(Struct, frozen=True, kw_only=True):
    """Represents the template of an agent: `params` with their defaults, and `spec`, what both make together."""

    name: str
    source: str | None
    params: Table
    spec: Table


class ModelLimits(Struct, frozen=True, kw_only=True):
    """Represents the limits of a model that are set, beside what is used of them."""

    max_tokens_per_minute: int = 0
    tokens_last_minute: int = 0
    max_cost_cents_per_day: int = 0


class Model(Struct, frozen=True, kw_only=True):
    """Represents a declared model, and what the agents in `used_by` have used of it since midnight, UTC.

    `calls_estimated` are those whose provider has not told the usage. `reason` tells why it is down.
    """

    name: str
    kind: Literal["openai", "anthropic", "gemini"]
    url: str
    model: str
    state: Literal["up", "down", "unused"]
    reason: str
    used_by: list[str]
    fallback: list[str]
    calls_today: int
    calls_failed_today: int
    calls_estimated_today: int
    tokens_today: int
    cost_cents_today: float
    limits: ModelLimits


class ModelsGateway(Struct, frozen=True, kw_only=True):
    """Represents the process that passes calls on: `pid` is null until a worker needs it, `restarts` counts deaths."""

    pid: int | None
    in_flight: int
    restarts: int


class Models(Struct, frozen=True, kw_only=True):
    """Represents the result of `models.list`."""

    models: list[Model]
    gateway: ModelsGateway
