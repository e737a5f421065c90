"""Lists every type of event that the daemon publishes, with its meaning, its fields, and those that agents may see.

The bus holds its publishers to it, and the page of events is made from it. It decides nothing else, and knows
no publisher.
"""

import re
from functools import lru_cache
from typing import NamedTuple

TYPE_CHARS = 128
"""Characters of a type that an agent may give an event."""

SKIPPED = "events.skipped"
EXPIRED = "events.expired"

_GRAMMAR = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class Field(NamedTuple):
    """Represents one field of an event; `kind` names its JSON type or its unit."""

    name: str
    kind: str
    meaning: str


class EventType(NamedTuple):
    """Represents one type of event.

    `stored` is "yes", "no", or when. `subject` states which of agent and worker the event names. `shown`
    are the fields that workers of other agents may see, None where they do not see the event at all.
    """

    name: str
    meaning: str
    subject: str
    fields: tuple[Field, ...] = ()
    stored: str = "yes"
    shown: frozenset[str] | None = None

    @property
    def field_names(self) -> frozenset[str]:
        """Returns the names of `fields`."""
        return frozenset(field.name for field in self.fields)


DAEMON = "the daemon"
AGENT = "agent"
_REVISION = Field("revision", "number or null", "the number of its revision")
_GROUP = "agent: the name of the team or workflow"
_NAMED = "agent: the name of the agent, server, team or workflow"
_SERVED = "agent: the name of the agent, team or workflow"
WORKER = "agent, worker"
LIFE = "agent, worker, incarnation"
TASK = "agent; worker once it has one"

_ALL: frozenset[str] = frozenset()
"""The event may be seen, and has no fields that may."""

_DURABLE = "but for tasks that are not durable"
_REASON = Field("reason", "text", "the cause, as text")
_CHECK = Field("check", "text or null", "the health check's name; null: the worker gave up")
_MESSAGE = Field("message", "text", "the error, as text")
_FAILURES = Field("failures", "count", "number in a row")
_TASK = (
    Field("task", "text", "the task's id"),
    Field("attempt", "count", "number of the attempt, from 1; 0 before the first"),
)
_QUESTION = (Field("approval", "number", "the question's number"), Field("task", "text", "the task's id"))
_SESSION = Field("session", "text", "its name")
_TENANT = Field("tenant", "text", "its name")
_SCHEDULE = Field("schedule", "text", "its name")
_WHOSE = "agent, unless the task is for a capability"
_EXCESS = (
    Field("key", "text", "the key in `[resources]`, or max_cost_cents_per_day"),
    Field("limit", "number", "its value: bytes, seconds, cents or a count, by its key"),
    Field("used", "number or null", "the value found, in the same unit; null where unknown"),
    _REASON,
)
_SAVED = Field(
    "checkpoint", "number or null", "the checkpoint that its next incarnation begins with; null: it saved none"
)
_PART = (
    Field("part", "text", "`store`, `journal` or `telemetry`"),
    Field("stalled_s", "seconds", "age of the oldest waiting write"),
    Field(
        "lost", "count", "number of posted records (events among them), lines or spans lost since the last such event"
    ),
)

_TYPES = (
    EventType("agent.activated", "A connection to an address of its `listen` starts it.", AGENT, shown=_ALL),
    EventType("agent.added", "An agent or an MCP server was added to the running set.", AGENT,
              (Field("kind", "text", "`agent` or `mcp`"),), shown=frozenset({"kind"})),
    EventType("agent.changed", "A reload has changed its configuration.", AGENT, (
        Field("effect", "text", "`live`, or `restart`: its workers are replaced"),
        Field("keys", "list of text", "the keys that have changed"),
    )),
    EventType("agent.cold", "Its workers start as processes of their own from now on, not as forks.", AGENT, (_REASON,)),
    EventType("agent.draining", "A worker finishes its tasks and is restarted for a changed configuration, because no second one can run beside it.",
              "agent, worker", (_REVISION, _REASON)),
    EventType("agent.hibernated", "A worker has saved a checkpoint, and its process is ended until it is woken.", LIFE,
              (_SAVED,)),
    EventType("agent.holding", "A part of its workers was replaced; the rest waits for a promotion.", AGENT, (
        _REVISION, Field("workers", "list of text", "the ids of the new workers"),
    )),
    EventType("agent.http_closed", "Its service over HTTP has left an address; requests under way are answered.", _SERVED,
              (Field("address", "text", "where it was reached"),)),
    EventType("agent.http_failed", "Its service over HTTP cannot listen at its address; it is tried again, and reported once for each reason.",
              _SERVED, (Field("address", "text", "the address"), _REASON)),
    EventType("agent.http_opened", "It is served over HTTP.", _SERVED, (Field("address", "text", "where it is reached"),)),
    EventType("agent.listen_failed", "An address of its `listen` is not available; it is tried again, and reported once for each reason.",
              _SERVED, (Field("address", "text", "the address"), _REASON)),
    EventType("agent.paused", "A worker is frozen.", LIFE, shown=_ALL),
    EventType("agent.removed", "An agent or an MCP server was removed from the running set.", AGENT, shown=_ALL),
    EventType("agent.renewal", "The zygote of its workers is replaced; present workers are replaced one after the other.",
              AGENT, (
        Field("ok", "boolean", "whether it could be imported; if not, the workers go on as they are"),
        Field("reason", "text", "the change; or why it could not be imported"),
    )),
    EventType("agent.rolled", "A changed configuration is in force: its new workers have their places.", AGENT,
              (_REVISION, Field("reason", "text", "empty, or why it needed no new worker"))),
    EventType("agent.rolling", "Its workers are being replaced for a changed configuration.", AGENT, (_REVISION,)),
    EventType("agent.switched", "New workers have their places: tasks and calls go to them, and the former ones finish theirs.", AGENT, (
        _REVISION, Field("workers", "list of text", "the ids of the workers"),
    )),
    EventType("agent.taken_back", "A changed configuration has not come up, or was given up: the former one is in force.", AGENT,
              (_REVISION, _REASON)),
    EventType("agent.tasks_failing", "Too many of its tasks have failed within a window; repeated after each further window.",
              AGENT, (
        Field("failures", "count", "alert_task_failures"),
        Field("window_s", "seconds", "alert_task_failures_window"),
        _REASON,
    )),
    EventType("agent.tasks_recovered", "Fewer of its tasks have failed within the last window.", AGENT, (
        Field("failures", "count", "within the window"),
        Field("window_s", "seconds", "alert_task_failures_window"),
    )),
    EventType("agent.reset", "Its failures were forgotten, by `reset`.", WORKER),
    EventType("agent.resumed", "A worker runs again.", LIFE, shown=_ALL),
    EventType("agent.scaled", "It has another number of workers; or the same, where tasks wait and it can have no more.",
              AGENT, (
        Field("instances", "count", "number of workers now"),
        Field("before", "count", "number before"),
        _REASON,
    ), shown=frozenset({"instances", "before"})),
    EventType("agent.signalled", "A signal was sent to a worker's leader.", LIFE,
              (Field("signal", "text", "such as `SIGHUP`"),)),
    EventType("agent.spare_lost", "A worker that was forked ahead has died, the first of several in a row.", AGENT, (_REASON,)),
    EventType("agent.warm", "Its zygote has imported its modules: its workers are forks from now on.", AGENT, (
        Field("duration_s", "seconds", "duration of the imports"),
        Field("rss_bytes", "bytes", "memory of the zygote"),
    )),
    EventType("agent.woken", "A hibernated worker is started: by `wake`, by `start`, or because a task waits for it.",
              LIFE, (_SAVED,)),
    EventType("agent.unplaced", "A replica of a placed agent has no node. Only the node that places reports it.",
              AGENT, (_REASON,)),
    EventType("approval.answered", "A person has answered a question of a task.", TASK, (
        *_QUESTION,
        Field("answer", "text or null", "one of the options, or any text; null: the form is declined"),
        Field("by", "text", "the caller who has answered"),
    )),
    EventType("approval.asked", "A task asks a question, and waits for the answer.", TASK, (
        *_QUESTION,
        Field("kind", "text", "`question` or `permission`"),
        Field("question", "text", "its first 1,000 characters"),
        Field("options", "list of text", "the answers that are permitted; none: any text"),
        Field("expires_at", "time", "when it ends without an answer"),
    )),
    EventType("approval.expired", "Nobody has answered a question in time.", TASK, (
        *_QUESTION,
        Field("answer", "text or null", "the default of the question"),
    )),
    EventType("approval.withdrawn", "The task of a question, or the call that it belongs to, has ended before the answer.", TASK, _QUESTION),
    EventType("checkpoint.corrupted", "A checkpoint in the store is damaged, and was passed over for an earlier one.",
              "agent; worker where one saved it", (
        Field("checkpoint", "number", "its number"),
        Field("task", "text or null", "the task that saved it; null: the worker itself"),
        _REASON,
    )),
    EventType("checkpoint.failed", "A worker could not save one when it was due; the first of several in a row.", LIFE,
              (_REASON,)),
    EventType("checkpoint.restored", "A worker goes on, or will start, with the state of a checkpoint.", LIFE, (
        Field("checkpoint", "number", "the worker's own copy of it"),
        Field("live", "boolean", "whether it goes on with it; else its next incarnation begins with it"),
    )),
    EventType("checkpoint.saved", "A worker has saved a checkpoint.", LIFE, (
        Field("checkpoint", "number", "its number"),
        Field("reason", "text", "`asked`, `hibernate`, `interval` or `restore`"),
        Field("size_bytes", "bytes", "of the data, as JSON"),
    ), stored="but for those of checkpoint_interval"),
    EventType("config.refused", "A configuration was rejected; nothing has changed.",
              "the daemon, or the agent that the store holds", (_REASON,)),
    EventType("config.reloaded", "A changed configuration is in force.", DAEMON, (
        Field("added", "list of text", "agents and servers that were added"),
        Field("removed", "list of text", "that went"),
        Field("changed", "object", "agents and servers that have changed: name to `live` or `restart`"),
        Field("pending", "list of text", "keys that wait for the next start of the daemon"),
        Field("live", "list of text", "keys of no agent that took effect"),
        Field("teams", "object", "name to `added`, `removed` or `changed`"),
        Field("workflows", "object", "likewise"),
        Field("schedules", "object", "likewise"),
    )),
    EventType("config.shadowed", "An agent or schedule that was added at run time is in the file, too, which wins.",
              AGENT, (_REASON,)),
    EventType("daemon.alert_failed", "An alert was not delivered, and will not be tried again.", DAEMON, (
        Field("about", "number", "the `seq` of its event"),
        Field("key", "text", "`alert` or `alert_url`"),
        _MESSAGE,
    )),
    EventType("daemon.backed_up", "An archive of the state was made, and can be fetched.", DAEMON, (
        Field("size_bytes", "bytes", "of the archive"),
        Field("files", "count", "number of files in it"),
        Field("logs", "boolean", "whether it has the logs of workers"),
        Field("secrets", "boolean", "whether it has the values of secrets"),
        Field("duration_s", "seconds", "from the call to the whole archive"),
    )),
    EventType("daemon.degraded", "A part of the daemon cannot do its work now.", DAEMON, _PART),
    EventType("daemon.emergency_over", "The first start after an emergency stop.", DAEMON, shown=_ALL),
    EventType("daemon.emergency_stop", "Everything was killed, and nothing starts until `start`.", DAEMON, (
        Field("by", "text", "the caller"),
        Field("workers", "count", "number of killed workers"),
    ), shown=_ALL),
    EventType("daemon.launcher_lost",
              "The launcher died, its workers with it; a new one starts them.", DAEMON),
    EventType("daemon.recovered", "The part does its work again.", DAEMON, _PART),
    EventType("daemon.started", "A daemon has started; workers start after this.", DAEMON, (
        Field("generation", "count", "number of starts of this state folder"),
        Field("version", "text", "corral's"),
        Field("clean", "boolean", "whether the daemon before ended in order, or there was none"),
    ), shown=_ALL),
    EventType("daemon.stopped", "The last event of a daemon that ends in order.", DAEMON),
    EventType("daemon.stopping", "The daemon takes no more work, and stops all workers.", DAEMON, shown=_ALL),
    EventType("daemon.upgraded", "Another program goes on in the place of the one before: nothing has ended.", DAEMON, (
        Field("version", "text", "corral's"),
        Field("before", "text", "the version of the program before"),
        Field("upgrades", "count", "since the daemon started"),
        Field("gap_s", "seconds", "in which nothing was answered"),
    ), shown=_ALL),
    EventType("daemon.upgrading", "The last event of a program whose place another one takes.", DAEMON),
    EventType(EXPIRED, "For one reader, not part of the stream: some of the events between two numbers were"
              " removed by `[events]`.", DAEMON, (
        Field("after", "number", "the number of the last event that the reader has"),
        Field("first", "number", "the number from which on all stored events are present"),
    ), stored="no"),
    EventType(SKIPPED, "For one reader, not part of the stream: it read too slowly, and events were left out.",
              DAEMON, (Field("count", "count", "number of events left out"),), stored="no"),
    EventType("deployment.state", "A deployment of a package has taken a step.", AGENT, (
        Field("deployment", "number", "its number"),
        Field("package", "text", "the name of the package"),
        Field("version", "text", "the version"),
        Field("state", "text", "`installing`, `rolling`, `canary`, `current` or `failed`"),
        Field("step", "text", "the next thing that is done, such as `resolve`, or empty at the end"),
        _REASON,
    )),
    EventType("health.degraded", "A check has failed too often, or the worker gave up.", LIFE,
              (_CHECK, Field("failures", "count or null", "number in a row"), _MESSAGE)),
    EventType("health.failed", "A check has failed.", LIFE, (_CHECK, _FAILURES, _MESSAGE),
              stored="up to `failure_threshold` in a row"),
    EventType("health.passed", "A check that had failed is good again, before the agent was degraded.",
              LIFE, (_CHECK,)),
    EventType("health.recovered", "A degraded agent or worker is not degraded any more.", LIFE,
              (_CHECK, Field("message", "text or null", "why, where the check did not pass"))),
    EventType("health.recovery", "A recovery action has ended.", LIFE, (
        _CHECK,
        Field("recovery", "text", "the action, as it is configured"),
        Field("result", "text", "`done` or `failed`"),
        Field("code", "number or null", "the command's exit status"),
        Field("signal", "text or null", "the signal that ended the command"),
        _MESSAGE,
    ), stored="up to `failure_threshold` in a row"),
    EventType("limit.calls", "An MCP server was called too often; the first of several refusals in a row.", AGENT, (
        Field("limit", "count", "max_calls_per_minute"),
        Field("wait_s", "seconds", "until the next call is taken"),
        _REASON,
    )),
    EventType("limit.cost", "max_cost_cents_per_day is used up: the agent takes no task until enough of it is past.",
              AGENT, _EXCESS),
    EventType("limit.cpu", "A worker is slowed down by cpu_limit_percent, or no longer.", LIFE, (
        Field("limit", "percent", "of one processor"),
        Field("throttled", "boolean", "whether it is held back now"),
        Field("throttled_s", "seconds", "in this incarnation so far"),
    )),
    EventType("limit.cpu_seconds", "max_cpu_seconds is used up: the worker is ended.", LIFE, _EXCESS),
    EventType("limit.file_descriptors", "A process has used up its file descriptors.", LIFE, _EXCESS),
    EventType("limit.file_size", "A file would have become too long: the worker was ended.", LIFE, _EXCESS),
    EventType("limit.memory", "Too much memory is used: the worker is ended.", LIFE, _EXCESS),
    EventType("limit.processes", "A worker cannot start below max_concurrent_processes.",
              "agent; worker if there is one", (_REASON,)),
    EventType("limit.tool_calls", "max_tool_calls_per_minute is used up; the first of several refusals in a row.", AGENT, (
        Field("limit", "count", "max_tool_calls_per_minute"),
        Field("wait_s", "seconds", "until the next call is taken"),
        _REASON,
    )),
    EventType("limit.tenant", "A limit of a tenant was reached or refused something; the first of a minute, per limit.",
              "agent if there is one", (
        Field("tenant", "text", "its name"),
        Field("key", "text", "the limit in `[tenants.NAME]`, or `max_total_queue_size`"),
        Field("limit", "count", "its value"),
        Field("used", "count", "the usage"),
        Field("refused", "count", "number of refusals since the last such event"),
        _REASON,
    )),
    EventType("limit.tokens", "max_tokens_per_minute is used up: the agent takes no task for now.",
              AGENT, _EXCESS),
    EventType("limit.worker_processes", "A worker can start no more processes.", LIFE, _EXCESS),
    EventType("log.losing", "Lines of a worker cannot be written; lost ones are counted.", WORKER,
              (_REASON,)),
    EventType("log.lost", "Lines can be written again; the log has a line where some are missing.", WORKER, (
        Field("lines", "count", "lost since the last such event"),
        Field("bytes", "bytes", "likewise"),
    )),
    EventType("mcp.call", "A tool call has ended.", "agent, worker of the caller; null from outside", (
        Field("caller", "text", "the worker, or `uid N pid N`"),
        Field("server", "text or null", "the MCP server; null where none has the tool"),
        Field("tool", "text", "as it was called"),
        Field("task", "text or null", "the task that it was made for"),
        Field("outcome", "text", "`ok`, `error` (the tool returned one), or the name of the error"),
        Field("duration_s", "seconds", "from the call to its end"),
    ), stored="no, the audit has it"),
    EventType("mcp.logged_in", "A person has logged in to a remote MCP server.", AGENT, (
        Field("issuer", "text", "the authorization server"),
        Field("scopes", "list of text", "the scope of the token"),
    )),
    EventType("mcp.logged_out", "The token of a remote MCP server was forgotten on request.", AGENT),
    EventType("mcp.login_needed", "A remote MCP server requires a token that corral does not have.", AGENT, (
        _REASON,
    )),
    EventType("mcp.tool_changed", "A tool of a server has other words than those that were accepted, or is new.", AGENT, (
        Field("tool", "text", "the server's own name of it"),
        Field("parts", "list of text", "what has changed: `new`, or `title`, `description`, `inputSchema`, `outputSchema`, `annotations`"),
        Field("accepted", "text", "SHA-256 of the accepted words; empty for a new tool"),
        Field("pending", "text", "SHA-256 of the words that it has now"),
        Field("held", "boolean", "whether it cannot be called until it is accepted"),
        Field("changed", "count", "number of tools of the server that are not as accepted"),
    )),
    EventType("mcp.tools_accepted", "A person has accepted the words that tools of a server have now.", AGENT, (
        Field("tools", "list of text", "their names, at most 100"),
        Field("accepted", "count", "number of tools"),
    )),
    EventType("mcp.tools_changed", "A server lists other tools than before.", LIFE, (
        Field("added", "list of text", "added tools, at most 100"),
        Field("removed", "list of text", "removed tools, at most 100"),
        Field("tools", "count", "number of tools"),
    )),
    EventType("memory.cleared", "A session of an agent, or all, was cleared on request.", AGENT, (
        Field("session", "text or null", "its name, null for all"),
        Field("sessions", "count", "number before"),
        Field("keys", "count", "number of keys that were removed with them"),
    )),
    EventType("memory.corrupted", "A session in the store is damaged; its tasks fail.", AGENT, (
        _SESSION, _REASON)),
    EventType("memory.evicted", "The least recently used session was removed for a new one (`max_sessions`), or for a "
              "write in its memory pool (`max_bytes`).", AGENT, (
        _SESSION,
        Field("pool", "text or null", "the memory pool; null for `max_sessions`"),
    )),
    EventType("memory.expired", "Sessions unused for `retention`, and sessions and keys whose time was over, were removed.", AGENT, (
        Field("sessions", "count", "number of sessions"),
        Field("keys", "count", "number of keys"),
    )),
    EventType("memory.keys_evicted", "The keys that were changed longest ago were removed for a write in their memory pool.",
              AGENT, (
        Field("keys", "count", "number of keys"),
        Field("pool", "text", "the memory pool"),
    )),
    EventType("memory.trimmed", "The oldest messages of a session were removed for new ones (`max_session_bytes`, or `max_bytes` of its pool).",
              AGENT, (
        _SESSION,
        Field("task", "text", "the id of the task"),
        Field("dropped", "count", "number of removed messages"),
        Field("size_bytes", "bytes", "of what is left"),
    )),
    EventType("node.cordoned", "Beats of this node are not confirmed: nothing placed starts until they are.", DAEMON, (
        Field("node", "text", "the name of this node"),
    )),
    EventType("node.joined", "This node holds its lease in the cluster, and may run placed agents.", DAEMON, (
        Field("node", "text", "the name of this node"),
        Field("token", "number", "the revision at which the lease was taken"),
    )),
    EventType("node.over", "Another node has no lease any more: its replicas get other nodes. Only the node that places reports it.", DAEMON, (
        Field("node", "text", "the name of that node"),
    )),
    EventType("node.stopped", "This node has no lease any more: its placed agents are stopped, local ones go on.", DAEMON, (
        Field("node", "text", "the name of this node"),
        _REASON,
        Field("ran", "boolean", "whether it ran any placed agent"),
    )),
    EventType("revision.recorded", "An agent, server, team or workflow was given another table, as a new revision.", _NAMED, (
        Field("revision", "number", "its number, which grows by name"),
        Field("state", "text", "`rolling`: its workers are brought up; `current`: it is in force at once"),
        Field("how", "text", "`file`, `add`, `set`, `reload`, `rollback` or `deploy`"),
        Field("by", "text", "the caller: a token, an agent or a user; `file` where the file says so"),
        Field("why", "text", "the words of the caller"),
    )),
    EventType("revision.settled", "A revision is in force after its workers have come up, or it was given up.", _NAMED, (
        Field("revision", "number", "its number"),
        Field("state", "text", "`current` or `failed`"),
        _REASON,
    )),
    EventType("schedule.added", "A schedule was added.", _WHOSE, (
        _SCHEDULE,
        Field("next_at", "text or null", "when it runs next"),
    )),
    EventType("schedule.corrupted", "A schedule in the store cannot be read; it does not run.", DAEMON, (
        _SCHEDULE, _REASON)),
    EventType("schedule.ended", "A run has ended; it is the schedule's `last_run` by now.", _WHOSE, (
        _SCHEDULE,
        Field("task", "text", "the task's id"),
        Field("state", "text", "of the task; `unknown` where its record is gone"),
        Field("code", "number or null", "the exit status of a command"),
    )),
    EventType("schedule.paused", "A schedule makes no tasks until it is resumed.", _WHOSE, (_SCHEDULE,)),
    EventType("schedule.refused", "A task that was due was not accepted; the next one is tried when it is due.",
              _WHOSE, (_SCHEDULE, Field("error", "text", "the error's name"), _REASON)),
    EventType("schedule.removed", "It was removed.", _WHOSE, (_SCHEDULE,)),
    EventType("schedule.resumed", "A schedule makes tasks again.", _WHOSE, (
        _SCHEDULE,
        Field("next_at", "text or null", "when it runs next"),
    )),
    EventType("schedule.skipped", "A run was due and is skipped.", _WHOSE, (_SCHEDULE, _REASON)),
    EventType("store.down", "A [declared store](configuration.md#storesname) cannot be reached; agents that use it run on.", DAEMON, (
        Field("name", "string", "its name"),
        _REASON,
    )),
    EventType("store.up", "A store that was down can be reached again.", DAEMON, (
        Field("name", "string", "its name"),
        Field("reason", "string", "why it was down"),
    )),
    EventType("task.corrupted", "A record in the store cannot be read, and was passed over.",
              "the daemon, or the agent of the task", (
        Field("task", "text", "the task's id"), _REASON)),
    EventType("task.ended", "A task has ended; it is not tried again.", TASK, (
        *_TASK,
        Field("state", "text", "`succeeded`, `failed`, `cancelled` or `timeout`"),
        Field("error", "text or null", "the error's name"),
        Field("reason", "text or null", "the error's message"),
        Field("duration_s", "seconds or null", "of the last attempt; null if there was none"),
        Field("tool_calls", "count", "in the last attempt"),
        Field("tokens_used", "count", "in all"),
        Field("cost_cents", "number", "in all"),
    ), stored=_DURABLE),
    EventType("task.progress", "A worker reports its progress.", TASK, (
        *_TASK,
        Field("progress", "number", "the part that is done"),
        Field("total", "number or null", "the whole; null is 1"),
        Field("message", "text", "as text"),
        Field("memory_bytes", "count or null", "the most memory of its worker so far"),
    ), stored="of durable tasks, one a second"),
    EventType("task.queued", "A task was accepted.", TASK, (
        *_TASK,
        Field("priority", "number", "1 to 10"),
        Field("parent", "text or null", "the task that delegated it"),
    ), stored=_DURABLE),
    EventType("task.late", "The end of a task of a placed agent was not stored.", TASK, (
        Field("task", "text", "the task's id"),
        _REASON,
    )),
    EventType("task.retried", "An attempt has failed, and another will be made.", TASK,
              (*_TASK, _REASON), stored=_DURABLE),
    EventType("task.started", "The task was given to a worker, or the daemon performs it.", TASK, (*_TASK, Field(
        "delivery", "count", "number of this beginning, whatever ended the one before"
    )), stored=_DURABLE),
    EventType("team.added", "A team was added.", _GROUP, shown=_ALL),
    EventType("team.changed", "A reload has changed its definition.", _GROUP),
    EventType("team.removed", "It was removed.", _GROUP, shown=_ALL),
    EventType("tenant.added", "A tenant was added at run time.", DAEMON, (_TENANT,)),
    EventType("tenant.changed", "Keys of the table of a tenant have other values.", DAEMON, (
        _TENANT, Field("keys", "list of text", "the keys that have changed"),
    )),
    EventType("tenant.removed", "A tenant was removed with all its data.", DAEMON, (_TENANT,), stored="no"),
    EventType("tenant.resumed", "A suspended tenant may work again.", DAEMON, (_TENANT,)),
    EventType("tenant.suspended", "A tenant may not work: its processes are stopped, and its tasks refused.", DAEMON, (_TENANT,)),
    EventType("workflow.added", "A workflow was added.", _GROUP, shown=_ALL),
    EventType("workflow.changed", "A reload has changed its definition.", _GROUP),
    EventType("workflow.removed", "It was removed.", _GROUP, shown=_ALL),
    EventType("workflow.step", "A step of a workflow has started or ended.", _GROUP, (
        Field("task", "text", "the id of the workflow's task"),
        Field("step", "text", "the step's name"),
        Field("state", "text", "`started`, `resumed` by another daemon, `skipped`, or how it ended: `succeeded`, `failed`"),
        Field("reason", "text", "the cause of a failure; else empty"),
    )),
    EventType("worker.state", "A worker has gone from one state to the next.", LIFE, (
        Field("from", "text", "the state before"),
        Field("to", "text", "the state now"),
        _REASON,
    ), stored="but for Busy, and Idle after it", shown=frozenset({"from", "to"})),
)  # fmt: skip

CATALOGUE = {each.name: each for each in _TYPES}
"""Every type of the daemon's own, by name."""

RESERVED = frozenset(name.partition(".")[0] for name in CATALOGUE) | {"audit", "corral"}
"""The first words of types that only the daemon publishes, two that a later version may need among them."""

FIELDS = {each.name: each.field_names for each in _TYPES}
"""Types -> the fields of their events, no more and no less."""


@lru_cache(256)
def is_reserved(event_type: str) -> bool:
    """Returns whether only the daemon publishes a type, by its first word."""
    return event_type.partition(".")[0] in RESERVED


def is_type(text: str) -> bool:
    """Returns whether a text can be a type at all: words of `A-Z a-z 0-9 _ -`, joined by dots."""
    return len(text) <= TYPE_CHARS and _GRAMMAR.fullmatch(text) is not None
