"""Makes the page http_routes.md from the method table."""

from corral.supervisor.faces.http_api.routes import success
from corral.worker.methods.faces import Route
from corral.worker.methods.method import Method
from corral.worker.methods.table import METHODS

HEAD = """\
# HTTP routes

Each route below `/api/v1` is a method of [the table](protocol.md#methods-of-the-control-socket), with the same params, result and rights. Addresses, tokens and
the statuses of errors are in [HTTP](http.md), commands to try in [use corral over HTTP](../how-to/use-http.md).

- **Params.** A `{key}` of the path is a param; where the param is a list, the list of that one value. A `/` in a value is written `%2F`. The other params of GET and
  DELETE are in the query: a repeated key is a list, and a comma separates nothing. Those of other requests are a JSON object as the body. A key that is
  in the path and in the body must be the same in both. An unknown key is 422, by its name.
- **Answers** are the results of the methods, as JSON. The status is 200, and 201 where something was added; `POST /tasks` is 202 with the `Location` of the task.
- **Idempotency-Key** is the param `idempotency_key`: the same task is queued once, however often it is sent.
- **ETag** comes with an agent, and changes with each key of its table, also with values that the answer hides. `If-None-Match` with it is answered with 304.
  `If-Match` is the param `expected` of PATCH and DELETE: an agent that was changed meanwhile stays, and the answer is 412.
- **A client that hangs up** leaves its task running; `DELETE /tasks/{task}` cancels it.
- **Streams.** A request with `Accept: text/event-stream` of a route that is marked below gets the notifications of the method as events with the name of
  the notification and JSON as data, and last `result` with the result, or `error`. A call that fails at once has the status of its error.
  A silent stream has a comment every 15 seconds. A reader that is slow is waited for, and what it follows is read from the store later.
- **Last-Event-ID.** Each event of `GET /events` has its number as `id`. A reader that comes back with the last one it has seen gets all that were stored since, each
  once, also from a daemon that was restarted. Each event of `GET /logs` has as `id` the `position` behind its lines, a text of at most 1,500 characters that says
  nothing to a client: a reader that comes back with it, or gives it as `after`, gets all lines behind it, each once, also from a daemon that was
  restarted and where files were rotated and compressed meanwhile. Lines whose files are gone are reported by a line of the stream `corral` with
  `skipped_lines` (null where nobody has counted them). A text that is no position is refused with 422.

| route | method | needs | answer | does |
|---|---|---|---|---|
"""

RUNTIME = """
## The routes of /runtime

These are the routes of agno's dynamic runtime, for its clients; each is a call of the methods above. The configuration is the form field `agent_config`,
`team_config` or `workflow_config` with JSON as its text (urlencoded or multipart), or a JSON body. It has `id`, `name` (the `title` here), `description`, and
any keys of [the configuration](configuration.md).

| route | calls | answer |
|---|---|---|
| `POST /runtime/agents` | `agent.add` | `{"message": "Agent ID added successfully", "id"}` |
| `POST /runtime/teams` | `team.add` | `{"message": "Team ID added successfully", "id"}` |
| `POST /runtime/workflows` | `workflow.add` | `{"message": "Workflow ID added successfully", "id"}`; without an `id` one is generated |
| `DELETE /runtime/agents/{id}` | `agent.rm` | `{"message": "Agent ID removed successfully", "id"}` |
| `DELETE /runtime/teams/{id}` | `team.rm` | `{"message": "Team ID removed successfully", "id"}` |
| `DELETE /runtime/workflows/{id}` | `workflow.rm` | `{"message": "Workflow ID removed successfully", "id"}` |
| `POST /runtime/refresh` | `daemon.reload` | `{"message": "Runtime refreshed successfully", "changes"}` |
| `GET /runtime/stats` | `runtime.stats` | `{"agents": {"count", "ids"}, "teams", "workflows", "databases"}` |

A name that is taken and a missing `id` are 400, an unknown one is 404. An agent without `command`, `entrypoint` and `url` is of the [template](configuration.md#templatesname) `default`, or of the one that `template` and `params` give. The built-in `default` answers each task
with its name, its description, the objective and the input. A team without members and a workflow without steps give their tasks to an agent `default`, which
is added with the first of them and stays.
"""


def page() -> str:
    """Returns the page."""
    routes = [(route, method) for method in METHODS.values() for route in method.faces.routes]
    routes.sort(key=lambda each: (each[0].path, each[0].verb, each[1].faces.only_streams))
    rows = [_row(route, method) for route, method in routes]
    reasons = [
        f"- `{name}`: {METHODS[name].faces.reason}." for name in sorted(METHODS) if not METHODS[name].faces.routes
    ]
    without = "\nWithout a route:\n\n" + "\n".join(reasons) + "\n"
    return HEAD + "\n".join(rows) + "\n" + without + RUNTIME


def _row(route: Route, method: Method) -> str:
    answer = "events" if method.faces.only_streams else str(success(method, route))
    answer += " or events" if method.faces.streams and not method.faces.only_streams else ""
    summary = method.summary.replace("|", "\\|")
    cells = [f"`{route.verb} {route.path}`", f"`{method.name}`", method.access.permission, answer, summary]
    return f"| {' | '.join(cells)} |"
