"""Describes the method table as an OpenRPC 1.3 document (https://spec.open-rpc.org), which `rpc.discover` returns.

The reference page of the protocol is made from it. `components` makes the JSON Schemas, also for other documents.
"""

from collections.abc import Iterable, Mapping, Sequence
from inspect import cleandoc
from typing import Any

import msgspec

from corral import __version__
from corral.worker.methods.method import AnyMethod

Schema = dict[str, Any]  # the values of its keys have types of their own


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
    """Returns a schema for each type, which refers to the components, and the components: JSON Schemas by name.

    A component is at `#/components/schemas/NAME`, as in OpenRPC and OpenAPI documents.
    """
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
