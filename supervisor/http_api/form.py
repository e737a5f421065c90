"""Reads the configuration in a request of /runtime: a field of a form, as JSON text, or a JSON body.

This module must not know HTTP's server or the daemon.
"""

from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qs

from ...worker.contract import codec
from ...worker.contract.errors import InvalidRequest, ParseError, ResourceLimitExceeded

JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

TYPES = (JSON, URLENCODED, MULTIPART)

MAX_FORM_BYTES = 1024 * 1024
"""Bytes of a form, which is parsed in one turn of the loop."""

MAX_FIELDS = 100


def configuration(body: bytes, content_type: str, field: str) -> dict[str, object]:
    """Returns the configuration of a body.

    Args:
        body: of the request.
        content_type: as it was sent, with the boundary of a multipart body.
        field: the name of the field of a form, or of the one key of a JSON body around it.

    Raises:
        ParseError: it is not JSON.
        InvalidRequest: it is no object, or the form has no such field.
        ResourceLimitExceeded: the form is too long.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        found = codec.as_object(_decoded(body))
        inner = None if found is None else found.get(field)
        found = codec.as_object(
            _decoded(inner.encode()) if isinstance(inner, str) else inner or found
        )
    else:
        if len(body) > MAX_FORM_BYTES:
            words = f"cannot take a form of more than {MAX_FORM_BYTES} bytes: send JSON"
            raise ResourceLimitExceeded(words, limit="form", value=MAX_FORM_BYTES)
        text = (
            _of_multipart(body, content_type, field) if kind == MULTIPART else _of_form(body, field)
        )
        if text is None:
            raise InvalidRequest(f'cannot read the form: it has no field "{field}"', key=field)
        found = codec.as_object(_decoded(text))
    if found is None:
        raise InvalidRequest(f'cannot read "{field}": it is no JSON object', key=field)
    return found


def _decoded(text: bytes) -> object:
    try:
        return codec.decode(text)
    except ValueError as error:
        raise ParseError(f"cannot read the configuration as JSON: {error}") from error


def _of_form(body: bytes, field: str) -> bytes | None:
    try:
        fields = parse_qs(body.decode(), errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise InvalidRequest(f"cannot read the form: {error}") from error
    return fields[field][0].encode() if field in fields else None


def _of_multipart(body: bytes, content_type: str, field: str) -> bytes | None:
    head = f"Content-Type: {content_type}\r\n\r\n".encode("utf-8", "replace")
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    for part in message.iter_parts():
        if part.get_param("name", header="content-disposition") == field:
            content = part.get_payload(decode=True)
            return content if isinstance(content, bytes) else None
    return None
