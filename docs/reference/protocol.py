"""Makes the page protocol.md from the tables in the code."""

import json
from typing import Any, cast

from corral.supervisor.api.schema.documents import openrpc
from corral.worker.contract.errors import CLASSES
from corral.worker.methods.table import METHODS

HEAD = """\
# Protocol

One codec everywhere: JSON-RPC 2.0 (https://www.jsonrpc.org/specification), one UTF-8 JSON object per line, no batches, at most
16 MiB a line; either side may call. The control socket and the pipes of workers use it. `rpc.discover` returns the first
table below as an OpenRPC document. [examples/protocol](../../examples/protocol/README.md) has a worker in 40 lines.

By hand:

```console
$ corral status
$ python3 - <<'END'
import json, os, socket
control = socket.socket(socket.AF_UNIX)
control.connect(os.environ["CORRAL_SOCKET"])      # such as /run/corral/corral.sock
control.sendall(b'{"jsonrpc":"2.0","id":1,"method":"daemon.status"}\\n')
print(json.loads(control.makefile().readline())["result"]["daemon"]["version"])
END
1.0.0
```

A line that is no JSON is answered with -32700, JSON that is no request with -32600, an unknown parameter with -32602; the
connection stays open. `notifications/cancelled` {requestId, reason} withdraws a request.

## Methods of the control socket

"Needs" is the right that the caller must have: the owner and root have admin, members of `[daemon] group` operate, those of `readers` read; a process
inside a worker's tree has none.
"""

WORKERS = """
## The pipes of a worker

A worker (`protocol = "corral"`) reads requests on stdin and writes on stdout; stderr, and every line on stdout that is no message, is
its log. Any valid message counts as a heartbeat. "→" is sent to the worker, "←" by the worker.

| | method | means |
|---|---|---|
| → | `initialize` {protocolVersion: "1", agent, worker, incarnation, heartbeat_interval_s, limits, config, checkpoint?, fencing_token?} → {protocolVersion, name, version, capabilities, health?: [{name, interval_s, timeout_s?, threshold?, recovers?}]} | the answer makes it Ready; another protocolVersion ends the start as exec-failed; `checkpoint` is its saved state, if it is to continue from that; `fencing_token` is an integer that grows with every node that runs a placed agent |
| → | `checkpoint/save` → {data} | the state of the agent to save; null is nothing |
| → | `checkpoint/restore` {data} → {} | continue from that state |
| → | `health/check` {name} → {ok, message} | runs a check that the answer to `initialize` has named |
| → | `health/recover` {name} → {} | repairs what that check found; for a check with `recovers` |
| → | `task/run` {task, attempt, delivery, objective, input, context, boundaries: {timeout_s, max_tool_calls, allowed_tools, max_tokens, max_cost_cents, constraints, scope}, output_format?, checkpoint?, memory?} → {output, tokens_used?, cost_cents?} | it is Busy until the answer |
| → | `ping` → {} | |
| → | `notifications/cancelled` {requestId, reason} | end that task within cancel_grace |
| → | `event` {type, data, from, at, seq} | of a type that it subscribed to; `events.skipped` {count} replaces those that it was too slow to read ([events](events.md)) |
| → | `configure` {heartbeat_interval_s, limits} | those of `initialize` have changed; a worker may ignore it |
| → | `shutdown` {grace_s} | take no more tasks, finish, exit |
| ← | `heartbeat` {busy, task?} | at least every heartbeat_interval_s; with `task`, from the handler of that task (stall_timeout) |
| ← | `stream` {task, part} | a part of the output: text, or any JSON value of at most 64 KiB; those who wait for the task get it, [in order](tasks.md#streaming) |
| ← | `progress` {task, progress, total?, message?}, `usage` {task?, tokens, cost_cents}, `log` {level, message, fields, task?} | |
| ← | `tools/list` {task?, all?} → {tools: [{name, server, tool, description, input_schema, annotations}]}, `tools/call` {name, arguments, task} → MCP's result object | within the allow-lists of the agent and of the task |
| ← | `task/delegate` {the params of `task.run`, task} → the ended record, `task/delegate_all` {tasks: [the params of `task.run`], max_parallel?, task} → {results: [the ended record, or {error}]} | within the boundaries of the task; cancelled with it |
| ← | `task/delegate` {…, wait: false} → the record of the accepted task; then `task/parts` {task, delivery?, number?} → {parts: [as in `task.part`], record: null}, as soon as there are parts behind that place, and {parts: [], record} when the task has ended; `task/cancel` {task} → its record | to read what a delegated task streams; only of the worker's own running tasks |
| ← | `memory/put` {key, value, ttl_s?, session?}, `memory/get` {key, session?} → {value}, `memory/delete` {key, session?}, `memory/search` {query, limit?, session?} → {items} | the agent's own |
| ← | `checkpoint/put` {task?, data} → {id} | the next attempt of the task gets it; without `task` it is the worker's |
| ← | `event/publish` {type, data} → {seq}, `event/subscribe` {types: [globs]} | types that begin like the daemon's own are refused; a subscription replaces the one before |
"""

RESULTS = """
## Results

These are the results of the methods, and the records in them. A key with a question mark may be absent; keys may be added.

| result | keys | means |
|---|---|---|
"""

ERRORS = """
## Errors

| code | name | exit status of `corral` | means |
|---|---|---|---|
"""


def _name(schema: dict[str, Any]) -> str:
    """The name of the component that a schema refers to, empty for one of its own."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _type(schema: dict[str, Any]) -> str:
    """A type in few words, such as `[Task]` for a list of tasks."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(json.dumps, schema["enum"]))
    of = schema.get("type", "any JSON")
    if of == "array":
        return f"[{_type(schema.get('items', {}))}]"
    if of == "object" and "additionalProperties" in schema:
        return f"{{name: {_type(schema['additionalProperties'])}}}"
    return _name(schema) or str(of)


def _results(document: dict[str, Any]) -> list[str]:
    """The rows of the table of results: each Struct that a method returns, and those in it."""
    schemas = document["components"]["schemas"]
    waiting = [method["result"]["schema"] for method in document["methods"]]
    found: set[str] = set()
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, list):
            waiting += cast("list[Any]", schema)
        elif isinstance(schema, dict):
            fields = cast("dict[str, Any]", schema)
            waiting += fields.values()
            name = _name(fields)
            if name and name not in found:
                found.add(name)
                waiting.append(schemas[name])
    rows: list[str] = []
    for name in sorted(found):
        shape = schemas[name]
        required = set(shape.get("required", ()))
        keys = "; ".join(
            f"`{key}{'' if key in required else '?'}` {_type(each)}" for key, each in shape["properties"].items()
        )
        meaning = " ".join(shape["description"].split("\n\n")[0].split())
        rows.append(f"| {name} | {keys} | {meaning} |")
    return rows


def page() -> str:
    """The page, as the tables in the code have it."""
    lines = [HEAD]
    document: dict[str, Any] = openrpc(METHODS)
    methods = document["methods"]
    lines.append("| method | params | returns | needs | does |")
    lines.append("|---|---|---|---|---|")
    for method in methods:
        params = ", ".join(param["name"] + ("" if param["required"] else "?") for param in method["params"])
        returned = method["result"]["schema"]
        result = _name(returned) or f"{returned['title']}: {returned['description']}"
        lines.append(f"| `{method['name']}` | {params} | {result} | {method['x-permission']} | {method['summary']} |")
    lines.append(RESULTS.rstrip("\n"))
    lines += _results(document)
    lines.append(WORKERS.rstrip("\n"))
    lines.append(ERRORS.rstrip("\n"))
    for code, error in sorted(CLASSES.items(), reverse=True):
        meaning = (error.__doc__ or "").partition("\n")[0]
        lines.append(f"| {code} | {error.__name__} | {error.exit_status} | {meaning} |")
    return "\n".join(lines) + "\n"
