"""Describes one service as an OpenAPI 3.1 document, for clients that are generated from it."""

from typing import Any

Document = dict[str, Any]  # Any: JSON of many shapes

_ERROR: Document = {
    "type": "object",
    "properties": {
        "code": {"type": "integer"},
        "name": {"type": "string"},
        "message": {"type": "string"},
        "data": {"type": "object"},
    },
    "required": ["code", "name", "message", "data"],
}

_RESULT: Document = {
    "type": "object",
    "properties": {
        "task": {"type": "string", "description": "its id"},
        "state": {"enum": ["succeeded", "failed", "cancelled", "timeout"]},
        "output": {"description": "what the handler has returned"},
        "error": _ERROR,
    },
    "required": ["task", "state", "output"],
}

_BODY: Document = {
    "type": "object",
    "properties": {
        "input": {"description": "any JSON value, for the handler"},
        "objective": {"type": "string", "default": ""},
        "context": {"description": "any JSON value, for the handler"},
        "session": {"type": "string", "minLength": 1, "maxLength": 200},
        "timeout_s": {"type": "number", "exclusiveMinimum": 0},
        "stream": {"type": "boolean", "default": False},
    },
    "additionalProperties": False,
}

_HEALTH: Document = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "status": {"enum": ["ok", "unavailable"]},
        "reasons": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "status", "reasons"],
}


def document(name: str, *, with_token: bool) -> Document:
    """Returns the document of the service of that agent, team or workflow."""
    failed = _answer("an error, or the task has failed", {"properties": {"error": _ERROR}})
    run: Document = {
        "summary": "Runs a task and answers when it has ended.",
        "operationId": "run",
        "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}],
        "requestBody": {"content": {"application/json": {"schema": _BODY}}},
        "responses": {"200": _answer("the task has succeeded", _RESULT), "default": failed},
    }
    run["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    health: Document = {
        "summary": "Returns whether tasks can be done now.",
        "operationId": "health",
        "security": [],
        "responses": {"200": _answer("they can", _HEALTH), "503": _answer("they cannot", _HEALTH)},
    }
    status: Document = {
        "summary": "Returns the state, with that of each worker.",
        "operationId": "status",
        "responses": {"200": _answer("the state", {"type": "object"}), "default": failed},
    }
    found: Document = {
        "openapi": "3.1.0",
        "info": {"title": name, "version": "1"},
        "paths": {"/run": {"post": run}, "/health": {"get": health}, "/status": {"get": status}},
    }
    if with_token:
        found["security"] = [{"token": []}]
        found["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return found


def _answer(meaning: str, schema: Document) -> Document:
    return {"description": meaning, "content": {"application/json": {"schema": schema}}}
