"""Describes the paths beside the method table, for the OpenAPI document: probes, the document itself, and /runtime.

It must not know aiohttp or a daemon.
"""

from collections.abc import Mapping

Schema = dict[str, object]

ADDITIONS: tuple[tuple[str, str, Schema], ...] = (
    ("agents", "agent", {"id": "crawler", "name": "Crawler", "description": "Reads pages"}),
    ("teams", "team", {"id": "readers", "name": "Readers", "members": ["crawler"]}),
    ("workflows", "workflow", {"id": "digest", "name": "Digest"}),
)
"""Each with its plural, its noun and a configuration."""

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def other_paths() -> dict[str, object]:
    """Returns the paths that the method table does not have."""
    text: Schema = {"type": "string"}
    lives = _object(status={"const": "ok"})
    ready = _object(
        status={"enum": ["ready", "not ready"]},
        draining={"type": "boolean"},
        down={"type": "array", "items": text, "description": "Names, at most 200."},
    )
    refusals = _refusals(401, 403)
    not_ready: Schema = {"503": {"description": "Something is down, or the daemon stops.", **_json(ready)}}
    return {
        "/healthz": {"get": {**_get("healthz", "Returns that the daemon answers", lives), "security": []}},
        "/readyz": {
            "get": _get("readyz", "Returns whether everything that should run is up", ready, refusals | not_ready)
        },
        "/openapi.json": {"get": {**_get("openapi", "Returns this document", {"type": "object"}), "security": []}},
        "/metrics": {"get": _metrics()},
        **_runtime(),
    }


def _metrics() -> Schema:
    """Returns the operation of a scrape, whose text depends on `Accept`."""
    found = _get("metrics", "Returns the figures for Prometheus", {})
    kinds = ("text/plain", "application/openmetrics-text")
    content: Schema = {each: {"schema": {"type": "string"}} for each in kinds}
    found["responses"] = {
        "200": {"description": "The figures of this moment.", "content": content},
        **_refusals(401, 403),
    }
    return found


def _get(name: str, summary: str, schema: Schema, refusals: Mapping[str, object] | None = None) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["http"],
        "responses": {"200": {"description": "So it is.", **_json(schema)}, **(refusals or {})},
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _json(schema: Schema) -> Schema:
    return {"content": {"application/json": {"schema": schema}}}


# -- /runtime


def _runtime() -> dict[str, object]:
    """Returns the eight routes of a dynamic runtime."""
    changed = _object(message={"type": "string"}, changes={})
    ids: Schema = {"type": "array", "items": {"type": "string"}}
    count = _object(count={"type": "integer"}, ids=ids)
    stats = _object(agents=count, teams=count, workflows=count, databases=count)
    paths: dict[str, object] = {}
    for plural, noun, example in ADDITIONS:
        paths[f"/runtime/{plural}"] = {"post": _addition(noun, example)}
        paths[f"/runtime/{plural}/{{id}}"] = {"delete": _removal(noun)}
    refresh = _get("refresh_runtime", "Reads the configuration again", changed, _refusals(409, 422))
    paths["/runtime/refresh"] = {"post": _of_runtime(refresh, "daemon.reload")}
    shown = _get("runtime_counts", "Returns the number and the names of each kind", stats)
    paths["/runtime/stats"] = {"get": _of_runtime(shown, "runtime.stats")}
    return paths


def _of_runtime(operation: Schema, method: str) -> Schema:
    responses = operation["responses"]
    assert isinstance(responses, dict), "it has answers"
    answers: Schema = {**responses, **_refusals(400, 401, 403, 404, 406, 429, 431, 500, 502, 503, 504)}
    return {**operation, "tags": ["runtime"], "x-method": method, "responses": answers}


def _addition(noun: str, example: Schema) -> Schema:
    field = f"{noun}_config"
    shape: Schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1, "description": "Its name."},
            "name": {"type": "string", "description": "Its title."},
            "description": {"type": "string"},
            "template": {"type": "string", "description": "`default` without any."},
        },
        "required": [] if noun == "workflow" else ["id"],
        "description": "Any further keys are those of its table in the configuration.",
    }
    text: Schema = {"type": "string", "contentMediaType": "application/json"}
    form: Schema = {"type": "object", "properties": {field: text}, "required": [field]}
    content: Schema = {"application/json": {"schema": shape, "example": example}}
    content |= {kind: {"schema": form} for kind in FORMS}
    added = _object(message={"type": "string"}, id={"type": "string"})
    found = _get(
        f"add_runtime_{noun}",
        f"Adds a{'n' if noun == 'agent' else ''} {noun}",
        added,
        _refusals(408, 409, 413, 415, 422),
    )
    found["requestBody"] = {"required": True, "content": content}
    return _of_runtime(found, f"{noun}.add")


def _removal(noun: str) -> Schema:
    removed = _object(message={"type": "string"}, id={"type": "string"})
    name = f"remove_runtime_{noun}"
    found = _get(name, f"Removes a{'n' if noun == 'agent' else ''} {noun}", removed, _refusals(409, 422))
    text: Schema = {"type": "string", "minLength": 1}
    found["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": text}]
    return _of_runtime(found, f"{noun}.rm")


def _refusals(*statuses: int) -> Schema:
    return {str(code): {"$ref": f"#/components/responses/{code}"} for code in statuses}
