"""Describes the method table as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1), served at `/openapi.json`.

Each route of a method is an operation: its parameters and its body are the params of the method, its answer the result.
Guarantees that operation ids are unique, and that no two paths differ by the name of a key alone. It must not know aiohttp
or a daemon: `corral schema openapi` works without one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec

from corral import __version__
from corral.supervisor.api.schema.documents import any_value
from corral.worker.methods.faces import Resumption, Route
from corral.worker.methods.method import AnyMethod

from .other_paths import other_paths
from .routes import ERROR_STATUSES, KEY_HEADERS, MESSAGES, PREFIX, success

Schema = dict[str, object]

EVENT_STREAM = "text/event-stream"

OF_BODIES = (408, 413, 415)
"""Statuses of requests with a body."""

TAGS = {
    "agent": "Agents and MCP servers as supervised processes.",
    "approval": "Requests of agents that wait for an answer.",
    "audit": "Records of changes and of their callers.",
    "auth": "The identity and the rights of a caller.",
    "checkpoint": "Saved states of workers.",
    "daemon": "The daemon itself.",
    "event": "Events, as they are kept and as they come.",
    "http": "State of the daemon, and this document, beside the method table.",
    "log": "Lines that workers wrote.",
    "mcp": "The pool of MCP servers, and their tools.",
    "memory": "Sessions and memory of agents.",
    "rpc": "The method table, described.",
    "runtime": "Agents, teams and workflows added and removed while the daemon runs.",
    "schedule": "Tasks that are submitted at times.",
    "secret": "Values that the configuration names.",
    "statistics": "Numbers of the last minutes.",
    "task": "Tasks: run, submitted, followed, cancelled.",
    "team": "Teams.",
    "token": "Tokens, with their rights and agents.",
    "workflow": "Workflows.",
}


def openapi(methods: Mapping[str, AnyMethod]) -> dict[str, object]:
    """Returns the method table as an OpenAPI 3.1 document."""
    served = [methods[name] for name in sorted(methods) if methods[name].faces.routes]
    params, results, components = _schemas(served)
    paths: dict[str, dict[str, Schema]] = {}
    late: list[tuple[AnyMethod, Route]] = []
    routes = ((method, *numbered) for method in served for numbered in enumerate(method.faces.routes))
    for method, number, route in routes:
        if method.faces.only_streams:
            late.append((method, route))
            continue
        operation = _Operation(method, route, number)
        described = operation.described(params[method.name], results[method.name], components)
        paths.setdefault(operation.path, {})[route.verb.lower()] = described
    for method, route in late:
        _add_stream(paths[_path(route)][route.verb.lower()], method)
    _forget_unused(paths, components)
    nouns = sorted({name.partition(".")[0] for name in methods} | {"http"})
    return {
        "openapi": "3.1.1",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "corral",
            "version": __version__,
            "summary": "Supervises AI agents and MCP servers.",
            "description": "Every method of the daemon over HTTP. `x-method` is its name on the control socket.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The daemon that serves this document."}],
        "security": [{"bearer": []}],
        "tags": [{"name": noun, "description": TAGS.get(noun, f"Methods `{noun}.*`.")} for noun in nouns],
        "paths": {**other_paths(), **dict(sorted(paths.items()))},
        "components": {
            "schemas": dict(sorted({**components, "ErrorAnswer": _ERROR}.items())),
            "responses": {str(status): _refusal(status) for status in sorted(MESSAGES)},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of `corral token add`, or the value of OS_SECURITY_KEY.",
                }
            },
        },
    }


def _schemas(served: Sequence[AnyMethod]) -> tuple[dict[str, Schema], dict[str, Schema], dict[str, Schema]]:
    """Returns the schema of the params and of the result of each method, and the components that they refer to."""
    schemas, components = msgspec.json.schema_components(
        [method.params for method in served] + [method.result for method in served],
        schema_hook=any_value,
        ref_template="#/components/schemas/{name}",
    )
    names = [method.name for method in served]
    params = {
        name: components[str(schema["$ref"]).rpartition("/")[2]] for name, schema in zip(names, schemas, strict=False)
    }
    return params, dict(zip(names, schemas[len(names) :], strict=True)), dict(components)


def _forget_unused(paths: object, components: dict[str, Schema]) -> None:
    """Removes the components that nothing refers to: params whose keys are all in paths and queries."""
    used: set[str] = set()
    left = [paths]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            fields = cast("dict[str, object]", value)
            left += fields.values()
            name = str(fields.get("$ref", "")).rpartition("#/components/schemas/")[2]
            if name and name not in used:
                used.add(name)
                left.append(components.get(name))
        elif isinstance(value, list):
            left += cast("list[object]", value)
    for name in [*components]:
        if name not in used:
            del components[name]


def _path(route: Route) -> str:
    """Returns the path below the root. A key that takes a list has the name of one of its values."""
    parts = [f"{{{one_of(name)}}}" if is_key else name for name, is_key in route.segments]
    return f"{PREFIX}/{'/'.join(parts)}"


def one_of(key: str) -> str:
    """Returns the name of one value of a key: `names` has the values of `name`."""
    return key.removesuffix("s") if key in ("names", "tasks", "checkpoints", "agents") else key


class _Operation:
    """Describes one route of a method."""

    def __init__(self, method: AnyMethod, route: Route, number: int) -> None:
        self.method, self.route, self.path = method, route, _path(route)
        base = method.faces.python or method.name.replace(".", "_")
        self.id = base if number == 0 else f"{base}_{self._suffix(number)}"

    def _suffix(self, number: int) -> str:
        """Returns what tells this route from the first: that it has no key, another verb, or another word or key."""
        first, own = self.method.faces.routes[0], self.route
        if first.keys and not own.keys and own.segments[-1] == first.segments[-1]:
            return "selected" if one_of(first.keys[0]) != first.keys[0] else "default"
        if first.keys and not own.keys:
            return "selected" if own.verb == "DELETE" else "default"
        words = [name for name, is_key in own.segments if not is_key]
        others = {name for name, is_key in first.segments if not is_key}
        if own.verb != first.verb:
            return f"by_{own.verb.lower()}"
        if news := [word.replace("-", "_") for word in words if word not in others]:
            return f"of_{news[0]}"
        return f"of_{one_of(own.keys[0])}" if own.keys else str(number)

    def described(self, params: Schema, result: Schema, components: dict[str, Schema]) -> dict[str, object]:
        """Returns the operation; a body of its own is added to the components."""
        method = self.method
        found: dict[str, object] = {
            "operationId": self.id,
            "summary": method.summary.rstrip("."),
            "description": "\n\n".join(" ".join(part.split()) for part in method.doc.split("\n\n")),
            "tags": [method.name.partition(".")[0]],
            "x-method": method.name,
            "x-permission": method.access.permission,
        }
        if parameters := [*self._in_path(params), *self._in_query(params), *self._headers(params)]:
            found["parameters"] = parameters
        if self.route.verb not in ("GET", "DELETE") and (body := self._body(params, components)):
            found["requestBody"] = body
        status = success(method, self.route)
        answer: dict[str, object] = {
            "description": "The result of the method.",
            "content": {"application/json": {"schema": result}},
        }
        if status == 202:
            answer["headers"] = {"Location": {"description": "Of the task.", "schema": {"type": "string"}}}
        has_body = "requestBody" in found
        refusals = {
            str(code): {"$ref": f"#/components/responses/{code}"}
            for code in MESSAGES
            if (has_body or code not in OF_BODIES) and (code != 412 or "expected" in _properties(params))
        }
        found["responses"] = {str(status): answer, **refusals}
        if method.faces.streams:
            _add_stream(found, method)
        return found

    def _in_path(self, params: Schema) -> Iterator[Schema]:
        properties = _properties(params)
        for key in self.route.keys:
            schema = properties[key]
            if schema.get("type") == "array":
                schema = cast("Schema", schema["items"])
            plain = _plain(schema)
            if plain.get("type") == "string":
                plain.setdefault("minLength", 1)
            found: Schema = {"name": one_of(key), "in": "path", "required": True, "schema": plain}
            yield found | self._example(key)

    def _left(self, params: Schema) -> dict[str, Schema]:
        """Returns the properties that the path does not hold, nor has one value of."""
        gone = {name for key in self.route.keys for name in (key, one_of(key))}
        return {name: each for name, each in _properties(params).items() if name not in gone}

    def _required(self, params: Schema) -> set[str]:
        return set(cast("Sequence[str]", params.get("required", ()))) - set(self.route.keys)

    def _in_query(self, params: Schema) -> Iterator[Schema]:
        if self.route.verb not in ("GET", "DELETE"):
            return
        required = self._required(params)
        for name, schema in self._left(params).items():
            yield {
                "name": name,
                "in": "query",
                "required": name in required,
                "schema": _not_null(schema),
                **self._example(name),
            }

    def _example(self, key: str) -> Schema:
        """Returns the example of a parameter: of a path one value, of a query all."""
        value = self.method.example.get(key)
        if value is None:
            return {}
        if key in self.route.keys and isinstance(value, list):
            value = cast("list[object]", value)[0]
        return {"example": value}

    def _headers(self, params: Schema) -> Iterator[Schema]:
        resumption = self.method.faces.resumption
        if resumption is not None:
            yield _last_event_id(resumption)
        for header, key in KEY_HEADERS.items():
            if key in _properties(params):
                schema = {"description": f"Stands for `{key}`.", **_plain(_properties(params)[key])}
                yield {"name": header, "in": "header", "schema": schema}

    def _body(self, params: Schema, components: dict[str, Schema]) -> Schema | None:
        left = self._left(params)
        if not left:
            return None
        required = sorted(self._required(params))
        name = str(params["title"])
        if len(left) < len(_properties(params)):
            name += f"Without{''.join(key.capitalize() for key in self.route.keys)}"
            shape = {**params, "title": name, "properties": left, "required": required}
            if not required:
                del shape["required"]
            components[name] = shape
        content: Schema = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        content["example"] = {key: each for key, each in self.method.example.items() if key in left}
        return {"required": bool(required), "content": {"application/json": content}}


def _properties(schema: Schema) -> dict[str, Schema]:
    return cast("dict[str, Schema]", schema.get("properties", {}))


def _not_null(schema: Schema) -> Schema:
    """Returns a schema without null, which a path and a query cannot have: the key is left out instead."""
    choices = cast("Sequence[Schema]", schema.get("anyOf", ()))
    if not choices:
        return schema
    left = [each for each in choices if each.get("type") != "null"]
    rest = {k: v for k, v in schema.items() if k != "anyOf" and not (k == "default" and v is None)}
    return {**left[0], **rest} if len(left) == 1 else {"anyOf": left, **rest}


def _plain(schema: Schema) -> Schema:
    """Returns the schema of a path or a header, which have neither null nor a default."""
    return {key: each for key, each in _not_null(schema).items() if key != "default"}


def _last_event_id(resumption: Resumption) -> Schema:
    return {
        "name": "Last-Event-ID",
        "in": "header",
        "description": f"Of a stream: continues after it, as `{resumption.key}` does.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$" if resumption.of_all else "^[0-9]+$"},
    }


def _add_stream(operation: Schema, method: AnyMethod) -> None:
    """Adds the answer of a request that accepts an event stream."""
    responses = cast("dict[str, dict[str, object]]", operation["responses"])
    content = cast("dict[str, object]", responses[min(responses)]["content"])
    content[EVENT_STREAM] = {
        "schema": {
            "type": "string",
            "description": "Server-sent events with JSON as `data`; the result of the method comes last.",
        }
    }
    operation["x-stream-method"] = method.name
    operation["x-stream-operation"] = method.faces.python or method.name.replace(".", "_")
    if method.faces.resumption is not None:
        parameters = cast("list[Schema]", operation.setdefault("parameters", []))
        if all(each["name"] != "Last-Event-ID" for each in parameters):
            parameters.append(_last_event_id(method.faces.resumption))


# -- errors

_ERROR: Schema = {
    "title": "ErrorAnswer",
    "description": "A refusal or a failure.",
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "integer", "description": "The code of JSON-RPC."},
                "name": {"type": "string", "description": "The class of the error."},
                "message": {"type": "string", "description": "One line for people."},
                "data": {"type": "object", "description": "Facts for programs."},
            },
            "required": ["code", "name", "message", "data"],
        }
    },
    "required": ["error"],
}


def _refusal(status: int) -> Schema:
    example = MESSAGES[status]
    names = [name for name, code in ERROR_STATUSES.items() if code == status]
    answer: Schema = {
        "description": ", ".join(names) or example.name,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ErrorAnswer"},
                "example": {"error": example.to_record()},
            }
        },
    }
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status in (429, 503):
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}}
    return answer
