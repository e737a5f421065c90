"""Serves the methods `mcp.login`, `mcp.finish_login`, `mcp.logout` and `mcp.logins` of the table."""

from datetime import UTC, datetime

from corral.supervisor.agents.external.logins import Logins as LoginFlows
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle.state_machine import NEEDS_LOGIN, State
from corral.worker.contract.errors import NotFound
from corral.worker.control.logins import (
    LoggedOut,
    Login,
    LoginFinishParams,
    LoginParams,
    Logins,
    LoginStarted,
    LogoutParams,
)
from corral.worker.control.params import NoParams
from corral.worker.methods.login import MCP_FINISH_LOGIN, MCP_LOGIN, MCP_LOGINS, MCP_LOGOUT

from ..table.caller import Caller
from ..table.handlers import serve
from ..table.results import as_result


class LoginMethods:
    """Serves the methods of logging in to MCP servers."""

    def __init__(self, agents: Agents, logins: LoginFlows) -> None:
        self._agents = agents
        self._logins = logins

    @serve(MCP_LOGIN)
    async def _login(self, params: LoginParams, _caller: Caller) -> LoginStarted:
        spec = self._spec(params.name)
        login = await self._logins.start(spec, port=params.port, device=params.device, scopes=tuple(params.scopes))
        pending = login.pending
        is_device = bool(pending.device_code)
        return LoginStarted(
            name=spec.name,
            login=login.id,
            issuer=pending.endpoints.issuer,
            scopes=pending.scope.split(),
            url=pending.verification_uri_complete or pending.verification_uri
            if is_device
            else pending.authorization_url,
            redirect_uri=pending.redirect_uri or None,
            user_code=pending.user_code or None,
            expires_at=_text_of(pending.expires_at),
        )

    @serve(MCP_FINISH_LOGIN)
    async def _finish_login(self, params: LoginFinishParams, _caller: Caller) -> Login:
        spec = self._spec(params.name)
        logins = self._logins
        if params.redirect is not None:
            await logins.finish(spec, params.login, params.redirect)
        elif await logins.poll(spec, params.login) is None:
            return Login(name=spec.name, state="pending")
        waiting = [
            supervisor
            for supervisor in self._agents.agents[spec.name].supervisors
            if supervisor.worker.state is State.TERMINATED
            and supervisor.worker.last_exit is not None
            and supervisor.worker.last_exit.result == NEEDS_LOGIN
        ]
        self._agents.operations.reset(waiting)
        return await self._facts(spec)

    @serve(MCP_LOGOUT)
    async def _logout(self, params: LogoutParams, _caller: Caller) -> LoggedOut:
        spec = self._spec(params.name)
        forgotten = await self._logins.logout(spec, revoke=params.revoke)
        return LoggedOut(name=spec.name, forgotten=forgotten)

    @serve(MCP_LOGINS)
    async def _mcp_logins(self, _params: NoParams, _caller: Caller) -> Logins:
        specs = [agent.spec for agent in self._agents.agents.values() if agent.spec.asks_tokens]
        return Logins(logins=[await self._facts(spec) for spec in specs])

    def _spec(self, name: str) -> Spec:
        agent = self._agents.agents.get(name)
        if agent is None or agent.spec.kind != "mcp":
            raise NotFound(f'cannot find MCP server "{name}"', name=name)
        return agent.spec

    async def _facts(self, spec: Spec) -> Login:
        facts = await self._logins.facts(spec)
        for key in ("obtained_at", "expires_at"):
            if isinstance(facts.get(key), float):
                facts[key] = _text_of(facts[key])
        return as_result(facts, Login)


def _text_of(wall_s: object) -> str:
    assert isinstance(wall_s, float), "the caller has looked"
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
