"""Describes the method table as an OpenRPC 1.3 document (https://spec.open-rpc.org), which `rpc.discover` returns.

docs/reference/protocol.md is generated from it.
"""

from collections.abc import Mapping

import msgspec

from ... import __version__
from .table import Method


def openrpc(methods: Mapping[str, Method]) -> dict[str, object]:
    """Returns the method table as an OpenRPC 1.3 document."""
    entries = [methods[name] for name in sorted(methods)]
    schemas, components = msgspec.json.schema_components(
        [entry.params for entry in entries],
        schema_hook=any_value,
        ref_template="#/components/schemas/{name}",
    )
    described: list[dict[str, object]] = []
    for entry, schema in zip(entries, schemas, strict=True):
        reference = str(schema["$ref"]).rpartition("/")[2]
        shape = components[reference]
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
                "result": {"name": "result", "schema": {}},
                "x-permission": entry.permission,
                "x-recorded": entry.recorded,
            }
        )
    return {
        "openrpc": "1.3.2",
        "info": {"title": "corral", "version": __version__},
        "methods": described,
        "components": {"schemas": components},
    }


def any_value(type_: type) -> dict[str, object]:
    """Returns the schema of `object` in a Struct, which stands for any JSON value."""
    assert type_ is object, f"{type_} has a schema of its own"
    return {"description": "any JSON value"}  # an empty schema counts as none
