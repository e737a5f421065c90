"""Defines the results of the methods `memory.*` and `checkpoint.*`; see `results`."""

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from ..contract.records import CheckpointRecord

Table: TypeAlias = Annotated[dict[str, object], Meta(description="A table of the configuration, as the file has it")]

Event: TypeAlias = Annotated[
    dict[str, object], Meta(description="seq, at, type, agent, worker, incarnation, and the fields of its type")
]

AuditRecord: TypeAlias = Annotated[
    dict[str, object], Meta(description="id, at, action, who, result, hash, and what the action tells")
]


class Session(Struct, frozen=True, kw_only=True):
    """Represents a session without its content; `stored_bytes` is its size in the store, after compression.

    `expires_at` is the time after which it is gone, unless it is used before: the end of its retention, or of its own time.
    """

    agent: str
    session: str
    turns: int
    messages: int
    size_bytes: int
    stored_bytes: int
    created_at: str
    accessed_at: str
    expires_at: str


class Sessions(Struct, frozen=True, kw_only=True):
    """Lists sessions, the last used first."""

    sessions: list[Session]


class SessionShown(Struct, frozen=True, kw_only=True):
    """Represents a session with its content."""

    agent: str
    session: str
    messages: int
    size_bytes: int
    created_at: str
    accessed_at: str
    expires_at: str
    turns: int
    history: list[object]
    variables: dict[str, object]
    data: dict[str, object]


class SessionExpiry(Struct, frozen=True, kw_only=True):
    """Represents the time after which a session is gone, unless it is used before."""

    agent: str
    session: str
    expires_at: str


class Value(Struct, frozen=True, kw_only=True):
    """Represents a value in memory; null where there is none."""

    value: object


class Item(Struct, frozen=True, kw_only=True):
    """Represents a key in memory with its value; `corrupted` is there, and true, where the value was damaged."""

    session: str
    key: str
    value: object
    corrupted: bool | UnsetType = UNSET


class Items(Struct, frozen=True, kw_only=True):
    """Lists keys in memory, the newest first."""

    items: list[Item]


class MemoryRemoved(Struct, frozen=True, kw_only=True):
    """Counts removed sessions and keys."""

    sessions: int
    keys: int


class MemoryPool(Struct, frozen=True, kw_only=True):
    """Represents a memory pool: its limit, and the sessions and keys of its agents, without expired ones.

    `used_bytes` is the sum of `size_bytes`, of the sessions, and `keys_bytes`. `retention_s` null is that of each agent.
    `agents` and `tenants` are those that the caller may know; the numbers are of all.
    """

    name: str
    max_bytes: int
    overflow: Literal["evict", "refuse", "trim"]
    retention_s: float | None
    cleanup_interval_s: float
    used_bytes: int
    sessions: int
    size_bytes: int
    keys: int
    keys_bytes: int
    agents: list[str]
    tenants: list[str]


class MemoryPools(Struct, frozen=True, kw_only=True):
    """Lists memory pools, in the order of the configuration."""

    pools: list[MemoryPool]


class MemoryCache(Struct, frozen=True, kw_only=True):
    """Counts the sessions in the daemon's memory, which are a cache of those in the store."""

    sessions: int
    size_bytes: int
    limit_bytes: int
    hits: int
    misses: int
    evictions: int


class AgentMemory(Struct, frozen=True, kw_only=True):
    """Counts the sessions and keys of an agent; `pool` is the memory pool that it is in."""

    agent: str
    pool: str | None
    keys: int
    keys_bytes: int
    sessions: int
    turns: int
    messages: int
    size_bytes: int


class MemoryStatistics(Struct, frozen=True, kw_only=True):
    """Represents the result of `memory.stats`."""

    pool: MemoryCache
    agents: list[AgentMemory]


class Checkpoints(Struct, frozen=True, kw_only=True):
    """Lists checkpoints."""

    checkpoints: list[CheckpointRecord]


class CheckpointShown(CheckpointRecord, frozen=True, kw_only=True):
    """Represents a checkpoint with its data, which the agent decides."""

    data: object


class CheckpointRestored(Struct, frozen=True, kw_only=True):
    """Represents the result of `checkpoint.restore`: the worker's own copy, and whether it goes on with it at once.

    `added` says that there was no such agent, and that it was brought back with the table that it had.
    """

    agent: str
    worker: str
    added: bool
    checkpoint: CheckpointRecord
    live: bool


class CheckpointsRemoved(Struct, frozen=True, kw_only=True):
    """Represents the result of `checkpoint.rm`: the removed numbers."""

    removed: list[int]
