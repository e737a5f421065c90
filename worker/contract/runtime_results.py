"""Defines the results of the methods that show and change what runs as a whole: `agent.list`, `agent.set`, `runtime.stats`.

Keys may be added to a result, never changed or removed. Knows no method.
"""

from msgspec import Struct

from .records import AgentStatus


class Agents(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.list`."""

    agents: list[AgentStatus]


class AgentSet(Struct, frozen=True, kw_only=True):
    """Represents the result of `agent.set`: `changed` are the keys whose values differ from before."""

    agent: AgentStatus
    changed: list[str]
    etag: str


class Counted(Struct, frozen=True, kw_only=True):
    """Represents the components of one kind: their number and their names."""

    count: int
    ids: list[str]


class RuntimeStatistics(Struct, frozen=True, kw_only=True):
    """Represents the result of `runtime.stats`."""

    agents: Counted
    teams: Counted
    workflows: Counted
    databases: Counted
