"""Builds the schema of a configuration file, of each kind of table in it, of a task, and of an event."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Literal

import msgspec

from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.config.declared.pools import DeclaredPool
from corral.supervisor.config.declared.stores import DeclaredStore
from corral.supervisor.config.declared.tenant import Limits, Tenant
from corral.supervisor.config.decoding.keys import schema_of as table
from corral.supervisor.config.decoding.shapes import VARIABLE, Schema
from corral.supervisor.config.spec.job import Times, Work
from corral.supervisor.config.spec.spec import DAEMON_TABLES, DAEMON_WIDE, SECTIONS, Profile, Spec, of_others
from corral.supervisor.config.spec.team import Team
from corral.supervisor.config.spec.workflow import Workflow
from corral.supervisor.records.events.catalog import CATALOGUE
from corral.worker.contract.records import TaskParams

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Document = Literal["config", "agent", "server", "template", "team", "workflow", "task", "event"]


def schema_of(document: Document) -> Schema:
    """Returns the JSON Schema of a document that users write or read."""
    return _SCHEMAS[document]()


def _sections() -> dict[str, Schema]:
    return {name: table(struct, DAEMON_WIDE[name]) for name, struct in SECTIONS.items()}


def _spec(foreign: Collection[str], programs: Collection[str]) -> Schema:
    own = table(Spec, foreign)
    own["properties"] |= _sections()
    own["anyOf"] = [{"required": [key]} for key in programs]
    return own


def _agent() -> Schema:
    return _spec(of_others("agent"), ("command", "entrypoint", "template"))


def _server() -> Schema:
    found = _spec(of_others("mcp"), ("command", "url", "template"))
    found["anyOf"].append({"properties": {"disabled": {"const": True}}, "required": ["disabled"]})
    return found


def _template() -> Schema:
    found = table(Spec)
    found["properties"] |= _sections() | {
        "template": {"type": "string", "description": "the template that it begins with"},
        "params": {
            "type": "object",
            "additionalProperties": {"type": "object"},
            "description": "its parameters, each a JSON Schema; one without a default has to be given",
        },
    }
    return found


def _schedule() -> Schema:
    """Returns the schema of a schedule: of a task, or of a command with the keys of the job that it is."""
    found = table(Spec, of_others("agent"))
    found["properties"] |= _sections() | table(Times)["properties"] | table(Work)["properties"]
    return found


def _named(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def _config() -> Schema:
    """Returns the schema of a file; what one agent, server, team or workflow may have is a part of its own."""
    parts = {each: _PARTS[each][1]() for each in _PARTS}
    named = {f"{each}s": _named({"$ref": f"#/$defs/{each}"}) for each in parts}
    tables = {name: table(struct) for name, struct in {**DAEMON_TABLES, **SECTIONS}.items()}
    tables["mcp"]["properties"] |= {"servers": named.pop("servers"), "profiles": _named(table(Profile))}
    include: Schema = {
        "type": "array",
        "items": {"type": "string"},
        "description": "paths and patterns of further files, relative to this one",
    }
    properties: Schema = {
        "include": include,
        **tables,
        **named,
        "cluster": table(ClusterSettings),
        "stores": _named(table(DeclaredStore)),
        "models": _named(table(DeclaredModel)),
        "pools": _named(table(DeclaredPool)),
        "tenants": _named(table(Tenant)),
        "tiers": _named(table(Limits)),
        "schedules": _named(_schedule()),
    }
    return {
        "$schema": DIALECT,
        "title": "The configuration of corral",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {"variable": VARIABLE, **parts},
    }


_PARTS: Mapping[Document, tuple[str, Callable[[], Schema]]] = {
    "agent": ("A table [agents.NAME]", _agent),
    "server": ("A table [mcp.servers.NAME]", _server),
    "template": ("A table [templates.NAME]", _template),
    "team": ("A table [teams.NAME]", lambda: table(Team)),
    "workflow": ("A table [workflows.NAME]", lambda: table(Workflow, has_variables=False)),
}


def _part(document: Document) -> Schema:
    title, build = _PARTS[document]
    return {"$schema": DIALECT, "title": title, **build(), "$defs": {"variable": VARIABLE}}


def _task() -> Schema:
    found = msgspec.json.schema(TaskParams, schema_hook=_any_value)
    return {"$schema": DIALECT, "title": "The params of a task", **found}


def _any_value(kind: type) -> Schema:
    assert kind is object, f"{kind} has a schema of its own"
    return {"description": "any JSON value"}  # an empty schema counts as none


def _event() -> Schema:
    text: Schema = {"type": ["string", "null"]}
    envelope: Schema = {
        "seq": {"type": "integer", "minimum": 1, "description": "its number, never used twice"},
        "at": {"type": "string", "format": "date-time", "description": "the time, UTC"},
        "type": {"type": "string", "description": "dotted words; agents may publish others"},
        "agent": {**text, "description": "the agent that it is about"},
        "worker": {**text, "description": "the worker that it is about"},
        "incarnation": {"type": ["integer", "null"], "description": "the life of the worker"},
    }
    return {
        "$schema": DIALECT,
        "title": "An event",
        "type": "object",
        "properties": envelope,
        "required": list(envelope),
        "allOf": [
            {
                "if": {"properties": {"type": {"const": each.name}}},
                "then": {
                    "description": each.meaning,
                    "properties": {f.name: {"description": f.meaning} for f in each.fields},
                },
            }
            for each in CATALOGUE.values()
        ],
    }


_SCHEMAS: Mapping[Document, Callable[[], Schema]] = {
    "config": _config,
    **{each: partial(_part, each) for each in _PARTS},
    "task": _task,
    "event": _event,
}
DOCUMENTS: tuple[Document, ...] = tuple(_SCHEMAS)
