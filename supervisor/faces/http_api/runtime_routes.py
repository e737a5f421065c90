"""Serves the eight routes of agno's dynamic runtime below /runtime, as documented there: each is a call of the method table.

    POST   /runtime/agents, /runtime/teams, /runtime/workflows    form field `agent_config`, `team_config`, `workflow_config`, or JSON
    DELETE /runtime/agents/ID, /runtime/teams/ID, /runtime/workflows/ID
    POST   /runtime/refresh
    GET    /runtime/stats

A configuration is `id`, `name` (our `title`), `description`, and any keys of ours. Without a program, members or steps it takes the template
`default`: the one of the configuration, else a built-in agent that answers. `template` and `params` name another. A duplicate and a missing id are 400, as clients of that runtime expect.
"""

import contextlib
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import web

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.api.table.table import Control
from corral.supervisor.config.spec.template_spec import Template
from corral.worker.contract import codec
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, ResourceLimitExceeded
from corral.worker.control.results import Workflows

from ..http.answers import Refused, answer, check_type, read_body
from ..http.callers import OneAnswer
from ..http.face import HttpClient
from .form import JSON, TYPES, configuration
from .routes import VerbRefused

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
