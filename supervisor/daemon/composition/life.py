"""Says what each part of the daemon does in its life: what it loads, starts, runs, closes and removes, in one table."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Config, Tasks
from corral.supervisor.tasks.run.table import Records, Retention
from corral.supervisor.tenants.registry.removal import take_up
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.process.sandbox import leftovers, remove_containers, remove_leftovers

from .rooms import Rooms

Expire = Callable[[float], Awaitable[object]]

URGENT_S = 5.0
"""Seconds that the reports of killed workers are waited for."""


async def nothing(_: object = None) -> None:
    """Does nothing: for a part that has nothing to do at this point of its life."""


@dataclass(frozen=True, slots=True)
class Room:
    """Describes the life of one part of the daemon.

    `load` reads what the store has; `start` follows when all have loaded and clients are heard; `run` goes on until it is
    cancelled, or done; `close` ends what is under way when the daemon stops; `expire` removes what is too old at a time
    in seconds since 1970.
    """

    name: str
    load: Callable[[], Awaitable[None]] = nothing
    start: Callable[[], None] | None = None
    run: Callable[[], Coroutine[object, object, object]] | None = None
    close: Callable[[], Awaitable[None] | None] = nothing
    expire: Expire = nothing


def life_of(rooms: Rooms, is_urgent: asyncio.Event) -> list[Room]:
    """Returns the parts of the daemon, in the order in which they load, start, and close.

    A part stands after those that it asks while it loads, and after those whose ends it records while it closes.
    """
    base, agents, tasks, tenants = rooms.shared, rooms.agents, rooms.tasks, rooms.tenant_rooms
    calls = rooms.tool_calls.history
    aged = partial(_aged, rooms.in_force)
    life = [
        Room("logs", expire=aged(base.logs.expire, lambda config: config.events.retention)),
        Room("audit", expire=rooms.audit.prune),
        Room(
            "events",
            run=base.event_history.run,
            expire=aged(base.event_history.expire, lambda config: config.events.retention),
        ),
        Room("leftovers", run=_removal(remove_leftovers, leftovers(base.host.temporary_root))),
        Room("containers", run=_removal(remove_containers, leftovers(base.host.containers_root))),
        Room("alerts", run=rooms.alerts.run),
        Room("limits", run=rooms.limits.run),
        Room("checkpoints", expire=base.checkpoints.expire),
        Room("tenants", load=rooms.tenants.load),
        Room("removed tenants", load=partial(take_up, base.store, rooms.tenants, rooms.paths.state_dir)),
        Room("accounts", load=tenants.accounts.prepare),
        Room("slices", run=tenants.slices.run),
        Room("disk", run=tenants.disk.run),
        Room("sockets", start=rooms.activation.open, run=rooms.activation.run, close=rooms.activation.close),
        Room(
            "agents",
            load=partial(agents.load, rooms.built_in),
            start=agents.boot,
            close=partial(_stop_workers, agents, base.launcher, is_urgent),
        ),
        Room("revisions", expire=aged(agents.revisions.expire, _kept_revisions)),
        Room("hibernation", load=rooms.hibernation.load, start=rooms.hibernation.boot, run=rooms.hibernation.run),
        Room("autoscaler", run=rooms.autoscaler.run),
        Room("successes", load=rooms.successes.load),
        Room("tokens", load=rooms.tokens.load),
        Room("deployments", load=rooms.deployments.load, run=rooms.deployments.clean, close=rooms.deployments.close),
        Room("packages", load=rooms.packages.load),
        Room("rollouts", close=rooms.rollouts.close),
        Room("stores", run=rooms.stores.run),
        Room("MCP servers", close=rooms.pool.close),
        Room("subscriptions", close=rooms.pubsub.close),
        Room("approvals", load=rooms.approvals.load, expire=rooms.approvals.expire),
        Room("model calls", load=rooms.models.ledger.load),
        Room(
            "tasks",
            load=rooms.tasks_group.recovery.load,
            start=tasks.boot,
            close=tasks.close,
            expire=partial(_expire_tasks, Records(base.store), agents),
        ),
        Room("schedules", load=rooms.schedules.load, run=rooms.schedules.run),
        Room("tool calls", close=calls.flush, expire=lambda _: calls.expire()),
        Room("costs", close=rooms.costs.flush, expire=lambda _: rooms.costs.expire()),
        Room("metrics", run=rooms.collector.run, close=rooms.collector.close, expire=rooms.metrics.expire),
    ]
    return life if rooms.cluster is None else [*life, Room("cluster", run=rooms.cluster.run)]


def _removal(remove: Callable[[list[str]], None], left: list[str]) -> Callable[[], Coroutine[object, object, None]]:
    """Returns what removes, beside the serving, what an earlier daemon has left."""

    async def run() -> None:
        await asyncio.to_thread(remove, left)

    return run


def _aged(in_force: InForce, expire: Expire, kept_s: Callable[[Config], float]) -> Expire:
    """Returns what removes all that is older than the configuration keeps."""
    return lambda now: expire(now - kept_s(in_force.config))


def _kept_revisions(config: Config) -> float:
    return config.defaults.recovery.checkpoint_retention


async def _expire_tasks(records: Records, agents: Agents, now: float) -> None:
    """Removes the records of tasks; those of agents that are gone by the retention of all."""
    of_agent = {agent.name: _retention(agent.spec.tasks) for agent in agents.agents.values()}
    await records.expire(now, _retention(agents.config.defaults.tasks), of_agent)


def _retention(tasks: Tasks) -> Retention:
    return Retention(tasks.result_retention, tasks.dead_letter_retention)


async def _stop_workers(agents: Agents, launcher: Launcher, is_urgent: asyncio.Event) -> None:
    """Stops all workers in order; kills them when it becomes urgent."""
    draining = asyncio.create_task(agents.drain())
    hurry = asyncio.create_task(is_urgent.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not draining.done():
        await launcher.close()  # kills everything, and reports it
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(URGENT_S):
                await draining


async def load(rooms: Sequence[Room]) -> None:
    """Loads each after the other."""
    for room in rooms:
        await room.load()


def start(rooms: Sequence[Room]) -> None:
    """Starts each after the other; nothing comes between."""
    for room in rooms:
        if room.start is not None:
            room.start()


async def close(rooms: Sequence[Room]) -> None:
    """Closes each after the other."""
    for room in rooms:
        if (closing := room.close()) is not None:
            await closing
