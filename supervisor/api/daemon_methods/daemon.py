"""Serves the methods `daemon.*` that steer the daemon, `template.list` and `rpc.discover`."""

import asyncio
import os
import signal
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from corral.worker.contract import codec
from corral.worker.control.params import LogLevelParams, NoParams, ReloadParams, SchemaParams
from corral.worker.control.results import Done, EmergencyStopped, LogLevelSet, Reloaded, Stopping
from corral.worker.control.runtime_results import Template, TemplateParam, Templates
from corral.worker.methods.daemon import (
    DAEMON_EMERGENCY_STOP,
    DAEMON_LOG_LEVEL,
    DAEMON_PING,
    DAEMON_RELOAD,
    DAEMON_SCHEMA,
    DAEMON_STOP,
    RPC_DISCOVER,
    TEMPLATE_LIST,
)
from corral.worker.methods.method import AnyMethod

from ..table.caller import Caller, made_by
from ..table.handlers import serve
from ..table.openrpc import openrpc

if TYPE_CHECKING:
    pass
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.tasks.run.tasks import Tasks

from ..table.status import DaemonFacts


class DaemonMethods:
    """Serves the methods that steer the daemon, and say what it has."""

    def __init__(self, agents: Agents, tasks: Tasks, daemon: DaemonFacts, methods: Mapping[str, AnyMethod]) -> None:
        self._agents = agents
        self._tasks = tasks
        self._daemon = daemon
        self._methods = methods

    @serve(DAEMON_PING)
    async def _ping(self, _params: NoParams, _caller: Caller) -> Done:
        return Done()

    @serve(DAEMON_EMERGENCY_STOP)
    async def _emergency_stop(self, _params: NoParams, caller: Caller) -> EmergencyStopped:
        halted: list[str] = []
        killed = await self._agents.operations.halt(caller.name, lambda: halted.extend(self._tasks.halt()))
        await self._tasks.halted(halted)
        return EmergencyStopped(workers=killed, tasks=len(halted))

    @serve(DAEMON_STOP)
    async def _stop(self, _params: NoParams, _caller: Caller) -> Stopping:
        pid = os.getpid()
        os.kill(pid, signal.SIGTERM)  # the handler of the daemon is the one way to its end
        return Stopping(pid=pid)

    @serve(DAEMON_RELOAD)
    async def _reload(self, params: ReloadParams, caller: Caller) -> Reloaded:
        config = self._daemon.read_config()
        plan = await self._agents.reload.adopt(config, dry_run=params.dry_run, by=made_by(caller))
        if params.wait and not params.dry_run:
            await self._agents.revisions.until_settled(plan.revisions, params.timeout_s)
        return msgspec.convert(plan, Reloaded, from_attributes=True)

    @serve(DAEMON_SCHEMA)
    async def _schema(self, params: SchemaParams, _caller: Caller) -> dict[str, object]:
        from ..schema.documents import schema_of  # noqa: PLC0415 - start-up time: few ask

        return schema_of(params.document)

    @serve(TEMPLATE_LIST)
    async def _list(self, _params: NoParams, _caller: Caller) -> Templates:
        users: dict[str, list[str]] = {}
        for agent in self._agents.agents.values():
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
                for each in self._agents.config.templates.values()
            ]
        )

    @serve(DAEMON_LOG_LEVEL)
    async def _log_level(self, params: LogLevelParams, _caller: Caller) -> LogLevelSet:
        self._daemon.daemon_log.set_level(params.level)
        return LogLevelSet(level=params.level)

    @serve(RPC_DISCOVER)
    async def _discover(self, _params: NoParams, _caller: Caller) -> msgspec.Raw:
        # Making it takes tens of milliseconds, in which the loop would serve no other client.
        return msgspec.Raw(await asyncio.to_thread(_encoded, tuple(self._methods.values())))


@lru_cache(1)
def _encoded(entries: tuple[AnyMethod, ...]) -> bytes:
    return codec.encode(openrpc({entry.name: entry for entry in entries}))
