"""Notifies the addresses of clients of the changes of tasks: push notifications of A2A.

An address has to be one that the operator has allowed, and leads to this machine or a private network only where an allowed one does at the first
look, whatever its name is made to lead to later. It is on disk before the client is told so. Not the events are kept but the last status of
which an address knows: after a restart of the daemon one that knows another than the task has now is notified. So the newest status comes
at least once, and earlier ones may be left out. A redirection is not followed, and an answer is not read.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.store.sealed import seal, unseal
from corral.supervisor.records.store.store import Store
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.worker_api.approvals import Approvals
from corral.worker.contract import codec
from corral.worker.contract.addresses import Reach
from corral.worker.contract.errors import CorralError, Corrupted
from corral.worker.contract.records import ENDED, Task

from .messages import A2aError, status_update, task_of

PER_TASK = 10
"""Number of addresses of one task."""

MOST = 10_000
"""Number of addresses of all tasks."""

MAX_TEXT = 4096
"""Characters of an address, a token or credentials."""

TRIES = 8
"""Number of requests about one status before an address is left alone until the next one, or the next daemon."""

FIRST_S, MOST_S = 1.0, 60.0
"""Seconds before the second request, and between two at most; each pause is twice the one before."""

ANSWER_S = 10.0
"""Seconds that a request may take."""

REMOVE = "DELETE FROM push_target WHERE task = ? AND id = ?"

AT_ONCE = 8
"""Number of requests under way."""

CHANGES = ("task.started", "task.ended", "approval.*")
"""Types of the events after which a status may be another."""

RETRIED = frozenset({408, 425, 429})

Json = Any  # a value of the protocol, checked where it is used

logger = logging.getLogger(__name__)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Represents an address that is notified of one task; `token` and `credentials` are never shown."""

    task: str
    id: str
    url: str
    token: str = ""
    scheme: str = ""
    credentials: str = ""

    def to_json(self) -> dict[str, object]:
        """Returns the configuration as A2A has it, without its secrets."""
        found: dict[str, object] = {"taskId": self.task, "id": self.id, "url": self.url}
        return found | ({"authentication": {"scheme": self.scheme}} if self.scheme else {})

    def headers(self) -> dict[str, str]:
        """Returns the headers of a request."""
        found = {"Content-Type": "application/json"}
        if self.token:
            found["X-A2A-Notification-Token"] = self.token
        if self.credentials:
            found["Authorization"] = f"{self.scheme} {self.credentials}"
        return found


class Pushes:
    """Holds the addresses, and notifies them."""

    def __init__(self, store: Store, bus: Bus, tasks: Tasks, approvals: Approvals, allowed: Sequence[str]) -> None:
        self._store = store
        self._bus = bus
        self._tasks = tasks
        self._approvals = approvals
        self._allowed = tuple(allowed)
        self._reach = Reach(allowed)
        self._known: dict[str, set[str]] = {}
        self._changed: set[tuple[str, str]] = set()
        self._sending: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._loaded = asyncio.Event()
        self._closing: Callable[[], object] = lambda: None
        self._running = asyncio.get_running_loop().create_task(self._run()) if allowed else None

    @property
    def is_on(self) -> bool:
        """Returns whether the operator allows any address."""
        return bool(self._allowed)

    async def close(self) -> None:
        """Ends the requests under way: the next daemon makes them again."""
        self._closing()
        ending = [each for each in (self._running, *self._sending.values()) if each is not None]
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    # -- the configurations of a task

    def read(self, task: str, params: Json) -> Target:
        """Reads the configuration of a client."""
        if not self.is_on:
            raise A2aError(-32003, "cannot send push notifications: the operator allows no address")
        given: Mapping[str, Json] = params if isinstance(params, dict) else {}
        raw = given.get("authentication")
        authentication: Mapping[str, Json] = raw if isinstance(raw, dict) else {}
        texts = {
            "id": given.get("id") or task,
            "url": given.get("url"),
            "token": given.get("token", ""),
            "scheme": authentication.get("scheme", ""),
            "credentials": authentication.get("credentials", ""),
        }
        for key, text in texts.items():
            is_line = isinstance(text, str) and len(text) <= MAX_TEXT and text.isascii()
            if not is_line or not text.isprintable() or (key == "url" and not text):
                raise A2aError(-32602, f'cannot use "{key}" of the push notifications: {text!r:.200}')
        target = Target(task=task, **texts)
        if not is_allowed(target.url, self._allowed):
            text = f'cannot notify "{target.url[:200]}": the operator does not allow it'
            raise A2aError(-32602, text, url=target.url[:200], reason="address-not-allowed")
        return target

    async def add(self, target: Target, task: Task, question: object) -> None:
        """Keeps a configuration, in place of one with the same id. The present status counts as known."""
        await self._loaded.wait()
        ids = self._known.setdefault(target.task, set())
        if target.id not in ids and len(ids) >= PER_TASK:
            text = f'cannot notify more than {PER_TASK} addresses of task "{target.task}"'
            raise A2aError(-32602, text, limit=PER_TASK)
        if target.id not in ids and sum(map(len, self._known.values())) >= MOST:
            raise A2aError(-32602, f"cannot notify more than {MOST} addresses", limit=MOST)
        ids.add(target.id)
        blob = seal(msgspec.json.encode(target), compress=False)
        sql = "INSERT OR REPLACE INTO push_target (task, id, record, notified) VALUES (?, ?, ?, ?)"
        await self._store.write((sql, (target.task, target.id, blob, _status(task, question))))
        self._look_at(target.task)

    async def of(self, task: str) -> list[Target]:
        """Returns the configurations of a task."""
        rows = await self._rows("WHERE task = ?", task)
        return [target for target, _status_known in rows]

    async def remove(self, task: str, number: str) -> None:
        """Removes a configuration; one that is not there is removed already."""
        self._known.get(task, set()).discard(number)
        await self._store.write((REMOVE, (task, number)))
        if (sending := self._sending.pop((task, number), None)) is not None:
            sending.cancel()

    # -- what is sent

    async def _run(self) -> None:
        sql = "DELETE FROM push_target WHERE NOT EXISTS (SELECT 1 FROM task WHERE task.id = push_target.task)"
        self._closing = self._bus.subscribe(CHANGES, where=self._note).close
        await self._store.write((sql, ()))
        for target, _status_known in await self._rows("", limit=MOST):
            if is_allowed(target.url, self._allowed):
                self._known.setdefault(target.task, set()).add(target.id)
                continue
            logger.warning('an address of task "%s" is removed: it is no longer allowed', target.task)
            await self._store.write((REMOVE, (target.task, target.id)))
        self._loaded.set()
        for task in tuple(self._known):
            self._look_at(task)

    def _note(self, event: Event) -> bool:
        self._look_at(str(event.fields.get("task")))
        return False  # nothing is queued

    def _look_at(self, task: str) -> None:
        for number in self._known.get(task, ()):
            key = (task, number)
            if key in self._sending:
                self._changed.add(key)
            else:
                sending = asyncio.get_running_loop().create_task(self._notify(task, number))
                self._sending[key] = sending
                sending.add_done_callback(partial(self._ended, key))

    def _ended(self, key: tuple[str, str], done: "asyncio.Task[None]") -> None:
        if self._sending.get(key) is done:
            del self._sending[key]
            if key in self._changed and not done.cancelled():
                self._changed.discard(key)
                self._look_at(key[0])  # it has changed since the last look
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.error('cannot notify an address of task "%s": %s', key[0], error)

    async def _notify(self, task: str, number: str) -> None:
        """Notifies an address until it knows the status of the task."""
        tries, refused = 0, ""
        while True:
            self._changed.discard((task, number))
            rows = await self._rows("WHERE task = ? AND id = ?", task, number)
            try:
                record = await self._tasks.show(task)
            except CorralError:
                return  # the task is gone, and its addresses go with the next daemon
            question = None if record.state in ENDED else self._approvals.question(task)
            status = _status(record, question)
            if not rows or status in (rows[0][1], refused):
                if (task, number) in self._changed:
                    continue
                return
            message = {"task": task_of(record)} if record.state in ENDED else status_update(record, question)
            failure = await self._send(rows[0][0], message)
            if failure is None:
                sql = "UPDATE push_target SET notified = ? WHERE task = ? AND id = ?"
                await self._store.write((sql, (status, task, number)))
                tries = 0
                continue
            tries += 1
            if tries >= TRIES or not failure:
                refused = status
                if (task, number) in self._changed:
                    tries = 0
                    continue
                logger.warning('cannot notify an address of task "%s": it does not take it', task)
                return
            await asyncio.sleep(min(FIRST_S * 2 ** (tries - 1), MOST_S))

    async def _send(self, target: Target, message: object) -> bool | None:
        """Sends one notification; returns None if it was taken, else whether another try may help."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        jar = aiohttp.DummyCookieJar()
        await self._reach.resolve()
        connector = aiohttp.TCPConnector(socket_factory=self._reach.socket)
        try:
            async with (
                self._room,
                aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as http,
                http.post(
                    target.url, data=codec.encode(message), headers=target.headers(), allow_redirects=False
                ) as answer,
            ):
                if 200 <= answer.status < 300:
                    return None
                return answer.status >= 500 or answer.status in RETRIED
        except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
            return True

    async def _rows(self, where: str, *values: str, limit: int = PER_TASK) -> list[tuple[Target, str]]:
        sql = f"SELECT record, notified FROM push_target {where} LIMIT {limit}"
        found: list[tuple[Target, str]] = []
        for blob, notified in await self._store.read(sql, values):
            try:
                data = unseal(blob if isinstance(blob, bytes) else b"", "push notifications")
                found.append((msgspec.json.decode(data, type=Target), str(notified)))
            except (Corrupted, msgspec.MsgspecError) as error:
                logger.error("cannot use an address of push notifications: %s", error)
        return found


def is_allowed(url: str, allowed: Sequence[str]) -> bool:
    """Returns whether an address has the scheme, the host and the port of an allowed one, and a path at or below its path; a port may be `*`."""
    found = _parts(url)
    if found is None:
        return False
    scheme, host, port, path = found
    for each in allowed:
        has_any_port = re.match(r"https?://[^/]+:\*(/|$)", each) is not None
        base = _parts(each.replace(":*", "", 1) if has_any_port else each)
        if base is None or (scheme, host) != base[:2] or not (has_any_port or port == base[2]):
            continue
        below = base[3].rstrip("/")
        if path == below or path.startswith(f"{below}/"):
            return True
    return False


def _parts(url: str) -> tuple[str, str, int, str] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    is_plain = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
    if not is_plain or parts.fragment or "\\" in url or "/../" in f"{parts.path}/" or "%2e" in url.lower():
        return None
    usual = 443 if parts.scheme == "https" else 80
    return parts.scheme, str(parts.hostname), port or usual, parts.path or "/"


def _status(task: Task, question: Any) -> str:  # Any: a question of the task, or None
    """Returns the status of a task as it is compared."""
    return task.state if question is None else f"{task.state} {question.id}"
