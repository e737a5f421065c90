"""Reads the configuration in a request of /runtime: a field of a form, as JSON text, or a JSON body.

This module must not know HTTP's server or the daemon.
"""

import re
from urllib.parse import parse_qs

from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidRequest, ParseError, ResourceLimitExceeded

JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

TYPES = (JSON, URLENCODED, MULTIPART)

MAX_FORM_BYTES = 1024 * 1024
"""Bytes of a form, which is parsed in one turn of the loop."""

MAX_FIELDS = 100

MAX_HEAD_BYTES = 4096
"""Bytes of the headers of one part of a multipart form."""

BOUNDARY = re.compile(
    r""";\s*boundary=(?:"([\w'()+,./:=? -]{0,69}[\w'()+,./:=?-])"|([\w'+.-]{1,70})(?=\s*(?:;|$)))""",
    re.IGNORECASE | re.ASCII,
)
"""The boundary in a Content-Type, within quotes or not."""

PARAM = re.compile(r';\s*([\w*-]+)=("([^"]*)"|[^;\s"]*)', re.ASCII)
"""A parameter of a Content-Disposition: its name, its value as it is, its value within quotes."""

PLAIN = ("7bit", "8bit", "binary")
"""Encodings of a part that leave it as it is."""


def configuration(body: bytes, content_type: str, field: str) -> dict[str, object]:
    """Returns the configuration of a body."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        found = codec.as_object(_decoded(body))
        inner = None if found is None else found.get(field)
        found = codec.as_object(_decoded(inner.encode()) if isinstance(inner, str) else inner or found)
    else:
        if len(body) > MAX_FORM_BYTES:
            words = f"cannot take a form of more than {MAX_FORM_BYTES} bytes: send JSON"
            raise ResourceLimitExceeded(words, limit="form", value=MAX_FORM_BYTES)
        text = _of_multipart(body, content_type, field) if kind == MULTIPART else _of_form(body, field)
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
    # Not by `email`, whose headers take seconds, and whose parts within parts exhaust the stack, where that is intended.
    found = BOUNDARY.search(content_type)
    if found is None:
        raise InvalidRequest("cannot read the form: its type has no proper boundary")
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + (found[1] or found[2]).encode(), MAX_FIELDS + 1)
    fields: dict[str, bytes] = {}
    for number, part in enumerate(parts):
        if part.startswith(b"--"):
            return fields.get(field)
        if number == MAX_FIELDS:
            words = f"cannot take a form of more than {MAX_FIELDS} parts"
            raise ResourceLimitExceeded(words, limit="form parts", value=MAX_FIELDS)
        head, is_whole, content = part.partition(b"\r\n\r\n")
        if not is_whole or len(head) > MAX_HEAD_BYTES:
            raise InvalidRequest(f"cannot read the form: a part has no end of its head within {MAX_HEAD_BYTES} bytes")
        fields.setdefault(_name_of(head.decode("utf-8", "replace")), content)
    raise InvalidRequest("cannot read the form: it ends before its last boundary")


def _name_of(head: str) -> str:
    """Returns the name of a part, empty where it has none."""
    name = ""
    for line in head.split("\r\n"):
        key, _, value = line.partition(":")
        word = value.strip().lower()
        if key.lower() == "content-transfer-encoding" and word not in PLAIN:
            raise InvalidRequest(f'cannot read the form: a part is encoded as "{word[:40]}"')
        if key.lower() == "content-disposition":
            for each in PARAM.finditer(value):
                if each[1].lower() == "name":
                    name = each[2] if each[3] is None else each[3]
    return name
