"""Defines the methods about memory, sessions and checkpoints."""

from ..control import params, results, state_results
from .faces import faces
from .method import Signature, access, method
from .rules import AGENT, CHECKPOINT, NAME, OPEN, Rule

MEMORY_SESSIONS = method(
    Signature("memory.sessions", params.MemoryListParams, state_results.Sessions),
    access("read", Rule("agent", lists=(("sessions", "agent"),))),
    faces("GET /sessions", "GET /sessions/{agent}", python="list_sessions", command="memory list"),
    "Lists sessions with turns, messages, sizes and last access, the last used first.",
    example={"agent": "crawler"},
)

MEMORY_SHOW = method(
    Signature("memory.show", params.MemoryShowParams, state_results.SessionShown),
    access("read", AGENT),
    faces("GET /sessions/{agent}/{session}", python="show_session", command="memory show"),
    "Returns a session: history, variables and data; counts as an access.",
    example={"agent": "crawler", "session": "customer-42", "last": 10},
)

MEMORY_PUT = method(
    Signature("memory.put", params.MemoryPutParams, results.Done),
    access("operate", AGENT),
    faces("PUT /memory/{agent}/{key}", python="put_memory", command="memory put"),
    "Stores a value under a key of an agent; it is durable when this returns.",
    example={"agent": "crawler", "key": "last-page", "value": {"page": 3}, "ttl_s": 3600.0},
)

MEMORY_GET = method(
    Signature("memory.get", params.MemoryKeyParams, state_results.Value),
    access("read", AGENT),
    faces("GET /memory/{agent}/{key}", python="get_memory", command="memory get"),
    "Returns the value under a key of an agent; null where there is none.",
    example={"agent": "crawler", "key": "last-page"},
)

MEMORY_DELETE = method(
    Signature("memory.delete", params.MemoryKeyParams, results.Done),
    access("operate", AGENT),
    faces("DELETE /memory/{agent}/{key}", python="delete_memory", command="memory rm"),
    "Deletes a key of an agent.",
    example={"agent": "crawler", "key": "last-page"},
)

MEMORY_SEARCH = method(
    Signature("memory.search", params.MemoryFindParams, state_results.Items),
    access("read", AGENT),
    faces("GET /memory/{agent}", python="search_memory", command="memory search"),
    "Returns keys and values of an agent that contain a text, the newest first.",
    example={"agent": "crawler", "query": "page"},
)

MEMORY_CLEAR = method(
    Signature("memory.clear", params.MemoryClearParams, state_results.MemoryRemoved),
    access("operate", AGENT),
    faces(
        "DELETE /sessions/{agent}/{session}", "DELETE /sessions/{agent}", python="clear_memory", command="memory clear"
    ),
    "Deletes a session of an agent with its keys, or all of them; refused while a task works on it.",
    example={"agent": "crawler", "session": "customer-42"},
)

MEMORY_CLEANUP = method(
    Signature("memory.cleanup", params.MemoryCleanupParams, state_results.MemoryRemoved),
    access("operate", AGENT),
    faces("POST /memory/cleanup", python="clean_up_memory", command="memory cleanup"),
    "Removes at once the sessions and keys that have expired, of an agent or of all; returns how many of each.",
    example={"agent": "crawler"},
)

MEMORY_EXPIRE = method(
    Signature("memory.expire", params.MemoryExpireParams, state_results.SessionExpiry),
    access("operate", AGENT),
    faces("POST /sessions/{agent}/{session}/expire", python="expire_session", command="memory expire"),
    "Sets the time after which a session expires; without `ttl_s` only `retention` counts.",
    example={"agent": "crawler", "session": "customer-42", "ttl_s": 3600.0},
)

MEMORY_POOLS = method(
    Signature("memory.pools", params.NoParams, state_results.MemoryPools),
    access("read", OPEN),
    faces("GET /memory/pools", python="memory_pools", command="memory pools"),
    "Lists the memory pools: their limits, the size of their sessions and keys, and the agents in them.",
)

MEMORY_STATS = method(
    Signature("memory.stats", params.MemoryStatsParams, state_results.MemoryStatistics),
    access("read", Rule("agent", lists=(("agents", "agent"),))),
    faces("GET /memory", python="memory_stats", command="memory stats"),
    "Returns the size of sessions and keys by agent, without expired ones, and the bytes of them in the daemon's memory.",
    example={"agent": "crawler"},
)

CHECKPOINT_SAVE = method(
    Signature("checkpoint.save", params.CheckpointSaveParams, state_results.Checkpoints),
    access("operate", NAME),
    faces("POST /checkpoints", "POST /agents/{name}/checkpoint", python="save_state", command="checkpoint save"),
    "Saves a checkpoint of one worker, or of each worker of an agent that is up.",
    example={"name": "crawler", "timeout_s": 10.0},
)

CHECKPOINT_RESTORE = method(
    Signature("checkpoint.restore", params.CheckpointRestoreParams, state_results.CheckpointRestored),
    access("operate", CHECKPOINT, recorded="or-refused", recorded_keys=("worker", "added")),
    faces(
        "POST /checkpoints/{checkpoint}/restore",
        "POST /checkpoints/restore",
        python="restore_agent",
        command="checkpoint restore",
    ),
    """Restores a checkpoint, also another worker's, in a worker; one that does not run starts with it.

    `checkpoint` is the worker's own copy, `live` whether it goes on with it at once. A removed agent is brought back.
    """,
    example={"checkpoint": 7, "name": "crawler-1"},
)

CHECKPOINT_LIST = method(
    Signature("checkpoint.list", params.CheckpointListParams, state_results.Checkpoints),
    access("read", Rule(lists=(("checkpoints", "agent"),))),
    faces("GET /checkpoints", python="list_checkpoints", command="checkpoint list"),
    "Lists checkpoints without their data, newest first.",
    example={"name": "crawler", "limit": 10},
)

CHECKPOINT_SHOW = method(
    Signature("checkpoint.show", params.CheckpointIdParams, state_results.CheckpointShown),
    access("read", CHECKPOINT),
    faces("GET /checkpoints/{checkpoint}", python="show_checkpoint", command="checkpoint show"),
    "Returns one checkpoint with its data.",
    example={"checkpoint": 7},
)

CHECKPOINT_RM = method(
    Signature("checkpoint.rm", params.CheckpointRemoveParams, state_results.CheckpointsRemoved),
    access("operate", CHECKPOINT, recorded="always", recorded_keys=("removed",)),
    faces(
        "DELETE /checkpoints/{checkpoints}", "DELETE /checkpoints", python="remove_checkpoints", command="checkpoint rm"
    ),
    "Removes checkpoints, all or none; one that a worker will start with only with `force`.",
    example={"checkpoints": [7]},
)
