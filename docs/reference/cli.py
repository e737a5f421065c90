"""Writes docs/reference/cli.md from the commands of `corral` and the notes below: `python docs/reference/cli.py`."""

from collections.abc import Iterator
from pathlib import Path

import click

from corral.cli.__main__ import COMMANDS, command_line

PAGE = Path(__file__).with_name("cli.md")

HEAD = """\
<!-- written by docs/reference/cli.py; do not edit -->
# The `corral` command

`corral` talks to a running `corrald` over its unix socket and never starts one. This page lists every command with its
options, its output and its exit codes; `corral COMMAND --help` shows the same options. Commands are grouped as in `corral --help`.

## Global options

| option | meaning |
|---|---|
| `--socket PATH` | socket of the daemon |
| `--connect-timeout D` | how long to wait for a daemon that starts; 0 does not wait |
| `--json` | print JSON for programs: one document, or one object per line (NDJSON) for `logs`, `events`, `audit` and `top` |
| `--no-color` | print without colours; so does a non-empty `NO_COLOR`, `TERM=dumb`, and output to a file or a pipe |
| `--version` | show the version of the command (only directly after `corral`) |
| `-h`, `--help` | show the options |

The first four stand before or after the command: `corral --json status` equals `corral status --json`.
They end at `--`: the words after it belong to the command that is added.

**Socket.** The path is `--socket`, else `$CORRAL_SOCKET`, else for root `/run/corral/corral.sock`, for other users
`$XDG_RUNTIME_DIR/corral/corral.sock`, and without that variable `/run/user/UID/corral/corral.sock` if it exists, else
`/tmp/corral-UID/corral.sock`. The folder in `/tmp` is used only if it belongs to the user and no other user may enter it.

**A daemon that starts.** Where the socket is missing, or no process listens at it, a command waits 3 s for one, and 10 s while a process has the lock of the
socket (`SOCKET.lock`), which is a daemon that is starting; on a terminal it says so after half a second. So `corral run` may follow `corrald &` at once. Then the
command exits 6, and the error has the time that it waited. `--connect-timeout D`, else `$CORRAL_CONNECT_TIMEOUT`, is another bound for both. Completion in the shell never waits.

**Values.** Durations (`D`) are `500ms`, `30s`, `5m`, `1h`, `2d`, or a number of seconds. Times (`T`) are RFC 3339 in UTC, or a duration, which means
that long ago. JSON arguments are written literally, read from a file with `@FILE`, or read from stdin with `-`.

**Names.** Where a command takes `NAME...`, a NAME may be a glob in quotes: `'work*'` stands for every agent and server whose name matches, and for each matching worker id
of the others. `-l` selects by `labels`: `team=red`, `team!=red` (also without the label), `team` (has it), `!team`; several, separated by commas or with
`-l` again, all have to hold, together with the names. A glob or selector that matches nothing exits 3, and nothing is done. `pause` and
`hibernate` pass over what does not run if a glob or selector chose it.

## Exit codes

| code | meaning | errors |
|---|---|---|
| 0 | done | |
| 1 | the operation ran and failed, or a record is damaged | SpawnFailed, WorkerFailed, TaskFailed, ToolFailed, Corrupted |
| 2 | the command line or a value in it is wrong, or a defect of corral (-326xx) | InvalidParams, InvalidRequest, MethodNotFound, ParseError, InternalError |
| 3 | no such agent, worker, task, server or tool | NotFound |
| 4 | refused | Conflict, PermissionDenied, NotInitialized, ShuttingDown |
| 5 | timeout | Timeout |
| 6 | the daemon cannot be reached | Unreachable |
| 7 | a limit was exceeded | ResourceLimitExceeded, Overloaded |
| 8 | cancelled | Cancelled |

Ctrl-C ends a command by SIGINT (a shell shows 130), a closed pipe by SIGPIPE (141), both without a message;
`logs -f`, `events -f` and `top` exit 0 on Ctrl-C. Errors of `corrald` itself, such as a second daemon or an invalid configuration, are printed by `corrald`.

An error is one line on stderr, `corral: cannot …`; for a mistyped name it ends with the nearest known name. With `--json` the error is an object on
stdout instead, and stderr stays empty:

```json
{"error": {"code": -33001, "name": "NotFound", "message": "cannot …", "data": {"name": "crawler"}}}
```

`data` holds the facts for programs. For Unreachable these are `socket` and `reason`: `missing` (no such socket), `stale` (no process
listens on it), `forbidden`, `too-long` (more than 107 bytes), `not-ours` (the folder in `/tmp` belongs to
another user), `no-socket`, `busy`, `closed` (the connection broke), `foreign` (the peer is no corrald), `failed`.

## Output of workers on a terminal

Text from a worker, a server or a tool never controls the terminal: control characters and changes of writing direction are made visible (`^[`,
`\\u009b`). Colours (SGR sequences) in logs and task outputs are kept on a terminal and end with their line; elsewhere they
are removed. When stdout is a file or a pipe, the text is passed through unchanged. A table is never wider than the terminal: long cells are cut and end
with …, and columns are left out; piped, it is whole. Times in tables and of single records are local on a terminal, and UTC elsewhere. Places of one line (tables, events, errors) show newlines as `\\n`.
"""

NOTES = {
    "status": """
Prints the daemon, every agent, worker and MCP server, then teams and workflows with their numbers of running tasks. NAME may be the id of a worker. An agent with one
worker takes one line; other agents have a line for the whole and one for each worker. The last column is the task of a busy
worker; `paused`, `hibernated`, `throttled` (held back by `cpu_limit_percent`), `degraded` with the failing health check; or the reason
why a worker is down: when it starts again, and how it ended. On a narrow terminal columns are left
out, KIND and CPU first, and the last one is cut. The exit code is 0 for any state. `--failed` shows what is not as wanted: ended by a failure, degraded, or
waiting to be started again.

`--json`: `{"daemon", "agents", "mcp_servers", "tasks", "teams", "workflows"}`, the result of `daemon.status` ([protocol](protocol.md)).
""",
    "show": """
Prints the spec (values of variables are hidden), the last exits and the end of stderr. NAME may be a team or a workflow, as in `corral team show`.
`--json`: `{"agent", "spec", "exits", "stderr"}`, or a list of these for several names, a glob or `-l`.
""",
    "add": """
The agent or server starts at once and is kept over a restart of the daemon. The command
stands after `--`. Settings without an option are written in a file for `--file`; relative paths in it start from its folder. Of
several tables in a file all are added or, when one of them is refused, none; they may require each other. `--protocol none` runs any program.
An agent that does not start is added all the same; the exit code is that of `start`. `--json`: the status
entry; with `--file` a list of them.
""",
    "rm": """
Stops agents and MCP servers and removes them; removes teams and workflows. All names are removed or none. A name that another one requires is
refused (4) without `--cascade`, which removes the dependents first. A name in the configuration file comes back with the next `corral reload` or start of
`corrald`: remove it from the file, too. `--json`: `{"removed": [names]}`.
""",
    "start": """
Waits until the agents are ready. An agent that does not start exits 1 with the reason, or 5 if it never became
ready; a running agent exits 0. NAME may be the id of a worker. On a timeout (5) the start continues. An agent starts after the agents that it requires.
`--json`: `{"agents": [status entries], "names": [chosen names]}`; so do `stop`, `restart` and `reset`.
""",
    "stop": """
An agent stops before the agents that it requires. Names of one command stop at the same time; none waits for another that is slow to stop.
Tasks that have not begun fail, unless they may [wait](tasks.md#an-agent-that-is-down); one that the stop interrupts goes on after the next start.
""",
    "restart": """
Ends processes in the order of `stop` and starts them in the order of `start`.
""",
    "reset": """
Clears the record of failures, and starts workers again that had been given up.
""",
    "import": """
Prints the configuration, or writes a new file (mode 0600, never over another one) and checks it. FILE is

| `--format` | file |
|---|---|
| `compose` | a Compose file; images are not run: the program has to be on this machine, and without a `command` it becomes a comment |
| `procfile` | a Procfile |
| `supervisord` | supervisord.conf; `include` is not followed |
| `pm2` | an ecosystem file: JSON, YAML, or JavaScript, which an installed node evaluates |
| `systemd` | units: services, and timers with the service beside them; several FILEs belong together |
| `crontab` | a crontab; of /etc/crontab and /etc/cron.d with the user in each line |
| `mcp` | a file with `mcpServers`: the same as `corral mcp import` |

Each setting becomes a key, or a line on stderr with the reason, which also stands as a comment below its agent. Variables of Compose become `${NAME:-}`, which is empty without
NAME; `restart: always` becomes 1000 attempts, since Compose does not give up. A command line gets a shell only where it needs one.

`--json`: `{"format", "agents", "schedules", "notes": [{"subject", "key", "reason"}]}` with `toml`, or `file` and `problem`.
""",
    "install-service": """
Writes the files of `systemd/` (for the machine: the units, the user `corral-agent` and the group `corral`, `/etc/corral/corral.toml` unless it exists, a link `/usr/local/bin/corral`; for a user: the
unit) and the manual pages, reads them in and enables the service; every step is printed. The service is this corral, the one that the command belongs to. Where systemd is not process 1, and for the machine
without root, it is refused (4) with the reason. `--dry-run` prints the files and commands everywhere; with `--json` as `{"files", "links", "commands"}`.
""",
    "uninstall-service": """
Stops the service and removes the files that `install-service` wrote. The configuration, the state and the accounts stay.
""",
    "man": """
PAGE is `corral` (the default), `corrald` or `corral.toml`. The pages are made from the commands, from `corrald --help` and from [configuration](configuration.md). Without a terminal or without man(1) it prints roff.
`--write DIR` writes all of them, as `DIR/man1/corral.1` and so on; `install-service` and `make -C systemd install` do.
""",
    "init": """
Writes `corral.toml` with comments and, for the templates `agent` and `tools`, a Python file with an agent that answers. On a terminal it asks for
the template, the name and, for `program`, the command; with `--yes`, with `--json` or without a terminal it asks nothing. A file that exists is refused (4); on a terminal
`yes` replaces it, and the old one becomes `FILE.old`. No daemon is needed. `--json`: `{"config", "template", "name", "problem"}`.
""",
    "edit": """
The editor is `$VISUAL`, else `$EDITOR`, else the first of sensible-editor, editor, nano, vim and vi. It gets a copy beside the file, which is checked as `corrald --check` does. A copy with mistakes
is shown with them, and edited again or given up (8); the text then stays in the copy. FILE may be one that the main file includes: it is checked alone, and may be saved with mistakes. The file is replaced at once, with its mode and owner. If it was changed meanwhile, nothing
is saved (4) and the copy stays. If the running daemon has this file, the changes are shown as by `reload --dry-run`, and applied after a yes. Without a terminal it is refused (2), without an
editor or a file too (3).
""",
    "pause": """
Freezes all processes, wherever they are: no processor time passes, and the daemon's clocks for them stop. A paused worker is never considered hung, gets no task, and its tasks'
time stands still; calls of a paused MCP server are refused (4). `stop`, `restart`, `rm`, `scale` and the end of the daemon continue it first. A paused
worker that dies starts again unpaused. Pausing twice is fine (0); pausing an agent that does not run is refused (4). `--all` selects all running
agents. `--json`: `{"agents": [status entries]}`.
""",
    "resume": """
Resuming an agent that is not paused is fine (0). `--json`: `{"agents": [status entries]}`.
""",
    "hibernate": """
Saves a checkpoint and ends the processes, which frees their memory. A task, `wake` or `start` brings them
back from the checkpoint, also after a restart of the daemon, which starts no hibernated agent. The command waits for
running tasks, at most the `shutdown_grace_period`, and dispatches no new ones meanwhile. Refused (4) are: a worker that is still busy then, an agent without a checkpoint
hook, and an MCP server. Of several workers all hibernate, or none. Queued tasks wake the agent. After `stop` a hibernated agent stays down: tasks
are refused, and the next `start` continues from the checkpoint.

`status` shows `hibernated`. `--json`: `{"agents": [status entries]}`.
""",
    "wake": """
Waits until the workers are ready, and refuses a stopped agent (4).
""",
    "scale": """
Removes workers with the highest numbers first. For an agent with a range (`instances = { min, max }`) the number takes effect
at once, and [autoscaling](agents.md#scaling) goes on from there; a number outside of the range is refused (2), except 0, which holds
until the next `scale`. `--json`: the status entry.
""",
    "signal": """
SIG is `HUP`, `SIGHUP` or `1`. NAME may be the id of a worker. A paused worker gets no signal but KILL.
""",
    "checkpoint": """
[operations](operations.md#checkpoints) says when workers save checkpoints and how long they are kept.
""",
    "checkpoint save": """
Saves while the worker continues to run. Refused (4) for an agent without a checkpoint
hook and for a paused one. Each worker has 30 s unless `--timeout` says otherwise (5). `--json`: `{"checkpoints": [records]}`.
""",
    "checkpoint restore": """
Restores the worker that saved the checkpoint, or NAME, a worker or an agent with one worker.
A running worker continues from the checkpoint at once, between two tasks; another one starts from it. A checkpoint of a task is refused (4): the task's next attempt continues from it.
`corral checkpoint restore --input @state.json NAME` restores the content of a file. `--json`: `{"worker", "checkpoint": record, "live"}`; the record is that of the worker's own copy.
""",
    "checkpoint list": """
NAME is an agent, a worker or the id of a task. REASON is `asked`, `interval`, `hibernate`, `restore`,
`worker` and `task` (saved by themselves), or `removed` (its agent is gone). `--json`: a list of `{"id", "agent", "worker", "task", "reason", "at", "size_bytes"}`.
""",
    "checkpoint show": """
`--json`: the record with `data`. A damaged checkpoint is named and exits 1.
""",
    "checkpoint rm": """
Removes all checkpoints or none. One that a worker would start from is refused (4) without `--force`.
""",
    "memory": """
[memory](memory.md) explains sessions and keys. AGENT may be a removed agent, except for `put`.
""",
    "memory list": """
Prints turns (tasks that succeeded), messages, the size of the content as JSON and in the store, and when each session began and was last used. The default limit is 1000.
""",
    "memory show": """
Counts as an access to the session. `-n 0` prints no messages.
""",
    "memory get": """
Prints a text as it is, other values as JSON.
""",
    "memory rm": """
Exits 3 if there is no such key.
""",
    "memory search": """
The default limit is 100.
""",
    "memory clear": """
Without SESSION, deletes all sessions and keys of the agent. Refused (4) while a task uses them.
""",
    "memory cleanup": """
- Removes at once what the daemon removes every `[memory] cleanup_interval`: sessions unused for their agent's `retention`, and keys whose time is over.
  It prints how many, and publishes `memory.expired` for each agent that had any.
""",
    "memory stats": """
Prints sessions, turns, messages, keys and bytes by agent, and which sessions are in the memory of the daemon.
""",
    "run": """
Prints progress on stderr, one line that is rewritten on a terminal, else lines, and the result on
stdout: text as it is, other values as JSON. A task that failed prints its error on stderr and exits with the code of
the error. `--scope`, `--constraint` and `--output-format` are passed to the agent; the daemon enforces the other limits. A limit of the agent itself applies, too.

- `--timeout` bounds each run of the handler, `--queue-timeout` the wait for the first worker, `--deadline` the whole: the task ends with Timeout (5).
- `--queue`: a task for an agent that is stopped or has given up waits for it; without it, the task is refused (4) with the reason and the command that helps.
- `--key`: the record of the first task with this key is the answer. `run` sends a task with a key again when the connection breaks before it was acknowledged.
- `--session`: tasks of one session run one after the other.
- `--logs`: lines of the task on stderr as `corral logs --task` prints them, in the order in which they came, and all of them before the result.
- `--after`: if the other task does not succeed, this one is cancelled.
- `--max-attempts`, `--retry-on`, `--retry-backoff` replace the values of `[tasks]` of the agent. The delay doubles after each attempt.
- `--at`: `run` prints the id of the task and does not wait; `corral task wait ID` does. With `--name` it makes a [schedule](#corral-schedules) of one run.
- `--every`: the first run is after D, or at the time of `--at`. `--cron` takes minute, hour, day of the month, month and day of the week; with six fields the
  first is the second; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Both create a [schedule](#corral-schedules); `run` prints its name, made up unless `--name` says it, and does not wait.

Ctrl-C cancels the task, waits for its end and exits 8; after a second Ctrl-C the command exits at once and the daemon goes on
cancelling. SIGTERM and SIGHUP end the command and leave the task running. While the daemon is away, `run`
waits 30 s for it and then waits for the same task again. When the connection breaks before the
daemon has acknowledged a task without a key, `run` exits 6 with `"acknowledged": false` in `data` and does not send it twice;
`corral tasks` shows whether it was accepted.

`--json`: the task record, also of a failed task:
`{"id", "agent", "worker", "state", "priority", "attempt", "objective", "input", "output", "error", …}`; for a schedule its record.
""",
    "try": """
`MODULE:AGENT` is looked for in the folder where the command is typed, `FILE.py` anywhere; a file with one Agent needs no `:AGENT`. The agent gets its
[environment](worker-environment.md) as under any daemon: `--env OPENAI_API_KEY` passes a variable of yours. `--watch` needs an agent that can be forked
([warm](agents.md#warm-agents)) and whose first import succeeds; an import that fails later is told, and the next change is waited for. Ctrl-C and
even `kill -9` leave no process and no file. `--json`: `{"output"}`, or `{"error"}`.
""",
    "tasks": """
Lists tasks that satisfy all conditions. `--agent` may name a team or a workflow. Dead letters have failed or timed out, were delegated by no task, and were neither retried nor
discarded. `--grep` ignores case and searches the records, 100,000 in a second or less. Records that cannot be read are left out, and counted on stderr. `--json`: a list of task records.
""",
    "task show": """
Prints the record and, below it, the tree of delegated tasks, at most 200. `--calls` prints its tool calls in their place: when, tool, outcome (`ok`, `error` of the tool, or the name of an
error), duration, size, and the result with [`record_tool_calls = "results"`](configuration.md#tasks). A call is kept within 100 ms after its answer, and as long as the record of its
task; of a task that has begun more than once those of every beginning (`delivery`). `--json`: the task record, with `"calls": [{"tool", "ok", "outcome", "at", "duration_s", "size_bytes",
"delivery", "result"}]`.

`--json`: the task record; with `--tree` `{"task", "children": [the same], "more"}`, where `task` is short (no input, context or output, 300
characters of the objective) and `more` is the number of children left out. A damaged record exits 1 and names the task.
""",
    "task cancel": """
`--json`: the task record; for several tasks a list.
""",
    "task wait": """
Prints progress and result and exits like `run`; for several tasks it prints a line before each result, and exits with the code of
the first that did not succeed. `--timeout` bounds the wait for all of them (5). `--json`: the task record; for several tasks a list.
""",
    "task follow": """
Prints on stderr the present state of the task and all delegated tasks, then each event: accepted, started, progress, retried, ended. Then it
prints the result and exits like `wait`. After `--timeout` it exits 5. `--json`: one event per line, then the task record. The present state
of a task is the event that led to it, with its `state` and with `seq` null.
""",
    "task retry": """
Retries tasks that failed, timed out or were cancelled. The old record names the new task as `retried_by`, the new one names the old as `retry_of`. A task that was retried
already is refused (4); the others are retried all the same, and the exit code is that of the first refusal. `--dead` takes the oldest first.

`--json`: `{"retried": [{"task", "by"}], "failed": [{"task", "error"}]}`.
""",
    "task discard": """
Prints the number of tasks. Their records are kept as long as those of other tasks. `--json`: `{"discarded": N}`.
""",
    "team": """
[teams and workflows](teams-and-workflows.md#teams) explains modes and routing.
""",
    "team run": """
Equals [`corral run`](#corral-run) with all its options.
""",
    "team list": """
Prints the number of running tasks of each. `--json`: a list of status entries.
""",
    "team show": """
`--json`: `{"team", "spec", "source"}`.
""",
    "team rm": """
A team that another team or workflow names is refused (4) without `--cascade`. `--json`: `{"removed": [names]}`.
""",
    "team add": """
The team takes effect at once. A member is an agent, a team or a workflow. `--json`: a list of status entries.
""",
    "workflow": """
[teams and workflows](teams-and-workflows.md#workflows) explains steps.
""",
    "workflow run": """
Equals [`corral run`](#corral-run) with all its options.
""",
    "workflow list": """
Prints the number of running tasks of each. `--json`: a list of status entries.
""",
    "workflow show": """
Prints the steps as a table. `--json`: `{"workflow", "spec", "source"}`.
""",
    "workflow rm": """
A workflow that another one names is refused (4) without `--cascade`. `--json`: `{"removed": [names]}`.
""",
    "workflow add": """
The file has `[workflows.NAME]` and `[[workflows.NAME.steps]]`; other tables are ignored. Adds all workflows or none; they may name each other. `--json`: a list of status entries.
""",
    "schedules": """
Equals `corral schedule list`: the agent, the last and the next time, how the last run has ended, the number of tasks created, of runs skipped and refused, and
whether the configuration file or the store has it. Schedules stand in the [configuration](jobs.md#schedules), or are made by `corral run … --every D`, `--cron EXPR`, or `--at T --name NAME`, and
for a command by [`corral schedule add`](#corral-schedule-add).

A schedule is kept over a restart of the daemon. A run that is due while the task of the previous run continues is skipped and counted, unless `--overlap queue`, or
`--overlap replace`, which cancels the previous one. Runs that were due
while the daemon was down are made up for by one run, unless `--no-catch-up`. A task that is not accepted (the agent is stopped or removed) is counted as refused,
with the reason, and the next one is tried when it is due; if the queue is full, it is tried again until there is room. The tasks have `schedule` in their record, and the
idempotency key `NAME@TIME`, so that a daemon that dies in between creates none twice. A wall clock that is set forward causes one run at most;
one that is set back by more than ten minutes makes the time between due again.

In a zone with daylight-saving time, a run at a time that does not exist comes after the gap, and a run at a time that occurs twice comes once.

`--json`: a list of schedule records, `{"name", "task", "every_s", "cron", "timezone", "catch_up", "overlap", "start_at", "paused", "created_at", "next_at",
"last_due_at", "last_task", "last_error", "last_run", "runs", "skipped", "refused", "at", "source", "command"}`; `last_run` is `{"task", "state", "started_at", "finished_at",
"duration_s", "code", "signal", "incarnation", "error"}`.
""",
    "schedule add": """
The command becomes a [job](jobs.md) of the same name, whose limits and output are those of every agent: `corral logs NAME`, `corral show NAME`. It needs admin rights.
`corral schedule rm` removes both. A command that fails is not tried again before its next time. `--json`: the schedule record.
""",
    "schedule list": """
`--json`: the list of `corral schedules`.
""",
    "schedule show": """
Prints the next five run times, and the last ten runs with the ids of their tasks. `--json`: the record with `upcoming` and `recent`, a list of the shape of `last_run`.
""",
    "schedule rm": """
If one of the schedules does not exist, none is removed (3). One of the configuration file is refused (4). `--json`: `{"removed": [names]}`.
""",
    "schedule pause": """
If one of the schedules does not exist, none is paused (3). `--json`: `{"schedules": [records]}`.
""",
    "schedule resume": """
`--json`: `{"schedules": [records]}`.
""",
    "schedule run": """
The run is beside the regular ones. `--json`: the task record.
""",
    "logs": """
Merges lines by time, as `TIME WORKER | TEXT`, with `!` in place of `|` for stderr. Each worker has its
own colour; the level is shown from warning on, and the fields of a message behind its text as `key=value`. NAME may be a worker's id, or a removed agent.

- `-f` follows across rotation and restarts without a gap or a repeat. Ctrl-C exits 0; the end of the daemon exits 6 and prints the `--since` to go on from.
- `-n` defaults to 100, with `-f` to 10, with `--since` and `--task` to all lines.
- `--task` prints what a task has printed and logged, over all its attempts and workers; with `-f` it ends with the task (0). A message of the SDK (`task.log`) has the
  id of its task. Printed lines have none: they are those of the worker while the task ran there. Where a worker runs several tasks at a time, each of them has
  the printed lines of all. Tasks that it delegated have their own lines. `task.log` and `print` come over two ways, and may change places with each other.
- Times are local on a terminal, `HH:MM:SS.mmm`, with the day where it is not today. `--utc`, a pipe and `--json` have RFC 3339 in UTC.
- `--level` applies to messages: output of a program has no level.
- `--grep` takes a regular expression of Python and searches the first 16 KiB of a line; one that takes too long is refused (7).
- `--previous` prints the last incarnation of a worker that does not run. It and `--until` do not go with `-f`.

Lines of stream `corral` are corral's own and report missing lines and their number; only the time options hide them. A follower
that does not keep up skips ahead when a file is rotated away before it was read, and prints the number of lines missed.

`--json`: one log record per line, `{"at", "agent", "worker", "stream", "level", "text"}`, `"fields"` and `"task"` if a message has some, and `"bytes"`
(base64) for a line that is not UTF-8: it is the line then, and `text` shows it with U+FFFD. A line longer than 2 MiB comes in pieces, of which all
but the last have `"partial": true`. `lost_lines` and `lost_bytes` count lost lines, `skipped_lines` skipped ones
(null if the number is not known).
""",
    "events": """
[events](events.md) lists the types and their fields. Times are those of `corral logs`: local on a terminal without `--utc`. `corral events -f --type "build.*"` subscribes. `-n` defaults to 100, with `-f` to 10, with `--since` to all events. With `-f`, Ctrl-C exits 0 and the end of the daemon 6.

`--json`: one event per line, `{"seq", "at", "type", "agent", "worker", "incarnation", …}`. `--since N` with a number that no event has had yet exits 4.
When the daemon is lost, the last line on stderr names the event to go on from; with `--json`, `error.data.since` does.
""",
    "events publish": """
Needs the right `operate`. The event names the caller's uid as `from`. `--json`: `{"seq": N}`.
""",
    "stats": """
Prints each agent, MCP server, team and workflow that has done something, and the total; the first line is the start of the daemon (`since`). The restart of a worker
keeps the figures, a restart of the daemon clears them. A removed agent keeps its share in the total, which covers the whole daemon also for given names.

| column, key | meaning |
|---|---|
| UP, `runtime.active` | workers that are up: Ready, Busy or Idle |
| SPAWNED, `runtime.spawned` | incarnations started |
| TASKS, `executor.total`, `runtime.executed` | tasks that have ended; for a server, calls |
| OK, FAILED, CANCELLED, `executor.ok`, `.failed`, `.cancelled` | results; a timeout counts as failed |
| `runtime.success_rate` | share of succeeded tasks, without cancelled ones; null before the first |
| CALLS, `executor.tool_calls` | tool calls that reached a server, in a task or outside; the total includes those of people and editors |
| AVERAGE, `executor.average_ms` | mean of all durations, from the start of a task's last attempt to its recorded end |
| P50, P99, `executor.p50_ms`, `.p99_ms` | of the last 10,000 durations (`window`), by nearest rank |
| MEMORY, `process.memory_bytes` | present memory of the process trees |
| CPU, `process.cpu_ms` | processor time of all incarnations |
| `process.active` | workers that have a process |

`--json`: `{"since", "uptime_s", "window", "runtime", "process", "executor", "agents": {NAME: …},
"mcp_servers", "teams", "workflows"}`.
""",
    "top": """
Prints processors, memory, running and queued tasks, and some columns of `corral stats`. On a terminal each table
overwrites the one before, until Ctrl-C (0) or the end of the daemon (6). The shortest interval is 0.1s.

`--json`: one line per sample: `at`, the totals of `corral stats`, and `agents` in order.
""",
    "audit": """
[audit](audit.md) explains the records. Needs the right `operate`. The columns are the number, the time, the caller, the method, its subject, the duration and the result. Arguments of tool calls are shown as far as they are recorded.
""",
    "audit list": """
`-n` is at most 10,000, and records of more than 4 MiB in total are cut; it defaults to 100, with `--since` to all records. `--action` takes names of methods, or `mcp.call`.

`--json`: one record per line, `{"id", "at", "action", "who", "result", …, "hash"}`.
""",
    "audit verify": """
Checks the whole chain of hashes and prints its head as `NUMBER:HASH`: store it elsewhere, and give it to a later `--head`. Exits 1 if a record was changed, removed, moved or inserted, and names the first.

`--json`: `{"ok", "records", "first", "last", "anchor", "head", "wrong"}`; `wrong` is null or `{"id", "what"}`. A file that SQLite cannot read exits 4.
""",
    "mcp": """
[MCP](mcp.md) explains the pool of servers.
""",
    "mcp servers": """
Prints state, the last revision of MCP, calls, failed calls and tools of each server. Risky settings of a server, and the reason and last output of one that is
down, follow on stderr. `--json`: a list of status entries with `tools` and `mcp`.
""",
    "mcp tools": """
Puts optional arguments in brackets. A server whose tools are not known is started first; one that cannot start is named on stderr. `--json`: a list of
`{"name", "server", "tool", "description", "input_schema", "annotations"}`.
""",
    "mcp call": """
Prints text; content of other kinds is named in brackets, and structured
content is printed if there is nothing else. A tool error exits 1, with its text on stdout;
so does a tool that requests input (`resultType` is `input_required`): `--json` shows the request.
`KEY=VALUE` is text, unless the schema of the tool wants another type that the value is as JSON (`n=5`); `KEY:=JSON` is JSON. After `--timeout` the exit code is 5.

`--json`: MCP's result object, unchanged.
""",
    "mcp prompts": """
Starts servers whose prompts are not known. `--json`: a list of MCP's prompts.
""",
    "mcp resources": """
Starts servers whose resources are not known. `--json`: `{"resources", "templates"}`.
""",
    "mcp read": """
URI is that of the server, or `SERVER__URI` if two servers have the same. After `--timeout` the exit code is 5. `--json`: MCP's result object.
""",
    "mcp add": """
After the first start the server runs from its next call on. A server that does not start is added all the same; the exit code is that of `start`. The daemon expands `${secret:NAME}` in
values of `--env` and `--header`. `--json`: the status entry.
""",
    "mcp rm": """
Works like [`corral rm`](#corral-rm). `--json`: `{"removed": [names]}`.
""",
    "mcp import": """
Reads `mcpServers` (Claude Code with its projects, Claude Desktop, Cursor, Windsurf, Gemini CLI,
Cline), `servers` with `inputs` (VS Code), `context_servers` (Zed) and `[mcp_servers]` (Codex); JSON may have comments and trailing commas. All
servers are added or, when one of them is refused, none. They start at their first call unless `--start`; the exit code is then that of `start`. `--scan` alone lists the servers found.
`--project` also sets `${workspaceFolder}` for files of no project. `--write` needs no daemon and overwrites no file; `--dry-run` hides the values of variables and headers.

*Names* that corral does not allow are changed, always in the same way, with a note. An existing server with the same table is
unchanged; one that differs is refused (4), unless `--replace`. A server of the configuration file is never replaced.

*Variables* are expanded during the import, from the environment of the command: `${VAR}`, `${VAR:-default}`, `${env:VAR}`, `${userHome}`,
`${workspaceFolder}`, `${workspaceFolderBasename}`, `${input:ID}`. A variable that is not set and has no default is an error that names server and field. `$VAR`
and other shell syntax stay unchanged. `${secret:NAME}` stays, too, in variables and headers: the daemon expands it; the
answer to a password can be one: `--input token='${secret:TOKEN}'`.

*Commands* run in the folder of the project, else in the home folder, unless `cwd` says otherwise. `envFile` becomes `environment_file`; if it contains quotes,
which corral does not remove, its values are copied. `disabledTools` becomes `denied_tools`. A `timeout` is milliseconds or
seconds, depending on the client; if that is not known, values from 1000 on are milliseconds, with a note.

*Left out* with a note on stderr: disabled servers, servers of the old `sse` transport, and corral itself; keys without a counterpart in corral,
such as `alwaysAllow`. Values that look like secrets are reported by name. `--write` puts `${secret:NAME}` in their place and prints
the names for the `secrets_file`.

`--json`: `{"added": [names], "changed": {NAME: [keys]}, "unchanged": [names], "failures", "skipped", "notes", "secrets"}`, and with
`--dry-run` the tables as `servers`; of `--scan` without names `{"found": [{"file", "project", "servers"}], "failures"}`.
""",
    "mcp serve": """
An MCP server for an editor or an agent, with the tools, prompts and resources of all servers. [MCP](mcp.md) shows how clients are configured. It ends at the end of its input (0); an unknown profile exits 3.
""",
    "reload": """
Prints and applies the changes: `+` added, `-` removed, `~` changed (at once, or by a
restart of that agent, with the keys; or renewed, because its sources have changed), `!` waits for the next start of `corrald`. An agent whose changes need no new process
keeps its process, and every other agent its
tasks. An invalid file changes nothing and exits 2. SIGHUP to `corrald` does the same. Agents of `corral add` stay, unless the file names them.

`--json`: `{"added": [names], "removed": [names], "changed": {NAME: "live"|"restart"}, "keys": {NAME: [keys]}, "live": [keys], "pending": [keys], "teams": {NAME: "added"|"removed"|"changed"}, "workflows": likewise, "renewed": [names]}`.
""",
    "log-level": """
At `debug` every operation is logged. Setting needs the right `operate`. `--json`: `{"level"}`.
""",
    "emergency-stop": """
Kills without grace, cancels running and queued tasks, and returns when no worker process is
left. The daemon stays. No worker starts by itself any more, and tasks, calls, `restart` and `add` with a start
are refused (4), also after a restart of the daemon, until `corral start` of any agent; `corral start --all` continues.
`status` shows `degraded: emergency-stop` until then. An alert command that reports the stop is not killed: it has
30 s of its own. `--json`: `{"workers": N, "tasks": N}`.
""",
    "daemon stop": """
Stops the daemon as SIGTERM does: workers end in their order, each within its grace period. Returns when the process of the daemon has ended; with `--no-wait`, or with exit
code 5 after `--timeout`, the daemon goes on stopping. Asks for admin rights. Where systemd listens at the socket the next command starts the
daemon again: use `systemctl stop corrald.socket corrald`. `--json`: `{"pid"}`.
""",
    "secret set": """
Keeps a secret for [`${secret:NAME}`](configuration.md#secrets). The value is asked for without an echo, read from stdin with `-`, or from `--file F`; one final newline is left out. A name that
is kept already is refused (4) without `--replace`. Asks for admin rights, as all of `secret` does. `--json`: `{"name", "used_by": [names]}`.
""",
    "secret rotate": """
Running processes keep the old value until they start again; with `--restart` the workers of the agents that name it are restarted one after another, each until it is ready. A
worker that does not come up ends that (1): those after it keep the old value. A name that is not kept is not found (3). `--json`: `{"name", "used_by", "restarted": [worker ids]}`.
""",
    "secret list": """
`KEPT IN` is `kept` (by command), `secrets_file`, `credentials` (of the service manager), or `nowhere` for a name that only a specification has. `--json`: `[{"name", "source",
"agents", "changed_at", "used_by"}]`, with `"problem"` for one that cannot be read.
""",
    "secret rm": """
Removes a secret that was set by command. Refused (4) while agents name it, unless with `--force`. `--json`: `{"name", "used_by"}`.
""",
    "doctor": """
Reports containment, isolation
(Landlock), users, descriptors and processes, state folder, socket, configuration and service; for a running daemon also its MCP servers, secrets and HTTP, and whether processes start by
[plans](../decisions/0005-machine-code.md); and which promises of corral hold. Each problem is followed by its
remedy. Without a daemon the report is about one that you would start now. The exit code is 1 only if corral cannot work
(`BROKEN`), and 0 with warnings.

`--json`: `{"daemon": {"running", "pid", "version", "rights"}, "cli": {"version"}, "verdict": "ok"|"warning"|"broken",
"findings": [{"topic", "verdict", "found", "remedy"}], "promises": [{"name", "holds": "yes"|"except"|"no", "why"}]}`. Topics are stable.
""",
    "completion": """
For bash, add to `~/.bashrc`: `eval "$(corral completion bash)"`.
""",
    "schema": """
It needs no daemon; the method `daemon.schema` returns the same. The schema knows one value at a time: names that refer to one another, and keys that contradict
each other, are for `corrald --check`.
""",
    "version": """
`--json`: `{"version"}`.
""",
}
"""Command -> what its page says beside its help and its options: behaviour, exit codes, JSON."""

GLOBAL = ("socket", "connect_timeout", "json", "no_color")


def page() -> str:
    """Returns the text of cli.md.

    Raises:
        KeyError: a note is about a command that does not exist.
    """
    group = command_line()
    context = click.Context(group, info_name="corral")
    parts = [HEAD]
    heading = ""
    left = dict(NOTES)
    for name in group.list_commands(context):
        if (found := COMMANDS[name].partition(".")[0].capitalize()) != heading:
            heading = found
            parts.append(f"\n## {heading}\n")
        for path, command in _with_subcommands(context, group, name):
            parts.append(_section(path, command, left.pop(path, "")))
    if left:
        raise KeyError(*left)
    return "".join(parts)


def _with_subcommands(
    context: click.Context, group: click.Group, name: str
) -> Iterator[tuple[str, click.Command]]:
    command = group.get_command(context, name)
    assert command is not None, name
    yield name, command
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None, each
            yield f"{name} {each}", found


def _section(path: str, command: click.Command, note: str) -> str:
    context = click.Context(command, info_name=f"corral {path}")
    usage = " ".join([f"corral {path}", *command.collect_usage_pieces(context)])
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    lines = [f"\n### `corral {path}`\n", f"```text\n{usage}\n```\n", f"{text.strip()}\n"]
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in GLOBAL]
    is_same = command.name == "run" and path != "run"
    if options and not is_same:
        rows = "".join(_row(context, option) for option in options)
        lines.append(f"| option | meaning |\n|---|---|\n{rows}")
    if note:
        lines.append(note.strip("\n") + "\n")
    return "\n".join(lines)


def _row(context: click.Context, option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    names = ", ".join(f"`{name}{value}`" for name in option.opts).replace("|", "\\|")
    text = (option.help or "").replace("|", "\\|")
    return f"| {names.replace('[', '').replace(']', '')} | {text} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
