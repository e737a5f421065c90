"""Serves /a2a/AGENT: the agent's card, JSON-RPC at the address itself, and HTTP with JSON below it.

A wrong path, verb or token has its own status, before any binding.
"""

import hashlib
from email.utils import formatdate

from aiohttp import web

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.api.table.table import Control
from corral.supervisor.tasks.worker_api.approvals import Approvals
from corral.supervisor.tenants.tokens.scope import is_in_scope
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, MethodNotFound, NotFound
from corral.worker.contract.names import qualified

from ..http.answers import Refused, answer, read_body
from ..http.face import HttpClient
from .bindings import Binding, JsonRpc, Rest
from .messages import A2aError, card_of, error_of
from .operations import A2aCaller, Operations
from .push import Pushes

CARD = ".well-known/agent-card.json"

CARD_S = 300
"""Seconds for which a client may keep a card."""


class A2aFace:
    """Serves the agents below /a2a."""

    prefix = "/a2a"
    open = False

    def __init__(self, control: Control, agents: Agents, approvals: Approvals, pushes: Pushes, version: str) -> None:
        self._control = control
        self._agents = agents
        self._approvals = approvals
        self._version = version
        self._cards: dict[str, tuple[str, str]] = {}
        self._pushes = pushes

    async def close(self) -> None:
        """Ends the notifications; a request that is under way ends with its connection."""
        await self._pushes.close()

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers one request."""
        name, path = self._found(request.path.removeprefix(self.prefix).strip("/"), client)
        if path == CARD:
            if request.method != "GET":
                error = MethodNotFound(f'cannot serve {request.method} "{request.path}": it takes GET')
                raise Refused(405, error, Allow="GET")
            return self._card(request, name)
        if not path and request.method != "POST":
            error = MethodNotFound(f'cannot serve {request.method} "{request.path}": it takes POST')
            raise Refused(405, error, Allow="POST")
        binding: Binding = Rest(request, path) if path else JsonRpc(request)
        body = await read_body(request)
        try:
            operation, params = binding.read(body)
            operations = Operations(self._control, self._approvals, self._pushes, name, A2aCaller(client), binding)
            if operations.streams(operation):
                return await operations.stream(request, operation, params)
            return answer(binding.result(await operations.run(operation, params)))
        except A2aError as refused:
            return binding.refusal(refused)
        except CorralError as failed:
            return binding.refusal(error_of(failed))

    def _found(self, path: str, client: HttpClient) -> tuple[str, str]:
        """Returns the full name of the agent that a path begins with, and the rest of the path.

        A client that is bound to a tenant may say the short name.
        """
        first, _, rest = path.partition("/")
        second, _, below = rest.partition("/")
        for spoken, others in ((f"{first}/{second}", below), (first, rest)):
            name = qualified(spoken, client.tenant)
            agent = self._agents.agents.get(name)
            if agent is not None and is_in_scope(name, client.agents) and agent.spec.kind == "agent":
                return name, others
        short = path.removesuffix(CARD).rstrip("/")
        raise NotFound(f'cannot find agent "{short}"', name=short)

    def _card(self, request: web.BaseRequest, name: str) -> web.Response:
        """Answers with a card that its client may keep for a while, or says that the client has it already."""
        spec = self._agents.agents[name].spec
        url = f"{request.scheme}://{request.host}{self.prefix}/{name}"
        card = card_of(name, spec.description, spec.capabilities, url, self._version, pushes=self._pushes.is_on)
        digest = hashlib.sha256(codec.encode(card)).hexdigest()[:32]
        seen, since = self._cards.get(name, ("", ""))
        if seen != digest:
            since = formatdate(usegmt=True)
            self._cards = {each: fact for each, fact in self._cards.items() if each in self._agents.agents}
            self._cards[name] = (digest, since)
        headers = {"Cache-Control": f"private, max-age={CARD_S}", "ETag": f'"{digest}"', "Last-Modified": since}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return answer(card, headers=headers)
