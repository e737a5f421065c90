"""Defines the methods about memory, sessions and checkpoints."""

from ..control.params import (
    CheckpointIdParams,
    CheckpointListParams,
    CheckpointRemoveParams,
    CheckpointRestoreParams,
    CheckpointSaveParams,
    MemoryCleanupParams,
    MemoryClearParams,
    MemoryExpireParams,
    MemoryFindParams,
    MemoryKeyParams,
    MemoryListParams,
    MemoryPutParams,
    MemoryShowParams,
    MemoryStatsParams,
    NoParams,
)
from ..control.results import Done
from ..control.state_results import (
    CheckpointRestored,
    Checkpoints,
    CheckpointShown,
    CheckpointsRemoved,
    Items,
    MemoryPools,
    MemoryRemoved,
    MemoryStatistics,
    SessionExpiry,
    Sessions,
    SessionShown,
    Value,
)
from .faces import faces
from .method import method
from .rules import AGENT, CHECKPOINT, NAME, OPEN, Rule

MEMORY_SESSIONS = method(
    "memory.sessions",
    "read",
    MemoryListParams,
    Sessions,
    scope=Rule("agent", lists=(("sessions", "agent"),)),
    faces=faces("GET /sessions", "GET /sessions/{agent}", python="list_sessions", command="memory list"),
    doc="Lists sessions with turns, messages, sizes and last access, the last used first.",
    example={"agent": "crawler"},
)

MEMORY_SHOW = method(
    "memory.show",
    "read",
    MemoryShowParams,
    SessionShown,
    scope=AGENT,
    faces=faces("GET /sessions/{agent}/{session}", python="show_session", command="memory show"),
    doc="Returns a session: history, variables and data; counts as an access.",
    example={"agent": "crawler", "session": "customer-42", "last": 10},
)

MEMORY_PUT = method(
    "memory.put",
    "operate",
    MemoryPutParams,
    Done,
    scope=AGENT,
    faces=faces("PUT /memory/{agent}/{key}", python="put_memory", command="memory put"),
    doc="Stores a value under a key of an agent; it is durable when this returns.",
    example={"agent": "crawler", "key": "last-page", "value": {"page": 3}, "ttl_s": 3600.0},
)

MEMORY_GET = method(
    "memory.get",
    "read",
    MemoryKeyParams,
    Value,
    scope=AGENT,
    faces=faces("GET /memory/{agent}/{key}", python="get_memory", command="memory get"),
    doc="Returns the value under a key of an agent; null where there is none.",
    example={"agent": "crawler", "key": "last-page"},
)

MEMORY_DELETE = method(
    "memory.delete",
    "operate",
    MemoryKeyParams,
    Done,
    scope=AGENT,
    faces=faces("DELETE /memory/{agent}/{key}", python="delete_memory", command="memory rm"),
    doc="Deletes a key of an agent.",
    example={"agent": "crawler", "key": "last-page"},
)

MEMORY_SEARCH = method(
    "memory.search",
    "read",
    MemoryFindParams,
    Items,
    scope=AGENT,
    faces=faces("GET /memory/{agent}", python="search_memory", command="memory search"),
    doc="Returns keys and values of an agent that contain a text, the newest first.",
    example={"agent": "crawler", "query": "page"},
)

MEMORY_CLEAR = method(
    "memory.clear",
    "operate",
    MemoryClearParams,
    MemoryRemoved,
    scope=AGENT,
    faces=faces(
        "DELETE /sessions/{agent}/{session}", "DELETE /sessions/{agent}", python="clear_memory", command="memory clear"
    ),
    doc="Deletes a session of an agent with its keys, or all of them; refused while a task works on it.",
    example={"agent": "crawler", "session": "customer-42"},
)

MEMORY_CLEANUP = method(
    "memory.cleanup",
    "operate",
    MemoryCleanupParams,
    MemoryRemoved,
    scope=AGENT,
    faces=faces("POST /memory/cleanup", python="clean_up_memory", command="memory cleanup"),
    doc="Removes at once the sessions and keys that have expired, of an agent or of all; returns how many of each.",
    example={"agent": "crawler"},
)

MEMORY_EXPIRE = method(
    "memory.expire",
    "operate",
    MemoryExpireParams,
    SessionExpiry,
    scope=AGENT,
    faces=faces("POST /sessions/{agent}/{session}/expire", python="expire_session", command="memory expire"),
    doc="Sets the time after which a session is gone, from now on; without `ttl_s` only `retention` counts.",
    example={"agent": "crawler", "session": "customer-42", "ttl_s": 3600.0},
)

MEMORY_POOLS = method(
    "memory.pools",
    "read",
    NoParams,
    MemoryPools,
    scope=OPEN,
    faces=faces("GET /memory/pools", python="memory_pools", command="memory pools"),
    doc="Lists the memory pools: their limits, the size of their sessions and keys, and the agents in them.",
)

MEMORY_STATS = method(
    "memory.stats",
    "read",
    MemoryStatsParams,
    MemoryStatistics,
    scope=Rule("agent", lists=(("agents", "agent"),)),
    faces=faces("GET /memory", python="memory_stats", command="memory stats"),
    doc="Returns the size of sessions and keys by agent, without expired ones, and the bytes of them in the daemon's memory.",
    example={"agent": "crawler"},
)

CHECKPOINT_SAVE = method(
    "checkpoint.save",
    "operate",
    CheckpointSaveParams,
    Checkpoints,
    scope=NAME,
    faces=faces("POST /checkpoints", "POST /agents/{name}/checkpoint", python="save_state", command="checkpoint save"),
    doc="Saves a checkpoint of one worker, or of each worker of an agent that is up.",
    example={"name": "crawler", "timeout_s": 10.0},
)

CHECKPOINT_RESTORE = method(
    "checkpoint.restore",
    "operate",
    CheckpointRestoreParams,
    CheckpointRestored,
    recorded="or-refused",
    recorded_keys=("worker", "added"),
    scope=CHECKPOINT,
    faces=faces(
        "POST /checkpoints/{checkpoint}/restore",
        "POST /checkpoints/restore",
        python="restore_agent",
        command="checkpoint restore",
    ),
    doc="""Restores a checkpoint, also another worker's, in a worker; one that does not run begins with it.

    `checkpoint` is the worker's own copy, `live` whether it goes on with it at once. A removed agent is brought back.
    """,
    example={"checkpoint": 7, "name": "crawler-1"},
)

CHECKPOINT_LIST = method(
    "checkpoint.list",
    "read",
    CheckpointListParams,
    Checkpoints,
    scope=Rule(lists=(("checkpoints", "agent"),)),
    faces=faces("GET /checkpoints", python="list_checkpoints", command="checkpoint list"),
    doc="Lists checkpoints without their data, newest first.",
    example={"name": "crawler", "limit": 10},
)

CHECKPOINT_SHOW = method(
    "checkpoint.show",
    "read",
    CheckpointIdParams,
    CheckpointShown,
    scope=CHECKPOINT,
    faces=faces("GET /checkpoints/{checkpoint}", python="show_checkpoint", command="checkpoint show"),
    doc="Returns one checkpoint with its data.",
    example={"checkpoint": 7},
)

CHECKPOINT_RM = method(
    "checkpoint.rm",
    "operate",
    CheckpointRemoveParams,
    CheckpointsRemoved,
    recorded="always",
    recorded_keys=("removed",),
    scope=CHECKPOINT,
    faces=faces(
        "DELETE /checkpoints/{checkpoints}", "DELETE /checkpoints", python="remove_checkpoints", command="checkpoint rm"
    ),
    doc="Removes checkpoints, all or none; one that a worker is to begin with only with `force`.",
    example={"checkpoints": [7]},
)
