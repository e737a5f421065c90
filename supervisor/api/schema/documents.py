"""Builds the schemas of what users write and methods take: of a configuration file, a task, an event, and the OpenRPC document.

`rpc.discover` returns the method table as an OpenRPC 1.3 document (https://spec.open-rpc.org); `components` makes the JSON
Schemas, also for other documents. The reference of the configuration has a line `<!-- keys of TABLE -->` where a table of keys
belongs: `corral man corral.toml` and the site of the documentation show the page with the tables in it.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from inspect import cleandoc
from typing import Any, Literal

import msgspec
from msgspec import NODEFAULT, Struct

from corral import __version__
from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.config.declared.oauth import Oauth
from corral.supervisor.config.declared.pools import DeclaredPool
from corral.supervisor.config.declared.stores import DeclaredStore
from corral.supervisor.config.declared.tenant import Limits, Tenant
from corral.supervisor.config.decoding.keys import Field, fields_of, sentences_of
from corral.supervisor.config.decoding.keys import schema_of as table
from corral.supervisor.config.decoding.shapes import VARIABLE, Schema
from corral.supervisor.config.decoding.values import duration, duration_text, size, size_text
from corral.supervisor.config.spec.job import Times, Work
from corral.supervisor.config.spec.probe_spec import Check
from corral.supervisor.config.spec.spec import DAEMON_TABLES, DAEMON_WIDE, SECTIONS, Profile, Spec, of_others
from corral.supervisor.config.spec.team import Team
from corral.supervisor.config.spec.workflow import Step, Workflow
from corral.supervisor.records.events.catalog import CATALOGUE
from corral.worker.contract.records import TaskParams
from corral.worker.methods.method import AnyMethod


def openrpc(methods: Mapping[str, AnyMethod]) -> dict[str, object]:
    """Returns the method table as an OpenRPC 1.3 document."""
    entries = [methods[name] for name in sorted(methods)]
    params, schemas = components([*[entry.params for entry in entries], *results_of(entries)])
    results = params[len(entries) :]
    described: list[dict[str, object]] = []
    for entry, schema, result in zip(entries, params, results, strict=False):
        shape = schemas[str(schema["$ref"]).rpartition("/")[2]]
        required = set(shape.get("required", ()))
        described.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "paramStructure": "by-name",
                "params": [
                    {"name": name, "required": name in required, "schema": each}
                    for name, each in shape.get("properties", {}).items()
                ],
                "result": {"name": "result", "schema": result},
                "examples": [
                    {
                        "name": entry.name,
                        "params": [{"name": key, "value": value} for key, value in entry.example.items()],
                    }
                ],
                "x-permission": entry.access.permission,
                "x-recorded": entry.access.recorded,
            }
        )
    return {
        "openrpc": "1.3.2",
        "info": {"title": "corral", "version": __version__},
        "methods": described,
        "components": {"schemas": schemas},
    }


def results_of(entries: Iterable[AnyMethod]) -> list[Any]:  # types, some of them annotated
    """Returns the types of the results of methods, in their order."""
    return [entry.result for entry in entries]


def components(types: Sequence[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """Returns a schema for each type, which refers to `#/components/schemas/NAME`, and these components: JSON Schemas by name."""
    references, schemas = msgspec.json.schema_components(
        types, schema_hook=any_value, ref_template="#/components/schemas/{name}"
    )
    for schema in schemas.values():
        if "description" in schema:  # of a docstring, whose lines are indented
            schema["description"] = cleandoc(schema["description"])
    return list(references), schemas


def any_value(type_: type) -> dict[str, object]:
    """Returns the schema of `object` in a Struct, which stands for any JSON value."""
    assert type_ is object, f"{type_} has a schema of its own"
    return {"description": "any JSON value"}  # an empty schema counts as none


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


TABLES: Mapping[str, type[Struct]] = {
    **DAEMON_TABLES,
    **SECTIONS,
    "agents": Spec,
    "checks": Check,
    "cluster": ClusterSettings,
    "models": DeclaredModel,
    "oauth": Oauth,
    "pools": DeclaredPool,
    "steps": Step,
    "stores": DeclaredStore,
    "teams": Team,
    "tenants": Tenant,
    "workflows": Workflow,
}
"""The tables that a page can name."""

_MARK = re.compile(r"^<!-- keys of (\w+) -->$", re.MULTILINE)
_WHOSE = {"": "both", "agent": "agents", "mcp": "servers"}


def with_tables(page: str) -> str:
    """Returns a page of Markdown with the tables that it names."""
    return _MARK.sub(lambda mark: "\n".join(_rows(TABLES[mark[1]])), page)


def _rows(struct: type[Struct]) -> list[str]:
    keys, sentences = fields_of(struct), sentences_of(struct)
    is_shared = any(field.key.of for field in keys.values())
    heads = ["key", "default", "unit", "meaning", *(["of"] if is_shared else []), "change"]
    found = [heads, ["---"] * len(heads)]
    for key, field in keys.items():
        whose = [_WHOSE[field.key.of]] if is_shared else []
        found.append([f"`{key}`", _default(field), field.unit, sentences[key].removesuffix("."), *whose, field.change])
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in found]


def _default(field: Field) -> str:
    value = field.default
    if field.key.default or value is NODEFAULT:
        return field.key.default or "has to be written"
    if value is None:
        return "`-`"
    if isinstance(value, int | float) and value and duration in field.rules:
        value = duration_text(value)
    elif isinstance(value, int) and value and size in field.rules:
        value = size_text(value)
    elif isinstance(value, float):
        value = int(value)
    return f"`{json.dumps(value, ensure_ascii=False)}`"
