"""Offers agents, teams and workflows with `expose = true` as tools, `agent__NAME`: their entries, arguments and results.

The arguments of such a tool are the input of a task, where the receiver has an `input_schema` of an object; else they
are an objective and an input. The task itself is run by others: by the method table for a client outside, as a
delegation for a worker.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from corral.mcp.protocol.catalog import Access, exposed_names
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.spec.spec import Group, Spec, kind_of_group
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, Timeout, from_wire
from corral.worker.contract.names import tenant_of
from corral.worker.contract.records import ENDED

SERVER = "agent"
"""The beginning of these tools' names; no MCP server can have it."""

PREFIX = f"{SERVER}__"

OBJECTIVE = {"type": "string", "description": "The work to do, in plain words"}

CHANGES = tuple(
    f"{kind}.{change}" for kind in ("agent", "team", "workflow") for change in ("added", "changed", "removed")
)
"""The events after which the tools may be others."""

Receiver = Spec | Group


class Order(NamedTuple):
    """Represents what a call of such a tool asks for: the objective and the input of a task."""

    objective: str
    input: object


def tools(registry: Registry, access: Access) -> Iterator[tuple[str, Receiver]]:
    """Yields the exposed receivers that a caller may call, with the names of their tools."""
    specs = (agent.spec for agent in registry.agents.values())
    for receiver in (*specs, *registry.groups.values()):
        if access.view is not None and tenant_of(receiver.name) != access.view:
            continue
        if receiver.expose and access.admits(name := tool_name(receiver), is_read_only=False):
            yield name, receiver


def receiver_of(registry: Registry, name: str, view: str | None) -> Receiver | None:
    """Returns the receiver whose tool has this name in the view of a tenant; None if there is none."""
    found: Receiver | None = registry.groups.get(name.removeprefix(PREFIX))
    if (agent := registry.agents.get(name.removeprefix(PREFIX))) is not None:
        found = agent.spec
    is_seen = found is not None and (view is None or tenant_of(found.name) == view)
    if found is not None and is_seen and found.expose and tool_name(found) == name:
        return found
    offered = tools(registry, Access(tenant=view))  # a name that is too long ends in a hash
    return next((receiver for each, receiver in offered if each == name), None)


def tool_name(receiver: Receiver) -> str:
    """Returns the name of the tool of a receiver, held to the length of all tools' names."""
    return next(iter(exposed_names(SERVER, [receiver.name])))


def described(receiver: Receiver) -> dict[str, object]:
    """Returns the entry of MCP's `tools/list`."""
    kind = "agent" if isinstance(receiver, Spec) else kind_of_group(receiver)
    title = receiver.title or receiver.name
    entry: dict[str, object] = {
        "name": tool_name(receiver),
        "title": title,
        "description": receiver.description or f'Gives the {kind} "{receiver.name}" a task, and waits for its end.',
        "execution": {"taskSupport": "required" if requires_task(receiver) else "optional"},
        "inputSchema": _arguments(receiver),
        "annotations": {"title": title, "readOnlyHint": False, "openWorldHint": True},
    }
    output = receiver.output_schema if isinstance(receiver, Spec) else None
    if output is not None and output.get("type") == "object":
        entry["outputSchema"] = output
    return entry


def requires_task(receiver: Receiver) -> bool:
    """Returns True if a client outside can call the tool as a task of MCP alone."""
    return isinstance(receiver, Spec) and receiver.task_support == "required"


def listed(receiver: Receiver) -> dict[str, object]:
    """Returns the entry of a worker's `tools/list`."""
    return record_of(described(receiver), SERVER, receiver.name)


def record_of(entry: Mapping[str, object], server: str, tool: str) -> dict[str, object]:
    """Returns MCP's object of a tool as an entry of a worker's `tools/list`."""
    return {
        "name": entry["name"],
        "server": server,
        "tool": tool,
        "description": entry["description"],
        "input_schema": entry["inputSchema"],
        "annotations": entry["annotations"],
    }


def order_of(receiver: Receiver, arguments: Mapping[str, object]) -> Order:
    """Returns what a call asks for; the input is checked against its schema where the task is taken."""
    if _takes_arguments(receiver):
        return Order("", dict(arguments))
    objective = arguments.get("objective", "" if receiver.input_schema else None)
    name = tool_name(receiver)
    if not isinstance(objective, str):
        text = f'cannot call "{name}": "objective" has to be a string'
        raise InvalidParams(text, key="objective", value=objective, tool=name)
    if unknown := sorted(arguments.keys() - {"objective", "input"}):
        raise InvalidParams(f'cannot call "{name}": "{unknown[0]}" is not known', key=unknown[0], tool=name)
    return Order(objective, arguments.get("input"))


def result_of(record: Mapping[str, object]) -> dict[str, object]:
    """Returns MCP's result for the record of a task: its output, or the error with which it has ended."""
    state = record.get("state")
    if state == "succeeded":
        output = record.get("output")
        text = output if isinstance(output, str) else codec.encode(output).decode()
        result: dict[str, object] = {"content": [{"type": "text", "text": text}], "isError": False}
        if (fields := codec.as_object(output)) is not None:
            result["structuredContent"] = fields
        return result
    if state not in ENDED:
        task = record.get("id")
        text = f'cannot wait longer for task "{task}", which is {state}: ask corral__task for its end'
        return failed(Timeout(text, task=task, state=state))
    error = from_wire(record.get("error"))
    error.data.setdefault("task", record.get("id"))
    return failed(error)


def failed(error: CorralError) -> dict[str, object]:
    """Returns MCP's result for an error, which a model reads: its text, and the typed error."""
    return {
        "content": [{"type": "text", "text": error.message}],
        "structuredContent": {"error": error.to_record()},
        "isError": True,
    }


def _takes_arguments(receiver: Receiver) -> bool:
    return receiver.input_schema is not None and receiver.input_schema.get("type") == "object"


def _arguments(receiver: Receiver) -> dict[str, object]:
    schema = receiver.input_schema
    if schema is not None and _takes_arguments(receiver):
        return schema
    described = "Any JSON value for the task"
    given = {"description": described} if schema is None else schema
    return {
        "type": "object",
        "properties": {"objective": OBJECTIVE, "input": given},
        "required": ["objective"] if schema is None else ["input"],
        "additionalProperties": False,
    }
