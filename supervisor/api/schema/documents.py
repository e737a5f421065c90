"""Builds the schema of a configuration file, of each kind of table in it, of a task, and of an event."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from corral.supervisor.config.declared.cluster import CLUSTER_KEYS
from corral.supervisor.config.declared.models import MODEL_KEYS
from corral.supervisor.config.declared.pools import POOL_KEYS
from corral.supervisor.config.declared.stores import STORE_KEYS
from corral.supervisor.config.declared.tenant import TENANT_KEYS, TIER_KEYS
from corral.supervisor.config.decoding.decoder import Field
from corral.supervisor.config.spec.job import TIMES, WORK
from corral.supervisor.config.spec.loader import ONLY_OF_AGENTS, ONLY_OF_SERVERS
from corral.supervisor.config.spec.spec import (
    DAEMON_WIDE,
    FIELDS,
    SECTIONS,
    Audit,
    Daemon,
    Events,
    Mcp,
    Metrics,
    Packages,
    Profile,
    Spec,
    Telemetry,
)
from corral.supervisor.config.spec.team import TEAM_KEYS
from corral.supervisor.config.spec.workflow import STEP_KEYS, WORKFLOW_KEYS
from corral.supervisor.records.events.catalog import CATALOGUE
from corral.worker.contract.records import TaskParams

from .descriptions import DESCRIPTIONS
from .rules import VARIABLE, Schema, of_field, or_variable

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Document = Literal["config", "agent", "server", "template", "team", "workflow", "task", "event"]


def schema_of(document: Document) -> Schema:
    """Returns the JSON Schema of a document that users write or read."""
    return _SCHEMAS[document]()


def _keys(fields: Mapping[str, object], section: str, schemas: Mapping[str, Schema]) -> Schema:
    """Returns the schema of a table, whose keys have the descriptions of the manual."""
    properties: Schema = {}
    for key in fields:
        described = DESCRIPTIONS.get(f"{section}.{key}")
        properties[key] = {**schemas[key], **({"description": described} if described else {})}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _table(struct: type[Struct], section: str, *, without: Collection[str] = ()) -> Schema:
    fields = {key: field for key, field in FIELDS[struct].items() if key not in without}
    return _keys(fields, section, {k: or_variable(of_field(f)) for k, f in fields.items()})


def _sections() -> dict[str, Schema]:
    """Returns the sections as an agent may override them."""
    return {name: _table(struct, name, without=DAEMON_WIDE.get(name, ())) for name, struct in SECTIONS.items()}


def _spec(foreign: Collection[str], programs: Collection[str]) -> Schema:
    own = _table(Spec, "agents", without=foreign)
    own["properties"] |= _sections()
    own["anyOf"] = [{"required": [key]} for key in programs]
    return own


def _agent() -> Schema:
    return _spec(ONLY_OF_SERVERS, ("command", "entrypoint", "template"))


def _server() -> Schema:
    table = _spec(ONLY_OF_AGENTS, ("command", "url", "template"))
    table["anyOf"].append({"properties": {"disabled": {"const": True}}, "required": ["disabled"]})
    return table


def _template() -> Schema:
    """Returns the schema of a template: keys of agents and servers, and the parameters that it declares."""
    table = _table(Spec, "agents")
    table["properties"] |= _sections() | {
        "template": {"type": "string", "description": "the template that it begins with"},
        "params": {
            "type": "object",
            "additionalProperties": {"type": "object"},
            "description": "its parameters, each a JSON Schema; one without a default has to be given",
        },
    }
    return table


def _team() -> Schema:
    keys = {key: or_variable(of_field(field)) for key, field in TEAM_KEYS.items()}
    return {**_keys(TEAM_KEYS, "teams", keys), "required": ["members"]}


def _workflow() -> Schema:
    steps = {key: of_field(field) for key, field in STEP_KEYS.items()}
    step = {**_keys(STEP_KEYS, "steps", steps), "required": ["name"]}
    keys = {key: of_field(field) for key, field in WORKFLOW_KEYS.items() if key != "steps"}
    keys["steps"] = {"type": "array", "items": step, "minItems": 1}
    return {**_keys(WORKFLOW_KEYS, "workflows", keys), "required": ["steps"]}


def _schedule() -> Schema:
    """Returns the schema of a schedule: of a task, or of a command with the keys of the job that it is."""
    fields = {**TIMES, **WORK}
    keys = {key: or_variable(of_field(field)) for key, field in fields.items()}
    table = _keys(fields, "schedules", keys)
    own = _table(Spec, "agents", without=ONLY_OF_SERVERS)["properties"] | _sections()
    table["properties"] = own | table["properties"]
    return table


def _store() -> Schema:
    keys = {key: or_variable(of_field(field)) for key, field in STORE_KEYS.items()}
    return {**_keys(STORE_KEYS, "stores", keys), "required": list(STORE_KEYS)}


def _cluster() -> Schema:
    keys = {key: or_variable(of_field(field)) for key, field in CLUSTER_KEYS.items()}
    return {**_keys(CLUSTER_KEYS, "cluster", keys), "required": ["engine", "url"]}


def _model() -> Schema:
    keys = {key: or_variable(of_field(field)) for key, field in MODEL_KEYS.items()}
    return {**_keys(MODEL_KEYS, "models", keys), "required": ["kind"]}


def _pool() -> Schema:
    keys = {key: or_variable(of_field(field)) for key, field in POOL_KEYS.items()}
    return {**_keys(POOL_KEYS, "pools", keys), "required": ["max_bytes"]}


def _tables(fields: Mapping[str, Field], section: str) -> Schema:
    keys = {key: or_variable(of_field(field)) for key, field in fields.items()}
    return {"type": "object", "additionalProperties": _keys(fields, section, keys)}


def _named(name: str) -> Schema:
    return {"type": "object", "additionalProperties": {"$ref": f"#/$defs/{name}"}}


def _config() -> Schema:
    mcp = _table(Mcp, "mcp")
    mcp["properties"] |= {
        "servers": _named("server"),
        "profiles": {"type": "object", "additionalProperties": _table(Profile, "profiles")},
    }
    properties: Schema = {
        "include": {
            "type": "array",
            "items": {"type": "string"},
            "description": "paths and patterns of further files, relative to this one",
        },
        "daemon": _table(Daemon, "daemon"),
        "events": _table(Events, "events"),
        "audit": _table(Audit, "audit"),
        "packages": _table(Packages, "packages"),
        "metrics": _table(Metrics, "metrics"),
        "telemetry": _table(Telemetry, "telemetry"),
        "cluster": _cluster(),
        **{name: _table(struct, name) for name, struct in SECTIONS.items()},
        "mcp": mcp,
        "templates": _named("template"),
        "agents": _named("agent"),
        "stores": {"type": "object", "additionalProperties": _store()},
        "models": {"type": "object", "additionalProperties": _model()},
        "pools": {"type": "object", "additionalProperties": _pool()},
        "tenants": _tables(TENANT_KEYS, "tenants"),
        "tiers": _tables(TIER_KEYS, "tenants"),
        "teams": _named("team"),
        "workflows": _named("workflow"),
        "schedules": {"type": "object", "additionalProperties": _schedule()},
    }
    parts = {"agent": _agent(), "server": _server(), "template": _template()}
    parts |= {"team": _team(), "workflow": _workflow()}
    return {
        "$schema": DIALECT,
        "title": "The configuration of corral",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {"variable": VARIABLE, **parts},
    }


def _part(title: str, build: Callable[[], Schema]) -> Callable[[], Schema]:
    return lambda: {"$schema": DIALECT, "title": title, **build(), "$defs": {"variable": VARIABLE}}


def _task() -> Schema:
    found = msgspec.json.schema(TaskParams, schema_hook=_any_value)
    return {"$schema": DIALECT, "title": "The params of a task", **found}


def _any_value(kind: type) -> Schema:
    """Returns the schema of `object` in a Struct, which stands for any JSON value."""
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
    kinds = [
        {
            "if": {"properties": {"type": {"const": each.name}}},
            "then": {
                "description": each.meaning,
                "properties": {f.name: {"description": f.meaning} for f in each.fields},
            },
        }
        for each in CATALOGUE.values()
    ]
    return {
        "$schema": DIALECT,
        "title": "An event",
        "type": "object",
        "properties": envelope,
        "required": list(envelope),
        "allOf": kinds,
    }


_SCHEMAS: Mapping[Document, Callable[[], Schema]] = {
    "config": _config,
    "agent": _part("A table [agents.NAME]", _agent),
    "server": _part("A table [mcp.servers.NAME]", _server),
    "template": _part("A table [templates.NAME]", _template),
    "team": _part("A table [teams.NAME]", _team),
    "workflow": _part("A table [workflows.NAME]", _workflow),
    "task": _task,
    "event": _event,
}
DOCUMENTS: tuple[Document, ...] = tuple(_SCHEMAS)
