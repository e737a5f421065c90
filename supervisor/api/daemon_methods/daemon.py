"""Serves the methods `daemon.*`, `statistics.*` and `rpc.*` of the table."""

import asyncio
import os
import signal
import time
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from corral import __version__
from corral.supervisor.config.secrets.secrets import is_reference
from corral.supervisor.tenants.tokens.scope import is_in_scope
from corral.supervisor.workers.lifecycle.state_machine import GIVEN_UP, UP, State
from corral.supervisor.workers.process.launch import secret_problems
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import Statistics, Status
from corral.worker.control.params import (
    LogLevelParams,
    NoParams,
    ReloadParams,
    SchemaParams,
    StatisticsParams,
    StatusParams,
)
from corral.worker.control.results import (
    DaemonFound,
    Diagnosis,
    Done,
    EmergencyStopped,
    Finding,
    LogLevelSet,
    Promise,
    QuotaList,
    Reloaded,
    Stopping,
)
from corral.worker.control.runtime_results import Template, TemplateParam, Templates
from corral.worker.methods.daemon import (
    DAEMON_DOCTOR,
    DAEMON_EMERGENCY_STOP,
    DAEMON_FOLLOW,
    DAEMON_LOG_LEVEL,
    DAEMON_PING,
    DAEMON_RELOAD,
    DAEMON_SCHEMA,
    DAEMON_STATUS,
    DAEMON_STOP,
    QUOTA_LIST,
    RPC_DISCOVER,
    STATISTICS_SHOW,
    TEMPLATE_LIST,
)
from corral.worker.methods.method import AnyMethod

from ..table.caller import made_by
from ..table.openrpc import openrpc
from ..table.results import as_result
from ..table.table import Caller, Control, serve
from ..table.tenant_view import own_statistics

if TYPE_CHECKING:
    from corral.supervisor.workers.process.host_facts import Services


@serve(DAEMON_PING)
async def _ping(_control: Control, _params: NoParams, _caller: Caller) -> Done:
    return Done()


@serve(DAEMON_EMERGENCY_STOP)
async def _emergency_stop(control: Control, _params: NoParams, caller: Caller) -> EmergencyStopped:
    halted: list[str] = []
    killed = await control.agents.operations.halt(caller.name, lambda: halted.extend(control.tasks.halt()))
    await control.tasks.halted(halted)
    return EmergencyStopped(workers=killed, tasks=len(halted))


@serve(DAEMON_STOP)
async def _stop(_control: Control, _params: NoParams, _caller: Caller) -> Stopping:
    pid = os.getpid()
    os.kill(pid, signal.SIGTERM)  # the handler of the daemon is the one way to its end
    return Stopping(pid=pid)


@serve(DAEMON_RELOAD)
async def _reload(control: Control, params: ReloadParams, caller: Caller) -> Reloaded:
    config = control.daemon.read_config()
    plan = await control.agents.reload.adopt(config, dry_run=params.dry_run, by=made_by(caller))
    if params.wait and not params.dry_run:
        await control.agents.revisions.until_settled(plan.revisions, params.timeout_s)
    return msgspec.convert(plan, Reloaded, from_attributes=True)


@serve(DAEMON_SCHEMA)
async def _schema(_control: Control, params: SchemaParams, _caller: Caller) -> dict[str, object]:
    from ..schema.documents import schema_of  # noqa: PLC0415 - start-up time: few ask

    return schema_of(params.document)


@serve(TEMPLATE_LIST)
async def _templates(control: Control, _params: NoParams, _caller: Caller) -> Templates:
    users: dict[str, list[str]] = {}
    for agent in control.agents.agents.values():
        if agent.spec.template is not None:
            users.setdefault(agent.spec.template, []).append(agent.name)
    return Templates(
        templates=[
            Template(
                name=each.name,
                source=each.source,
                base=each.base,
                description=each.description,
                params=[
                    TemplateParam(name=name, schema=schema, required="default" not in schema)
                    for name, schema in each.params.items()
                ],
                used_by=sorted(users.get(each.name, [])),
            )
            for each in control.agents.config.templates.values()
        ]
    )


@serve(DAEMON_LOG_LEVEL)
async def _log_level(control: Control, params: LogLevelParams, _caller: Caller) -> LogLevelSet:
    control.daemon.daemon_log.set_level(params.level)
    return LogLevelSet(level=params.level)


@serve(RPC_DISCOVER)
async def _discover(control: Control, _params: NoParams, _caller: Caller) -> msgspec.Raw:
    # Making it takes tens of milliseconds, in which the loop would serve no other client.
    return msgspec.Raw(await asyncio.to_thread(_encoded, tuple(control.methods.values())))


@lru_cache(1)
def _encoded(entries: tuple[AnyMethod, ...]) -> bytes:
    return codec.encode(openrpc({entry.name: entry for entry in entries}))


@serve(DAEMON_STATUS)
async def _status(control: Control, params: StatusParams, caller: Caller) -> Status | msgspec.Raw:
    if params == StatusParams():
        return control.status_cache.status()
    names = _chosen(control, params)
    if caller.tenant:
        return control.status.own(names or [], failed=params.failed)
    return control.status.status(names, failed=params.failed)


@serve(DAEMON_FOLLOW)
async def _follow(control: Control, _params: NoParams, caller: Caller) -> Done:
    def whole() -> Status | msgspec.Raw:
        if caller.agents is None:
            return control.status_cache.status()
        known = [*control.agents.agents, *control.agents.groups.by_name]
        own = [each for each in known if is_in_scope(each, caller.agents)]
        return control.status.own(own) if caller.tenant else control.status.status(own)

    caller.follow(control.status_feed.run(caller, whole))
    return Done()


def _chosen(control: Control, params: StatusParams | StatisticsParams) -> list[str] | None:
    """Returns the names that the params choose; None for all."""
    if params.names is None and params.selector is None:
        return None
    return control.agents.registry.chosen(params.names or [], params.selector, groups=True)


@serve(DAEMON_DOCTOR)
async def _doctor(control: Control, _params: NoParams, caller: Caller) -> Diagnosis:
    from corral.supervisor.workers.process import host_check, host_facts  # noqa: PLC0415 - start-up time: few ask

    problem = ""
    try:
        control.daemon.read_config()
    except CorralError as error:
        problem = error.message
    held = control.shared.launcher.containment
    daemon_log, forwarding = control.daemon.daemon_log, control.daemon.forwarding
    places = "files and the journal" if forwarding.is_wanted else "files"
    log = f"the daemon's own to {daemon_log.where}, from {daemon_log.level} on; workers' lines to {places}"
    stuck = "the journal takes no lines of workers" if forwarding.is_degraded else ""
    parts = ("tier", "kill", "freeze", "memory", "cpu", "processes", "branded", "reason")
    facts = await asyncio.to_thread(  # a file system that hangs must not hang us
        host_facts.look,
        socket=control.daemon.socket,
        state_dir=control.daemon.state_dir,
        isolation=control.agents.config.defaults.process.isolation,
        containment=host_facts.Containment(**{part: getattr(held, part) for part in parts}),
        store_stalled_s=control.shared.store.stalled_s,
        config_problem=problem,
        log=log,
        journal_problem=stuck,
        unplanned=control.shared.launcher.unplanned,
        services=await _services(control),
        environ=os.environ,
    )
    daemon = DaemonFound(running=True, pid=os.getpid(), version=__version__, rights=caller.permission)
    found = host_check.report(facts)
    return Diagnosis(
        daemon=daemon,
        findings=as_result(found["findings"], list[Finding]),
        promises=as_result(found["promises"], list[Promise]),
    )


async def _services(control: Control) -> "Services":
    from corral.supervisor.workers.process.host_facts import Services  # noqa: PLC0415 - start-up time: few ask

    agents = control.agents.agents.values()
    specs = [agent.spec for agent in agents]
    values = [value for spec in specs for value in spec.expandable]
    servers = [agent for agent in agents if agent.spec.kind == "mcp" and not agent.spec.disabled]
    ends = [
        (supervisor.id, supervisor.worker.last_exit)
        for server in servers
        for supervisor in server.supervisors
        if supervisor.worker.state is State.TERMINATED
    ]
    warmths = [(spec.name, control.status.warmth(spec)) for spec in specs if spec.kind == "agent"]
    models = await control.models.listed()
    problems = await asyncio.to_thread(secret_problems, specs, control.shared.host.secrets)
    engine = None if control.optional_cluster is None else await control.optional_cluster.found()
    return Services(
        cluster="" if engine is None else engine.name,
        cluster_problem="" if engine is None else engine.problem,
        cluster_weaknesses=() if engine is None else tuple(engine.weaknesses),
        secrets=sum(map(is_reference, values)),
        secret_problems=tuple(problems),
        servers=len(servers),
        up=sum(server.state in UP for server in servers),
        failed=tuple(f"{name}: {last.message}" for name, last in ends if last and last.result in GIVEN_UP),
        cold=tuple(
            f"{name} starts cold: {each['reason']}"
            for name, each in warmths
            if each is not None and each["state"] == "cold"
        ),
        http=control.daemon.http_note(),
        degraded=tuple(
            f"{name}: {service.reason}"
            for name in control.services.degraded
            if (service := control.services.status(name)) is not None
        ),
        tenants=len(control.tenants.all()),
        sharing=_sharing(control),
        models=len(models),
        model_problems=tuple(
            f"{each.model.name}: {each.reason}" for each in models if each.state == "down" and each.used_by
        ),
    )


def _sharing(control: Control) -> tuple[str, ...]:
    """Returns why the processes of tenants have a user that they share, with the tenants of each reason."""
    by_reason: dict[str, list[str]] = {}
    for name in control.tenants.all():
        if reason := control.accounts.why_shared(name):
            by_reason.setdefault(reason, []).append(name)
    return tuple(
        f"{len(names)} tenants share a user, {names[0]} among them: {reason}" for reason, names in by_reason.items()
    )


@serve(STATISTICS_SHOW)
async def _show(control: Control, params: StatisticsParams, caller: Caller) -> Statistics:
    shown = as_result(await control.statistics.shown(_chosen(control, params)), Statistics)
    return own_statistics(shown) if caller.tenant else shown


@serve(QUOTA_LIST)
async def _quotas(control: Control, params: StatisticsParams, _caller: Caller) -> QuotaList:
    found = control.quotas.shown(_chosen(control, params), time.monotonic())
    return QuotaList(quotas=found)
