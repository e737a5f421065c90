"""Says what each part of the daemon does in its life: what it loads, starts, runs, closes and removes, in one table."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.spec import Config, Spec, Tasks
from corral.supervisor.tasks.run.backlog import TaskHandover
from corral.supervisor.tasks.run.table import Records, Retention
from corral.supervisor.tenants.registry.removal import take_up
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.process.sandbox import leftovers, remove_containers, remove_leftovers

from .groups import Groups

Expire = Callable[[float], Awaitable[object]]

URGENT_S = 5.0
"""Seconds that the reports of killed workers are waited for."""


async def nothing(_: object = None) -> None:
    """Does nothing: for a part that has nothing to do at this point of its life."""


@dataclass(frozen=True, slots=True)
class Room:
    """Describes the life of one part of the daemon.

    `load` reads what the store has; `start` follows when all have loaded and clients are heard; `run` goes on until it is
    cancelled, or done; `close` ends what is under way when the daemon stops; `settle` writes what is in memory alone, then
    and when another program takes the place of this one; `expire` removes what is too old at a time in seconds since 1970.
    """

    name: str
    load: Callable[[], Awaitable[None]] = nothing
    start: Callable[[], None] | None = None
    run: Callable[[], Coroutine[object, object, object]] | None = None
    close: Callable[[], Awaitable[None] | None] = nothing
    settle: Callable[[], Awaitable[None] | None] = nothing
    expire: Expire = nothing


def life_of(
    groups: Groups, built_in: Spec, is_urgent: asyncio.Event, kept: frozenset[str], left: Sequence[TaskHandover]
) -> list[Room]:
    """Returns the parts of the daemon, in the order in which they load, start, and close.

    The folders `kept` are of workers, and `left` are tasks, that another program of the daemon has handed over. A part
    stands after those that it asks while it loads, and after those whose ends it records while it closes.
    """
    records, workers, tenants, agents = groups.records, groups.workers, groups.tenants, groups.agents
    tasks, figures, running, host = groups.tasks, groups.figures, groups.agents.agents, groups.workers.host
    calls = tasks.tool_calls.history
    aged = partial(_aged, records.in_force)
    kept_events = aged(records.history.expire, lambda config: config.events.retention)
    inbox_kept = aged(tasks.inbox.expire, lambda config: config.defaults.tasks.result_retention)
    life = [
        Room("logs", expire=aged(records.logs.expire, lambda config: config.events.retention)),
        Room("audit", expire=records.audit.prune),
        Room("events", run=records.history.run, expire=kept_events),
        Room("leftovers", run=_removal(remove_leftovers, leftovers(host.temporary_root), kept)),
        Room("containers", run=_removal(remove_containers, leftovers(host.containers_root), kept)),
        Room("alerts", run=workers.alerts.run),
        Room("limits", run=workers.limits.run),
        Room("checkpoints", expire=workers.checkpoints.expire),
        Room("tenants", load=tenants.tenants.load),
        Room("removed tenants", load=partial(take_up, records.store, tenants.tenants, records.state_dir)),
        Room("accounts", load=tenants.accounts.prepare),
        Room("slices", run=tenants.slices.run),
        Room("disk", run=tenants.disk.run),
        Room("sockets", start=agents.activation.open, run=agents.activation.run, close=agents.activation.close),
        Room(
            "agents",
            load=partial(running.load, [built_in]),
            start=running.boot,
            close=partial(_stop_workers, running, workers.launcher, is_urgent),
            settle=running.settle,
        ),
        Room(
            "revisions",
            expire=aged(running.revisions.expire, lambda config: config.defaults.recovery.checkpoint_retention),
        ),
        Room("hibernation", load=agents.hibernation.load, start=agents.hibernation.boot, run=agents.hibernation.run),
        Room("autoscaler", run=agents.autoscaler.run),
        Room("successes", load=tasks.successes.load),
        Room("tokens", load=tenants.tokens.load),
        Room("deployments", load=agents.deployments.load, run=agents.deployments.clean, close=agents.deployments.close),
        Room("packages", load=agents.packages.load),
        Room("rollouts", close=agents.rollouts.close),
        Room("stores", run=agents.stores.run),
        Room("MCP servers", close=agents.pool.close),
        Room("subscriptions", close=tasks.pubsub.close),
        Room("approvals", load=partial(tasks.approvals.load, left), expire=tasks.approvals.expire),
        Room("inbox", load=tasks.inbox.load, expire=inbox_kept),
        Room("model calls", load=groups.models.ledger.load),
        Room(
            "tasks",
            load=partial(tasks.recovery.load, left),
            start=tasks.tasks.boot,
            close=tasks.tasks.close,
            expire=partial(_expire_tasks, Records(records.store), running),
        ),
        Room("schedules", load=tasks.schedules.load, run=tasks.schedules.run),
        Room("tool calls", settle=calls.flush, expire=lambda _: calls.expire()),
        Room("costs", settle=figures.costs.flush, expire=lambda _: figures.costs.expire()),
        Room("metrics", run=figures.collector.run, settle=figures.collector.close, expire=figures.metrics.expire),
        Room("store", expire=lambda _: records.store.shrink()),  # after all that others remove
    ]
    return life if groups.cluster is None else [*life, Room("cluster", run=groups.cluster.run)]


def _removal(
    remove: Callable[[list[str]], None], left: list[str], kept: frozenset[str]
) -> Callable[[], Coroutine[object, object, None]]:
    """Returns what removes, beside the serving, what an earlier daemon has left."""

    async def run() -> None:
        await asyncio.to_thread(remove, [each for each in left if each not in kept])

    return run


def _aged(in_force: InForce, expire: Expire, kept_s: Callable[[Config], float]) -> Expire:
    """Returns what removes all that is older than the configuration keeps."""
    return lambda now: expire(now - kept_s(in_force.config))


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
        for act in (room.close, room.settle):
            if (closing := act()) is not None:
                await closing


async def settle(rooms: Sequence[Room]) -> None:
    """Lets each write what is in memory alone."""
    for room in rooms:
        if (settling := room.settle()) is not None:
            await settling
