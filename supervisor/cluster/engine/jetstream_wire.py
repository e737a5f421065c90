"""Names, shapes and decodes what goes between the engine and a server with JetStream, and receives messages and pulled tasks."""

import asyncio
import base64
import contextlib
import itertools
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from corral.worker.contract.errors import CorralError

from .interface import APPEND_WINDOW_S, Message, TlsFiles
from .names import limited
from .view import Inbox

KEYS, TASKS = "corral-keys", "corral-tasks"

MARKER_S = 60
"""Seconds that the mark of a deleted or expired key stays, for watches that lost their connection."""

SECOND = 1_000_000_000
"""Nanoseconds of a second."""

_T = TypeVar("_T")

Json = dict[str, Any]  # Any: answers of the server, read key by key


class ApiError(Exception):
    """Reports that the server refuses a request, with its code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def dotted(name: str) -> str:
    """Returns a name with dots in place of slashes."""
    return name.replace("/", ".")


def key_subject(key: str) -> str:
    """Returns the subject of a key."""
    return f"corral.keys.{dotted(key)}"


def keys_config(replicas: int) -> Json:
    """Returns the configuration of the stream of keys."""
    return {
        "name": KEYS,
        "subjects": ["corral.keys.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "num_replicas": replicas,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": MARKER_S * SECOND,
        "allow_rollup_hdrs": True,
        "duplicate_window": SECOND,
    }


def tasks_config(replicas: int) -> Json:
    """Returns the configuration of the stream of tasks."""
    return {
        "name": TASKS,
        "subjects": ["corral.tasks.>"],
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "duplicate_window": int(APPEND_WINDOW_S * SECOND),
    }


def answer_of(message: Msg) -> Json:
    """Returns the answer of the server."""
    found: Json = msgspec.json.decode(message.data)
    if error := found.get("error"):
        raise ApiError(error.get("err_code", error["code"]), error["description"])
    return found


def bytes_of(text: str | None) -> bytes:
    """Returns the bytes of a base64 text."""
    return base64.b64decode(text or "")


def is_mark(headers: bytes) -> bool:
    """Returns whether the headers are those of the mark of an ended key."""
    return b"KV-Operation:" in headers or b"Nats-Marker-Reason:" in headers


async def cancellable(work: Awaitable[_T]) -> _T:
    """Waits for the client library; raises CancelledError where it lost a cancellation that came together with the answer.

    The library waits by asyncio.wait_for, which returns the answer then, before Python 3.12.
    """
    task = asyncio.current_task()
    assert task is not None, "it is awaited in a task"
    before = task.cancelling()
    try:
        return await work
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


async def quietly(work: Awaitable[object]) -> None:
    """Waits briefly for work on a connection that may be gone."""
    with contextlib.suppress(TimeoutError, nats.errors.Error, OSError, CorralError):
        async with asyncio.timeout(1.0):
            await cancellable(work)


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Returns a context that trusts the certificates, and shows the own one."""
    context = ssl.create_default_context(cafile=files.ca)
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


class Replies:
    """Sends requests, and receives their answers on one subscription.

    The library's own requests cost twice the time: each draws a random name, and waits in a task of its own.
    """

    def __init__(self, client: Client) -> None:
        self._client: Any = client  # Any: the library's types are partial
        self._inbox = ""
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Msg]] = {}

    async def start(self) -> None:
        """Opens the subscription, which the library opens again after each reconnect."""
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(
            f"{self._inbox}.*", cb=self._receive, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    async def request(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Msg:
        """Returns the answer; its caller bounds the wait."""
        number = str(next(self._numbers))
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            reply = f"{self._inbox}.{number}"
            await cancellable(self._client.publish(subject, payload, reply, headers))
            found = await answer
        finally:
            del self._waiting[number]
        if not found.data and found.headers and found.headers.get("Status") == "503":
            raise nats.errors.NoRespondersError
        return found

    async def _receive(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():  # a late one has nobody
            answer.set_result(message)


class PullInbox:
    """Receives the answer to one request for tasks at a time: it has the subjects of the tasks, not that of the request."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Any = None  # Any: a class that the library does not export

    @classmethod
    async def open(cls, client: Client) -> "PullInbox":
        """Opens the subscription."""
        inbox = cls(client.new_inbox())
        untyped: Any = client  # Any: the library's types are partial
        inbox._subscription = await untyped.subscribe(inbox.subject, cb=inbox._receive)
        return inbox

    async def _receive(self, message: Msg) -> None:
        self.queue.put_nowait(message)

    async def close(self) -> None:
        """Ends the subscription."""
        await self._subscription.unsubscribe()


class Listener:
    """Receives messages into a bounded inbox."""

    def __init__(self, client: Client, messages_max: int, closed: Callable[["Listener"], None]) -> None:
        self._client: Any = client  # Any: the library's types are partial
        self._inbox = Inbox(messages_max)
        self._closed = closed
        self._subscription: Any = None  # Any: a class that the library does not export

    @property
    def dropped(self) -> int:
        """Returns how many messages the reader was too slow for."""
        return self._inbox.dropped

    async def start(self, subject: str) -> None:
        """Opens the subscription; the server knows of it when this returns."""

        async def receive(message: Msg) -> None:
            self._inbox.put(message)

        self._subscription = await self._client.subscribe(
            subject, cb=receive, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await cancellable(self._client.flush())

    async def next(self) -> Message:
        """Returns the next message."""
        message = await self._inbox.get()
        assert isinstance(message, Msg), "only messages are put there"
        subject = message.subject.removeprefix("corral.say.").replace(".", "/")

        async def answer(payload: bytes) -> None:
            if message.reply:
                await quietly(self._client.publish(message.reply, limited(payload, "answer", subject)))

        return Message(subject, message.data, answer)

    async def close(self) -> None:
        """Ends the subscription."""
        self._closed(self)
        await quietly(self._subscription.unsubscribe())
