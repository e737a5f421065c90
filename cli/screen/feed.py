"""Keeps a snapshot up to date: one status call in each interval, and the stream of events between two of them.

A daemon that goes away is tried again until it is back. Connections are those of the program's client for asyncio; a view that
shows log lines or tasks has one of its own, which ends with the view.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from corral.worker.client.async_ import Connection, Endpoint
from corral.worker.contract.errors import CorralError, Unreachable
from corral.worker.contract.jsonrpc import Notification
from corral.worker.contract.log_pieces import PieceJoiner

from .. import render
from ..console import ANSWER_S
from ..render import Record, inners, word
from .samples import parts_of
from .snapshot import TASKS_KEPT, Snapshot
from .view import Action, View

EVENTS = ["worker.state", "agent.removed", "agent.paused", "agent.resumed"]
"""Types of the events that change the list of agents."""

LINES_FIRST = 200
"""Number of past log lines of an agent that are shown at first."""

HISTORY_STEP_S = 180.0
"""Seconds in each bar of the last hour of an agent."""

RETRY_FIRST_S, RETRY_LAST_S = 0.1, 1.0
"""Seconds between two attempts to reach a daemon that is away."""


class Feed:
    """Fills a snapshot from a daemon."""

    def __init__(
        self, daemon: Endpoint, params: Record, interval_s: float, snapshot: Snapshot, changed: Callable[[], None]
    ) -> None:
        self._daemon = daemon
        self._params = params
        self._interval_s = interval_s
        self._snapshot = snapshot
        self._changed = changed
        self._connection: Connection | None = None
        self._view = View()
        self._following: asyncio.Task[None] | None = None
        self.is_paused = False

    # -- the list of agents

    async def run(self) -> None:
        """Keeps the snapshot up to date until it is cancelled."""
        pause_s = RETRY_FIRST_S
        while True:
            began = time.monotonic()
            try:
                await self._serve()
            except CorralError as error:
                self._snapshot.trouble = error.message
                self._changed()
            if time.monotonic() - began > RETRY_LAST_S:
                pause_s = RETRY_FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)

    async def _serve(self) -> None:
        async with await Connection.open(self._daemon, on_notification=self._notified) as connection:
            me = render.as_record(await connection.call("auth.whoami", {}, timeout_s=ANSWER_S))
            self._snapshot.rights = word(me, "rights")
            await connection.call("event.follow", {"types": EVENTS}, timeout_s=ANSWER_S)
            self._connection = connection
            try:
                await self._refresh_until_lost(connection)
            finally:
                self._connection = None

    async def _refresh_until_lost(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        gone = asyncio.ensure_future(connection.channel.wait_closed())
        try:
            while not gone.done():
                next_at = loop.time() + self._interval_s
                if not self.is_paused:
                    await self._refresh(connection)
                await asyncio.wait({gone}, timeout=max(next_at - loop.time(), 0.0))
        finally:
            gone.cancel()
        path = self._daemon.path
        text = f'cannot reach the daemon at "{path}": it has closed the connection'
        raise Unreachable(text, socket=path, reason="closed")

    async def _refresh(self, connection: Connection) -> None:
        status = await connection.call("daemon.status", self._params, timeout_s=ANSWER_S)
        found = await connection.call("statistics.show", self._params, timeout_s=ANSWER_S)
        if (asked := _tasks_of(self._view)) is not None:
            await self._list_tasks(connection, asked)
        if not self.is_paused:
            at = datetime.now(UTC).isoformat()
            self._snapshot.take_sample(render.as_record(status), render.as_record(found), at)
        self._snapshot.trouble = ""
        self._changed()

    async def _list_tasks(self, connection: Connection, params: Record) -> None:
        found = await connection.call("task.list", params, timeout_s=ANSWER_S)
        if _tasks_of(self._view) == params and not self.is_paused:
            self._snapshot.take_tasks(inners(render.as_record(found), "tasks"))
            self._changed()

    def _notified(self, notification: Notification) -> None:
        if self.is_paused or notification.method != "event":
            return
        changes = [self._snapshot.take_event(e) for e in inners(notification.params, "events")]
        if any(changes):
            self._changed()

    # -- the log lines and tasks of a view

    def show(self, view: View, group: asyncio.TaskGroup) -> None:
        """Follows the tasks and log lines of this view, in place of those of the one before."""
        before, self._view = self._view, view
        if _followed(before) == _followed(view):
            return
        if self._following is not None:
            self._following.cancel()
            self._following = None
        if (before.page, view.page) not in (("tasks", "task"), ("task", "tasks")):
            self._snapshot.take_tasks([])
        self._snapshot.lines.clear()
        self._snapshot.points = []
        if _tasks_of(view) is not None:
            self._following = group.create_task(self._follow(view))

    async def _follow(self, view: View) -> None:
        """Follows the tasks of a view, and the log lines of an agent, until it is cancelled."""
        joiner = PieceJoiner(waits=False)
        place: dict[str, object] = {"n": LINES_FIRST}

        def notified(notification: Notification) -> None:
            nonlocal place
            if notification.method == "log":
                if position := word(notification.params, "position"):
                    place = {"after": position}
                if not self.is_paused:
                    records = inners(notification.params, "records")
                    self._snapshot.take_lines(joiner.join(records))
                    self._changed()
            else:
                self._notified(notification)

        while True:
            try:
                async with await Connection.open(self._daemon, on_notification=notified) as connection:
                    params = _tasks_of(view) or {}
                    if view.page == "agent":
                        await self._read_history(connection, view.agent)
                        agent, on_node = parts_of(view.agent)
                        of_agent = {"types": ["task.*"], "agent": agent, **on_node}
                        await connection.call("event.follow", of_agent, timeout_s=ANSWER_S)
                        lines = {"names": [agent], **place, **on_node}
                        await connection.call("log.follow", lines, timeout_s=ANSWER_S)
                    else:
                        await connection.call("event.follow", {"types": ["task.*"]}, timeout_s=ANSWER_S)
                    await self._list_tasks(connection, params)
                    await connection.channel.wait_closed()
            except CorralError:
                pass  # it has gone, as the list of agents says, or the agent has
            await asyncio.sleep(RETRY_LAST_S)

    async def _read_history(self, connection: Connection, name: str) -> None:
        with suppress(CorralError):  # of an older daemon, or of an agent that has gone
            agent, on_node = parts_of(name)
            asked = {"agent": agent, "step_s": HISTORY_STEP_S, **on_node}
            found = await connection.call("metrics.history", asked, timeout_s=ANSWER_S)
            self._snapshot.points = [*inners(render.as_record(found), "points")]
            self._changed()

    # -- actions

    async def act(self, action: Action) -> str:
        """Does what the user has asked for; returns the result as a sentence."""
        connection = self._connection
        if connection is None:
            return f'cannot {action.verb} "{action.name}": there is no connection to the daemon'
        name, on_node = parts_of(action.name)
        params: Mapping[str, object] = {"names": [name], **on_node}
        method = f"agent.{action.verb}"
        if action.verb == "cancel":
            method, params = "task.cancel", {"task": action.name}
        try:
            await connection.call(method, params)
        except CorralError as error:
            return error.message
        return f'{DONE[action.verb]} "{action.name}"'


DONE = {"start": "started", "stop": "stopped", "restart": "restarted", "cancel": "cancelled task"}


def _followed(view: View) -> tuple[str, str]:
    """Returns what a view needs beside the list of agents: a part that changes when another connection is needed."""
    if view.page == "agent":
        return "agent", view.agent
    return ("tasks", "") if view.page in ("tasks", "task") else ("", "")


def _tasks_of(view: View) -> Record | None:
    """Returns the params of `task.list` for a view; None where it shows no tasks."""
    if view.page == "agent":
        agent, on_node = parts_of(view.agent)
        return {"agent": agent, "limit": 50, **on_node}
    return {"limit": TASKS_KEPT} if view.page in ("tasks", "task") else None
