"""Translates the rules that decode single values to JSON Schema (2020-12)."""

from collections.abc import Callable, Mapping
from typing import Any

from corral.supervisor.config.declared import cluster as settings
from corral.supervisor.config.declared import models as models
from corral.supervisor.config.declared import oauth as oauth
from corral.supervisor.config.declared import stores as declared
from corral.supervisor.config.declared import uids
from corral.supervisor.config.decoding import values
from corral.supervisor.config.decoding.decoder import Field
from corral.supervisor.config.decoding.values import Available, Between, Each, Matching, OneOf, Rule, Whole
from corral.supervisor.config.spec import job, labels, listen, probe_spec, spec, workflow

Schema = dict[str, Any]  # Any: JSON

DURATION: Schema = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{values.DURATION_TEXT.pattern}$"}]
}
SIZE: Schema = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{values.SIZE_TEXT.pattern}$"}]
}
TEXT: Schema = {"type": "string"}
STRINGS: Schema = {"type": "object", "additionalProperties": TEXT}
ARGV: Schema = {"type": "array", "items": TEXT, "minItems": 1}
VARIABLE: Schema = {"type": "string", "pattern": r"\$\{"}
"""A string with a variable, which may stand for a value of any type."""

_COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": 1000}
_SCALE: Schema = {
    "anyOf": [
        _COUNT,
        {
            "type": "object",
            "properties": {"min": _COUNT, "max": _COUNT},
            "required": ["min", "max"],
            "additionalProperties": False,
        },
    ]
}
_RETRY_WORDS: Schema = {"enum": [*values.RETRY_WORDS, *values.RETRY_ERRORS]}
_RETRY_REASONS: Schema = {"anyOf": [_RETRY_WORDS, {"type": "array", "items": _RETRY_WORDS, "minItems": 1}]}


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


_RETENTION = _object(dict.fromkeys(spec.Retention.__struct_fields__, DURATION))
_RETRY = _object(
    {
        "max_attempts": {"type": "integer", "minimum": 1, "maximum": 1000},
        "retry_on": _RETRY_REASONS,
        "retry_backoff_base": DURATION,
    }
)
_ADDRESS: Schema = {
    "anyOf": [
        TEXT,
        {
            **_object(
                {
                    "address": TEXT,
                    "name": {"type": "string", "pattern": f"^{listen.NAME}$"},
                    "mode": {"type": "string", "pattern": f"^{listen.MODE}$"},
                }
            ),
            "required": ["address"],
        },
    ]
}
_LISTEN: Schema = {
    "anyOf": [*_ADDRESS["anyOf"], {"type": "array", "items": _ADDRESS, "maxItems": listen.ADDRESSES_MAX}]
}
_PLACEMENT = _object(
    {
        "labels": STRINGS,
        "spread": {"enum": ["none", "node"]},
        "replicas": {"type": "integer", "minimum": 0, "maximum": settings.REPLICAS_MAX},
    }
)
_PRICES = _object({key: {"type": "number", "minimum": 0, "maximum": models.PRICE_MAX} for key in models.PRICE_KEYS})
_FORMAT = _object({"description": TEXT, "schema": {"type": "object"}})


def of_field(field: Field) -> Schema:
    """Returns the schema of the values of a key."""
    found: Schema = {}
    for rule in field.rules:
        found = _with(found, rule)
    return found


def or_variable(schema: Schema) -> Schema:
    """Returns a schema that also takes a string with a variable."""
    if schema.get("type") == "string" and "pattern" not in schema:
        return schema
    return {"anyOf": [schema, {"$ref": "#/$defs/variable"}]} if schema else schema


def _with(found: Schema, rule: Rule) -> Schema:
    """Returns the schema with one more rule."""
    if isinstance(rule, Whole):
        return {"type": "integer", "minimum": rule.minimum, "maximum": rule.maximum}
    if isinstance(rule, OneOf):
        return {"enum": list(rule.choices)}
    if isinstance(rule, Available):
        gone = {word for word, _ in rule.missing}
        return {"enum": [word for word in found["enum"] if word not in gone]}
    if isinstance(rule, Matching):
        return {"type": "string", "pattern": f"^({rule.pattern})$".replace(r"\0", r"\x00")}
    if isinstance(rule, Each):
        items = or_variable(_with({}, rule.rule))
        return {"type": "array", "items": items}
    if isinstance(rule, Between):
        return _bounded(found, rule)
    return _SCHEMAS[rule](found)


def _bounded(found: Schema, rule: Between) -> Schema:
    number, *rest = found["anyOf"]
    number = {**number, "minimum": rule.minimum}
    if rule.maximum is not None:
        number["maximum"] = rule.maximum
    return {"anyOf": [number, *rest]}


def _same(found: Schema) -> Schema:
    return found


def _above_zero(found: Schema) -> Schema:
    return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, *found["anyOf"][1:]]}


def _always(schema: Schema) -> Callable[[Schema], Schema]:
    return lambda _found: schema


def _check(ways: Mapping[str, Schema], keys: Mapping[str, Field]) -> Schema:
    own = {key: or_variable(of_field(field)) for key, field in keys.items()}
    return _object({**ways, **own})


def _checks(_found: Schema) -> Schema:
    check = _check({"exec": ARGV, "http": TEXT, "tcp": TEXT, "mcp": {"const": True}}, probe_spec.CHECK_KEYS)
    return {"anyOf": [check, {"type": "array", "items": check, "maxItems": probe_spec.CHECKS_MAX}]}


def _readiness(_found: Schema) -> Schema:
    return _check({"log": TEXT, "http": TEXT, "tcp": TEXT, "exec": ARGV}, probe_spec.READY_KEYS)


def _smoke(_found: Schema) -> Schema:
    return {**_check({"input": {}}, probe_spec.SMOKE_KEYS), "required": ["objective"]}


def _oauth(_found: Schema) -> Schema:
    return _object({key: or_variable(of_field(field)) for key, field in oauth.OAUTH_KEYS.items()})


_SCHEMAS: Mapping[Rule, Callable[[Schema], Schema]] = {
    values.duration: _always(DURATION),
    values.above_zero: _above_zero,
    values.whole_seconds: _same,
    values.size: _always(SIZE),
    values.boolean: _always({"type": "boolean"}),
    values.file_path: _always({"type": "string", "minLength": 1}),
    values.argument: _always(TEXT),
    values.argv: _always(ARGV),
    values.module_and_name: _always({"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"}),
    values.variables: _always(STRINGS),
    values.web_url: _always({"type": "string", "pattern": "^https?://"}),
    values.push_address: _always({"type": "string", "pattern": "^https?://"}),
    values.http_headers: _always(STRINGS),
    values.signing_key: _always(TEXT),
    values.rules_of_actions: _always({"type": "object", "additionalProperties": {"enum": list(values.PERMISSIONS)}}),
    values.json_schema: _always({"type": "object"}),
    values.free_table: _always({"type": "object"}),
    values.signal_name: _always({"enum": list(values.SIGNALS)}),
    values.protocol_revision: _always({"enum": list(values.PROTOCOL_VERSIONS)}),
    values.port_of: _same,
    values.retry_reasons: _always(_RETRY_REASONS),
    uids.uid_range: _always({"type": "string", "pattern": f"^{uids.RANGE.pattern}$"}),
    job.interval: _same,
    job.cron_expression: _always(TEXT),
    job.date_and_time: _always(TEXT),
    job.zone_name: _always(TEXT),
    labels.label_table: _always(STRINGS),
    labels.title_text: _always(TEXT),
    labels.description_text: _always(TEXT),
    listen.listen_addresses: _always(_LISTEN),
    probe_spec.http_url: _always({"type": "string", "pattern": "^https?://"}),
    probe_spec.checks: _checks,
    probe_spec.readiness: _readiness,
    probe_spec.smoke_task: _smoke,
    probe_spec.recovery_name: _always(TEXT),
    probe_spec.actions: _always({"type": "object", "additionalProperties": ARGV}),
    declared.store_url: _always(TEXT),
    settings.addresses: _always(TEXT),
    settings.hidden: _always(TEXT),
    settings.node_labels: _always(STRINGS),
    settings.placement_table: _always(_PLACEMENT),
    models.provider_key: _always(TEXT),
    models.price_table: _always(_PRICES),
    oauth.loopback_address: _always({"type": "string", "pattern": "^http://"}),
    oauth.oauth_table: _oauth,
    spec.scale: _always(_SCALE),
    spec.retention_table: _always(_RETENTION),
    workflow.json_value: _always({}),
    workflow.template_text: _always(TEXT),
    workflow.retry_table: _always(_RETRY),
    workflow.format_table: _always(_FORMAT),
    workflow.items_for_each: _always({"anyOf": [{"type": "array"}, TEXT]}),
}
