"""Serves the eight routes of agno's dynamic runtime below /runtime, as documented there: each is a call of the method table.

    POST   /runtime/agents, /runtime/teams, /runtime/workflows    form field `agent_config`, `team_config`, `workflow_config`, or JSON
    DELETE /runtime/agents/ID, /runtime/teams/ID, /runtime/workflows/ID
    POST   /runtime/refresh
    GET    /runtime/stats

A configuration is `id`, `name` (our `title`), `description`, and any keys of ours. Without a program, members or steps it takes the template
`default`: the one of the configuration, else a built-in agent that answers. `template` and `params` name another. A duplicate and a missing id are 400, as clients of that runtime expect.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

from aiohttp import web

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.api.table.table import Control
from corral.supervisor.config.spec.template_spec import Template
from corral.worker.contract import codec
from corral.worker.contract.errors import (
    Conflict,
    InvalidParams,
    InvalidRequest,
    NotFound,
    ParseError,
    ResourceLimitExceeded,
)
from corral.worker.control.results import Workflows

from ..http.answers import Refused, answer, check_type, read_body
from ..http.face import HttpClient, OneAnswer
from .routes import VerbRefused

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


PREFIX = "/runtime"

DEFAULT = "default"
"""The built-in template; the agent of this name works for teams and workflows without any of their own."""

PROGRAM = ("command", "entrypoint", "url")


class Kind(NamedTuple):
    """Describes what one path holds."""

    word: str
    field: str
    noun: str


KINDS = {
    "agents": Kind("Agent", "agent_config", "agent"),
    "teams": Kind("Team", "team_config", "team"),
    "workflows": Kind("Workflow", "workflow_config", "workflow"),
}


class RuntimeFace:
    """Serves /runtime."""

    prefix = PREFIX
    open = False

    def __init__(self, control: Control, agents: Agents) -> None:
        self._control = control
        self._agents = agents

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers one request."""
        words = request.rel_url.raw_path.removeprefix(PREFIX).removeprefix("/").split("/")
        caller = OneAnswer(client)
        match words:
            case ["refresh"]:
                _check_verb(request, "POST")
                changes = await self._control.call("daemon.reload", {}, caller)
                return answer({"message": "Runtime refreshed successfully", "changes": changes})
            case ["stats"]:
                _check_verb(request, "GET")
                return answer(await self._control.call("runtime.stats", {}, caller))
            case [plural] if plural in KINDS:
                _check_verb(request, "POST")
                return await self._add(request, KINDS[plural], caller)
            case [plural, text] if plural in KINDS and text:
                _check_verb(request, "DELETE")
                return await self._remove(KINDS[plural], unquote(text), caller)
            case _:
                raise NotFound(f'cannot find "{request.path}"', path=request.path)

    async def close(self) -> None:
        """Returns at once: a request that is under way ends with its connection."""

    async def _add(self, request: web.BaseRequest, kind: Kind, caller: OneAnswer) -> web.StreamResponse:
        body = await read_body(request)
        check_type(request, body, TYPES)
        try:
            given = configuration(body, request.headers.get("Content-Type", JSON), kind.field)
        except ResourceLimitExceeded as too_much:
            raise Refused(413, too_much) from too_much
        name = given.pop("id", None)
        if (name is None and kind.noun != "workflow") or (name is not None and not _is_text(name)):
            error = InvalidParams(
                f'cannot add a{"n" if kind.noun == "agent" else ""} {kind.noun}: its "id" is missing', key="id"
            )
            raise Refused(400, error)
        try:
            spec = _spec(kind, given, self._agents.config.templates)
            if kind.noun != "agent" and DEFAULT in _needs(spec):
                await self._add_default(caller)
            params = {"spec": spec} if name is None else {"name": name, "spec": spec}
            result = await self._control.call(f"{kind.noun}.add", params, caller)
        except Conflict as error:
            raise Refused(400, error) from error
        if name is None:
            assert isinstance(result, Workflows), "a workflow was added"
            name = result.workflows[0].name
        return answer({"message": f"{kind.word} {name} added successfully", "id": name})

    async def _add_default(self, caller: OneAnswer) -> None:
        """Adds the agent that works for teams and workflows without any of their own, unless it is there."""
        given = {"description": "Answers with what it was asked."}
        spec = _spec(KINDS["agents"], given, self._agents.config.templates)
        with contextlib.suppress(Conflict):
            await self._control.call("agent.add", {"name": DEFAULT, "spec": spec}, caller)

    async def _remove(self, kind: Kind, name: str, caller: OneAnswer) -> web.StreamResponse:
        if kind.noun == "agent":
            found = self._agents.agents.get(name)
            if found is None or found.spec.kind != "agent":  # the method would take a glob, or a team
                raise NotFound(f'cannot find agent "{name}"', name=name)
            try:
                await self._control.call("agent.rm", {"name": name}, caller)
            except NotFound as error:  # it is there, and out of the scope of the token
                raise NotFound(f'cannot find agent "{name}"', name=name) from error
        else:
            await self._control.call(f"{kind.noun}.rm", {"name": name}, caller)
        return answer({"message": f"{kind.word} {name} removed successfully", "id": name})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _check_verb(request: web.BaseRequest, verb: str) -> None:
    if request.method != verb:
        raise Refused(405, VerbRefused(request.path, request.method, [verb]), Allow=verb)


def _spec(kind: Kind, given: Mapping[str, object], templates: Mapping[str, Template]) -> dict[str, object]:
    """Returns the table of a configuration, with the template that it has where it has no program.

    A template that declares the parameters `name` and `description` gets those of the configuration.
    """
    spec = dict(given)
    title = spec.pop("name", None)
    if kind.noun != "agent" and spec.pop("template", DEFAULT) != DEFAULT:
        words = f"cannot add a {kind.noun}: templates are of agents and servers"
        raise InvalidParams(words, key="template", value=given["template"])
    if _is_text(title):
        spec.setdefault("title", title)
    if kind.noun == "agent":
        if not any(spec.get(key) for key in PROGRAM):
            spec.setdefault("template", DEFAULT)
        template = templates.get(str(spec.get("template")))
        params = codec.as_object(spec.get("params", {}))
        if template is not None and params is not None:
            texts = {"name": title, "description": spec.get("description")}
            known = {k: v for k, v in texts.items() if _is_text(v) and k in template.params}
            if known := known | params:
                spec["params"] = known
    elif kind.noun == "team" and not spec.get("members"):
        spec |= {"members": [DEFAULT], "mode": "route"}
    elif kind.noun == "workflow" and not spec.get("steps"):
        spec["steps"] = [{"name": "answer", "agent": DEFAULT, "objective": "answer", "input": "${input}"}]
    return spec


def _needs(spec: Mapping[str, object]) -> list[object]:
    """Returns the names of the members, and of the agents of the steps."""
    steps = codec.as_array(spec.get("steps")) or []
    agents = [(codec.as_object(step) or {}).get("agent") for step in steps]
    return [*(codec.as_array(spec.get("members")) or []), *agents]
