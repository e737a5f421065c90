"""Defines the results of the methods `memory.*` and `checkpoint.*`; see `results`."""

from typing import Annotated, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from ..contract.records import CheckpointRecord

Table: TypeAlias = Annotated[
    dict[str, object], Meta(description="A table of the configuration, as the file has it")
]

Event: TypeAlias = Annotated[
    dict[str, object],
    Meta(description="seq, at, type, agent, worker, incarnation, and the fields of its type"),
]

AuditRecord: TypeAlias = Annotated[
    dict[str, object],
    Meta(description="id, at, action, who, result, hash, and what the action tells"),
]


class Session(Struct, frozen=True, kw_only=True):
    """Represents a session without its content; `stored_bytes` is its size in the store, after compression."""

    agent: str
    session: str
    turns: int
    messages: int
    size_bytes: int
    stored_bytes: int
    created_at: str
    accessed_at: str


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
    turns: int
    history: list[object]
    variables: dict[str, object]
    data: dict[str, object]


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
    """Counts the sessions in the daemon's memory, which are a cache of those in the store."""

    sessions: int
    size_bytes: int
    limit_bytes: int
    hits: int
    misses: int
    evictions: int


class AgentMemory(Struct, frozen=True, kw_only=True):
    """Counts the sessions and keys of an agent."""

    agent: str
    keys: int
    keys_bytes: int
    sessions: int
    turns: int
    messages: int
    size_bytes: int


class MemoryStatistics(Struct, frozen=True, kw_only=True):
    """Represents the result of `memory.stats`."""

    pool: MemoryPool
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
