"""Asks the person at an MCP client for required arguments of an agent's tool that a call leaves out (`ask_missing`).

A legacy client is asked at once; a modern one gets a result that requires input, and calls again with the same arguments and the
person's response. The check of the input refuses a call that lacks one even then.
"""

from collections.abc import Mapping

from corral.mcp.protocol.messages import Caller
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.tasks.worker_api.exposed import Receiver
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError

from .elicitation import ELICIT, InputRequired

KEY = "missing"
"""Key of the form among the input that a result requires."""

PRIMITIVES = frozenset({"string", "number", "integer", "boolean"})
"""Types of the fields of a form."""

OF_FIELDS = frozenset(
    {*("type", "title", "description", "default", "enum", "format"), *("minLength", "maxLength", "minimum", "maximum")}
)
"""Keys of a schema that a field of a form may have."""


async def complete(
    receiver: Receiver, arguments: Mapping[str, object], params: Mapping[str, object], caller: Caller
) -> Mapping[str, object]:
    """Returns the arguments with what the person gives."""
    form = form_of(receiver, arguments)
    if form is None or has_response(params):
        return completed(receiver, arguments, params)
    if caller.ask is None:
        raise InputRequired({KEY: {"method": ELICIT, "params": form}}, None)
    try:
        response = await caller.ask(ELICIT, form)
    except CorralError:
        return arguments  # it is refused, and the refusal names what is missing
    return completed(receiver, arguments, {"inputResponses": {KEY: response}})


def has_response(params: Mapping[str, object]) -> bool:
    """Returns True if a call has the response to a form."""
    return KEY in (codec.as_object(params.get("inputResponses")) or {})


def form_of(receiver: Receiver, arguments: Mapping[str, object]) -> dict[str, object] | None:
    """Returns the form for what a call leaves out; None if nothing is, or it cannot be asked in a form."""
    fields: dict[str, object] = {}
    for key, schema in _missing(receiver, arguments).items():
        field = {each: value for each, value in schema.items() if each in OF_FIELDS}
        if field.get("type") not in PRIMITIVES:
            return None
        fields[key] = field
    if not fields:
        return None
    schema = {"type": "object", "properties": fields, "required": sorted(fields)}
    title = receiver.title or receiver.name
    return {"mode": "form", "message": f"{title} needs more:", "requestedSchema": schema}


def completed(
    receiver: Receiver, arguments: Mapping[str, object], params: Mapping[str, object]
) -> Mapping[str, object]:
    """Returns the arguments with those that a response to the form gives; others in it are ignored."""
    responses = codec.as_object(params.get("inputResponses")) or {}
    response = codec.as_object(responses.get(KEY)) or {}
    content = codec.as_object(response.get("content")) or {}
    if response.get("action") != "accept":
        return arguments
    return {**arguments, **{key: content[key] for key in _missing(receiver, arguments) if key in content}}


def _missing(receiver: Receiver, arguments: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Returns the required properties without an argument, with their schemas."""
    if not isinstance(receiver, Spec) or not receiver.ask_missing:
        return {}
    schema = receiver.input_schema or {}
    properties = codec.as_object(schema.get("properties")) or {}
    required = codec.as_array(schema.get("required")) or []
    return {
        key: codec.as_object(properties.get(key)) or {}
        for key in required
        if isinstance(key, str) and key not in arguments
    }
