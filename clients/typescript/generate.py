"""Writes client.ts from the OpenAPI document: a type for each schema, a method for each operation.

python clients/typescript/generate.py [--check]
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from corral.supervisor.faces.http_api.openapi import openapi
from corral.worker.methods.table import METHODS

TARGET = Path(__file__).with_name("client.ts")

Schema = Mapping[str, Any]  # JSON

HEAD = """\
// Generated from the OpenAPI document by generate.py: do not edit.

import { Connection } from "./connection.ts";
import type { RequestOptions, ServerEvent } from "./connection.ts";

export { Connection, CorralError } from "./connection.ts";
export type { ConnectionOptions, RequestOptions, ServerEvent } from "./connection.ts";
"""

PLAIN = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}

TAKEN = frozenset(
    [
        "Array",
        "AsyncGenerator",
        "Connection",
        "ConnectionOptions",
        "Corral",
        "CorralError",
        "Error",
        "Promise",
        "Record",
        "RequestOptions",
        "ServerEvent",
    ]
)
"""Names of types that client.ts has from elsewhere."""


def document() -> dict[str, Any]:
    """The OpenAPI document as a client has it."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(openapi(METHODS)))
    return found


def camel(name: str) -> str:
    """`stop_agent` as stopAgent."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def type_name(reference: str) -> str:
    """The type of a component: what is no identifier has underscores."""
    name = re.sub(r"\W", "_", reference.rpartition("/")[2])
    return f"{name}Schema" if name in TAKEN else name


def key_of(name: str) -> str:
    """A key of an object, quoted where it has to be."""
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name) else f'"{name}"'


def literal(value: object) -> str:
    """A constant."""
    return msgspec.json.encode(value).decode()


def type_of(schema: Schema, depth: int = 0) -> str:
    """The TypeScript of a schema."""
    if "$ref" in schema:
        return type_name(schema["$ref"])
    if "const" in schema:
        return literal(schema["const"])
    if "enum" in schema:
        return " | ".join(map(literal, schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return union(type_of(each, depth) for each in schema[key])
    kind = schema.get("type")
    if isinstance(kind, list):
        return union(type_of({**schema, "type": each}, depth) for each in kind)
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(type_of(each, depth) for each in schema['prefixItems'])}]"
        return f"Array<{type_of(schema.get('items', {}), depth)}>"
    if kind == "object":
        return object_type(schema, depth)
    return PLAIN.get(str(kind), "unknown")


def union(types: Iterator[str]) -> str:
    """A union, without what stands in it twice."""
    found = list(dict.fromkeys(types))
    return "unknown" if "unknown" in found else " | ".join(found)


def object_type(schema: Schema, depth: int) -> str:
    """The TypeScript of an object: its keys, or a record of values."""
    properties: Schema = schema.get("properties", {})
    more = schema.get("additionalProperties")
    if not properties:
        if more is False:
            return "Record<string, never>"
        return f"Record<string, {type_of(more, depth) if isinstance(more, dict) else 'unknown'}>"
    required = set(schema.get("required", ()))
    indent = "  " * (depth + 1)
    lines = [
        f"{indent}{key_of(name)}{'' if name in required else '?'}: {type_of(each, depth + 1)};"
        for name, each in properties.items()
    ]
    return "\n".join(["{", *lines, "  " * depth + "}"])


def comment(text: str, indent: str = "") -> str:
    """A comment of a type or a method."""
    lines = [line.strip() for line in text.replace("*/", "*\\/").strip().splitlines()]
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */"
    body = [f"{indent} * {line}".rstrip() for line in lines]
    return "\n".join([f"{indent}/**", *body, f"{indent} */"])


def declarations(found: Schema) -> Iterator[str]:
    """A type for each component."""
    for name, schema in found["components"]["schemas"].items():
        if "description" in schema:
            yield comment(schema["description"])
        text = type_of(schema)
        is_interface = text.startswith("{") and schema.get("type") == "object"
        head = f"export interface {type_name(name)} " if is_interface else ""
        yield f"{head}{text}\n" if head else f"export type {type_name(name)} = {text};\n"


class Operation:
    """One operation: its arguments are one object with the keys of the path, the query and the body."""

    def __init__(self, path: str, verb: str, described: Schema, schemas: Schema) -> None:
        self.path, self.verb, self.described, self.schemas = path, verb, described, schemas
        self.id = camel(described["operationId"])
        parameters = described.get("parameters", ())
        self.in_path = [each for each in parameters if each["in"] == "path"]
        self.in_query = [each for each in parameters if each["in"] == "query"]
        body = described.get("requestBody", {}).get("content", {}).get("application/json")
        self.body: Schema | None = body["schema"] if body else None
        required = {each["name"] for each in (*self.in_path, *self.in_query) if each["required"]}
        if self.body is not None:
            reference = str(self.body.get("$ref", "")).rpartition("/")[2]
            required |= set(schemas.get(reference, self.body).get("required", ()))
        self.is_required = bool(required)

    @property
    def answer(self) -> Schema:
        """The content of the first answer: that of success."""
        responses = self.described["responses"]
        content: Schema = responses[min(responses)].get("content", {})
        return content

    def arguments(self) -> str:
        """The parameters of the method."""
        keys = [
            f"{key_of(each['name'])}{'' if each['required'] else '?'}: {type_of(each['schema'], 2)}"
            for each in (*self.in_path, *self.in_query)
        ]
        parts = [f"{{ {'; '.join(keys)} }}"] if keys else []
        parts += [type_of(self.body, 1)] if self.body else []
        if not parts:
            return "options?: RequestOptions"
        optional = "" if self.is_required else " = {}"
        return f"args: {' & '.join(parts)}{optional}, options?: RequestOptions"

    def call(self) -> str:
        """What the methods of the connection take: verb, path, names of the query, arguments."""
        names = literal([each["name"] for each in self.in_query])
        given = "args" if self.in_path or self.in_query or self.body else "{}"
        return f'"{self.verb.upper()}", "{self.path}", {names}, {given}, options'

    def methods(self) -> Iterator[str]:
        """The method, and that of the stream."""
        text = self.described.get("description") or self.described["summary"]
        if "application/json" in self.answer:
            result = type_of(self.answer["application/json"]["schema"], 1)
            yield comment(text, "  ")
            yield f"  {self.id}({self.arguments()}): Promise<{result}> {{"
            yield f"    return this.request({self.call()}) as Promise<{result}>;"
            yield "  }\n"
        if "text/event-stream" in self.answer:
            stream = camel(self.described["x-stream-operation"])
            name = stream if stream != self.id else f"{self.id}Stream"
            if self.described["x-stream-method"] == self.described["x-method"]:
                name = f"{self.id}Stream"
            yield comment(f"Yields the events of `{self.described['x-stream-method']}`.", "  ")
            yield f"  {name}({self.arguments()}): AsyncGenerator<ServerEvent> {{"
            yield f"    return this.stream({self.call()});"
            yield "  }\n"


def operations(found: Schema) -> Iterator[Operation]:
    """All operations, by path."""
    for path, item in found["paths"].items():
        for verb, described in item.items():
            yield Operation(path, verb, described, found["components"]["schemas"])


def client(found: Schema) -> str:
    """The text of client.ts."""
    lines: list[str] = [HEAD, *declarations(found)]
    lines.append(comment("A client of one daemon: each method is an operation of its OpenAPI document."))
    lines.append("export class Corral extends Connection {")
    for operation in operations(found):
        lines += operation.methods()
    text = "\n".join(lines).rstrip() + "\n}\n"
    return re.sub(r"\n{3,}", "\n\n", text)


def main(arguments: Sequence[str]) -> int:
    """Writes the file, or says that it is not fresh."""
    text = client(document())
    if "--check" in arguments:
        if TARGET.read_text() == text:
            return 0
        print("client.ts is not fresh: run clients/typescript/generate.py", file=sys.stderr)
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
