"""Serves the methods `mcp.login`, `mcp.finish_login`, `mcp.logout` and `mcp.logins` of the table."""

from datetime import UTC, datetime

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

from ..table.results import as_result
from ..table.table import Caller, Control, serve


@serve(MCP_LOGIN)
async def _login(control: Control, params: LoginParams, _caller: Caller) -> LoginStarted:
    spec = _spec(control, params.name)
    login = await control.logins.start(spec, port=params.port, device=params.device, scopes=tuple(params.scopes))
    pending = login.pending
    is_device = bool(pending.device_code)
    return LoginStarted(
        name=spec.name,
        login=login.id,
        issuer=pending.endpoints.issuer,
        scopes=pending.scope.split(),
        url=pending.verification_uri_complete or pending.verification_uri if is_device else pending.authorization_url,
        redirect_uri=pending.redirect_uri or None,
        user_code=pending.user_code or None,
        expires_at=_text_of(pending.expires_at),
    )


@serve(MCP_FINISH_LOGIN)
async def _finish(control: Control, params: LoginFinishParams, _caller: Caller) -> Login:
    spec = _spec(control, params.name)
    logins = control.logins
    if params.redirect is not None:
        await logins.finish(spec, params.login, params.redirect)
    elif await logins.poll(spec, params.login) is None:
        return Login(name=spec.name, state="pending")
    waiting = [
        supervisor
        for supervisor in control.agents.agents[spec.name].supervisors
        if supervisor.worker.state is State.TERMINATED
        and supervisor.worker.last_exit is not None
        and supervisor.worker.last_exit.result == NEEDS_LOGIN
    ]
    control.agents.operations.reset(waiting)
    return await _facts(control, spec)


@serve(MCP_LOGOUT)
async def _logout(control: Control, params: LogoutParams, _caller: Caller) -> LoggedOut:
    spec = _spec(control, params.name)
    forgotten = await control.logins.logout(spec, revoke=params.revoke)
    return LoggedOut(name=spec.name, forgotten=forgotten)


@serve(MCP_LOGINS)
async def _logins(control: Control, _params: NoParams, _caller: Caller) -> Logins:
    specs = [agent.spec for agent in control.agents.agents.values() if agent.spec.asks_tokens]
    return Logins(logins=[await _facts(control, spec) for spec in specs])


def _spec(control: Control, name: str) -> Spec:
    agent = control.agents.agents.get(name)
    if agent is None or agent.spec.kind != "mcp":
        raise NotFound(f'cannot find MCP server "{name}"', name=name)
    return agent.spec


async def _facts(control: Control, spec: Spec) -> Login:
    facts = await control.logins.facts(spec)
    for key in ("obtained_at", "expires_at"):
        if isinstance(facts.get(key), float):
            facts[key] = _text_of(facts[key])
    return as_result(facts, Login)


def _text_of(wall_s: object) -> str:
    assert isinstance(wall_s, float), "the caller has looked"
    text = datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="seconds")
    return text.replace("+00:00", "Z")
