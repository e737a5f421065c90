"""Implements the engine over Redis (server 6.2 or newer, no cluster mode needed).

Keys are fields of a hash, changed by scripts alone; watches read a stream of changes; a queue is a stream with a consumer
group, where a silent taker's tasks are claimed by the next one; messages and requests travel by publish and subscribe.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import MasterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from corral.worker.contract.errors import CorralError, InvalidParams, Timeout

from . import redis_scripts as scripts
from .interface import (
    APPEND_WINDOW_S,
    MESSAGES_MAX,
    REDELIVERY_S,
    TIMEOUT_S,
    Change,
    Entry,
    Message,
    Outcome,
    Taken,
    TlsFiles,
)
from .names import bare, checked, conflict, lease_seconds, limited, no_answer, nobody
from .redis_pipeline import FAILURES, RedisPipeline, Wire
from .view import Following, Inbox, View

VERSION_MIN = (6, 2)
GROUP = "corral"
SWEEP_S = 0.25
"""Seconds between two looks of a watch for leases that are over."""

PING_S = 0.5
"""Seconds of silence of a subscription after which the server is asked for a sign of life."""

SILENCE_S = 1.6
"""Seconds of silence after which a subscription is made anew."""

CHANNEL = scripts.PREFIX + "say:"
_REDIS: Wire = Redis


class RedisEngine:
    """Represents a connection to Redis."""

    kind = "redis"

    def __init__(self, client: Redis, timeout_s: float = TIMEOUT_S) -> None:
        self.client: Wire = client
        self._pipeline = RedisPipeline(client, timeout_s)
        self._timeout_s = timeout_s
        self._consumer = uuid4().hex
        self._groups: set[str] = set()
        self._claim_at: dict[str, float] = {}
        self._open: set[_Closable] = set()
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        self._inbox: Listener | None = None
        self._inbox_task: asyncio.Task[None] | None = None
        self._inbox_lock = asyncio.Lock()
        self._is_connected = True
        self._shas: dict[str, str] = {}

    @classmethod
    async def open(
        cls,
        urls: tuple[str, ...],
        *,
        token: str = "",
        tls: TlsFiles | None = None,
        timeout_s: float = TIMEOUT_S,
        start_s: float = 10.0,
    ) -> "RedisEngine":
        """Opens the connection."""
        address, *others = urls
        if others:
            raise InvalidParams(
                "cannot use several addresses of Redis: write the one of the primary",
                key="cluster.url",
                value=1 + len(others),
                reason="one address",
            )
        options: dict[str, Any] = {"password": token} if token else {}
        if tls is not None:
            options |= {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
        client: Wire = _REDIS.from_url(
            address,
            socket_timeout=None,  # an own bound for each operation: a default of seconds breaks blocking reads
            socket_connect_timeout=timeout_s,  # no shorter than an operation: under load a connection takes seconds
            retry=Retry(NoBackoff(), 0),
            max_connections=4096,
            **options,
        )
        engine = cls(client, timeout_s)
        try:
            async with asyncio.timeout(start_s):
                await engine._begin()
        except TimeoutError as error:
            await engine.close()
            raise no_answer("redis", "connect to", bare(address), "no answer", uncertain=False) from error
        except BaseException:
            await engine.close()
            raise
        return engine

    async def _begin(self) -> None:
        while True:
            try:
                found: Wire = await self.client.info("server")
                break
            except ResponseError as error:
                reason = str(error)[:200]
                raise InvalidParams(f"cannot use Redis: {reason}", key="cluster.url", reason=reason) from error
            except FAILURES:
                await asyncio.sleep(0.1)  # until its caller's timeout
        version = tuple(int(part) for part in found["redis_version"].split(".")[:2])
        if version < VERSION_MIN:
            wanted = ".".join(map(str, VERSION_MIN))
            raise InvalidParams(
                f"cannot use Redis {found['redis_version']}: claims of silent takers need {wanted}",
                key="cluster.url",
                value=found["redis_version"],
                reason=f"needs {wanted}",
            )

    # -- keys

    async def get(self, key: str) -> Entry | None:
        """Returns the newest state of a key."""
        found = await self.run("read key", key, scripts.GET, [], [checked(key, "key")])
        return None if not found else Entry(key, bytes(found[1]), int(found[0]))

    async def put(self, key: str, value: bytes | None, *, revision: int, ttl_s: int | None = None) -> int:
        """Stores a value if the key is at `revision`; None removes it."""
        ttl = lease_seconds(ttl_s, checked(key, "key"))
        args: list[str | bytes] = [key, str(revision)]
        if value is None:
            is_done, found = await self.run("remove key", key, scripts.DELETE, [], args)
        else:
            args += [limited(value, "key", key), "" if ttl is None else str(ttl)]
            is_done, found = await self.run("store key", key, scripts.PUT, [], args)
        if not is_done:
            raise conflict(self.kind, key, revision, int(found))
        return int(found)

    async def watch(self, prefix: str) -> "KeyWatch":
        """Follows the keys below `prefix`."""
        watch = KeyWatch(self, checked(prefix, "key"), self._open.discard)
        self._open.add(watch)
        return watch

    # -- tasks

    async def append(self, queue: str, id: str, payload: bytes) -> bool:  # noqa: A002  # as in the interface
        """Stores a task; returns whether it is new."""
        stream = scripts.stream(checked(queue, "queue"))
        mark = f"{scripts.PREFIX}seen:{queue}:{checked(id, 'id')}"
        args: list[str | bytes] = [id, limited(payload, "task", id), str(int(APPEND_WINDOW_S * 1000))]
        return bool(await self.run("store task", id, scripts.APPEND, [stream, mark], args))

    async def take(self, queue: str, wait_s: float, count_max: int = 1) -> list[Taken]:
        """Returns the oldest tasks that nobody has; looks for those of silent takers meanwhile."""
        checked(queue, "queue")
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            left = min(max(0.0, end - loop.time()), REDELIVERY_S / 6)
            try:
                found = await self._take_once(queue, left, count_max)
            except Timeout:
                found = []
                await asyncio.sleep(min(0.1, max(0.0, end - loop.time())))
            if found or loop.time() >= end:
                return found

    async def _take_once(self, queue: str, wait_s: float, count_max: int) -> list[Taken]:
        stream = scripts.stream(queue)
        loop = asyncio.get_running_loop()
        if queue not in self._groups:
            await self._make_group(queue, stream)
        try:
            if loop.time() >= self._claim_at.get(queue, 0.0):
                claimed = await self._claimed(queue, stream)
                if claimed is not None:
                    return [claimed]
                self._claim_at[queue] = loop.time() + REDELIVERY_S / 6
            found: Wire = await self.call(
                "take from queue",
                queue,
                lambda: self.client.xreadgroup(
                    GROUP, self._consumer, {stream: ">"}, count=count_max, block=int(wait_s * 1000) or None
                ),
                extra_s=wait_s,
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self._groups.discard(queue)  # the server lost what it had
            return []
        if not found:
            return []
        return [self._taken(queue, entry, fields, 1) for entry, fields in scripts.entries(found)]

    async def _claimed(self, queue: str, stream: str) -> Taken | None:
        """Returns a task whose taker has been silent for too long."""
        await self.run("take", queue, scripts.RESTART, [stream, scripts.restarted(queue)], [])
        answer: Wire = await self.call(
            "take from queue",
            queue,
            lambda: self.client.xautoclaim(stream, GROUP, self._consumer, int(REDELIVERY_S * 1000), "0-0", count=1),
        )
        if not answer[1]:
            return None
        entry, fields = answer[1][0]
        pending: Wire = await self.call(
            "take from queue", queue, lambda: self.client.xpending_range(stream, GROUP, entry, entry, 1)
        )
        return self._taken(queue, entry, fields, pending[0]["times_delivered"] if pending else 1)

    def _taken(self, queue: str, entry: bytes, fields: dict[bytes, bytes], times: int) -> Taken:
        return Taken(queue, fields[b"i"].decode(), fields[b"p"], int(fields[b"n"]) + times, entry.decode())

    async def _make_group(self, queue: str, stream: str) -> None:
        try:
            await self.call(
                "take from queue", queue, lambda: self.client.xgroup_create(stream, GROUP, "0", mkstream=True)
            )
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._groups.add(queue)

    async def queued(self, queue: str, count_max: int) -> list[bytes]:
        """Returns the payloads of the oldest tasks that are not done."""
        stream = scripts.stream(checked(queue, "queue"))
        found: Wire = await self.call("read queue", queue, lambda: self.client.xrange(stream, count=count_max))
        return [bytes(fields[b"p"]) for _, fields in found]

    async def settle(self, taken: Taken, outcome: Outcome) -> None:
        """Reports on a task."""
        args: list[str | bytes] = [outcome, taken.handle, self._consumer]
        await self.run("settle task", taken.id, scripts.SETTLE, [scripts.stream(taken.queue)], args)

    # -- messages

    async def publish(self, subject: str, payload: bytes) -> None:
        """Sends a message to all who listen."""
        limited(payload, "message", checked(subject, "subject"))
        await self.call("publish", subject, lambda: self.client.publish(CHANNEL + subject, b" " + payload))

    async def subscribe(self, subject: str, *, messages_max: int = MESSAGES_MAX) -> "Listener":
        """Receives the messages of a subject."""
        checked(subject, "subject", wildcard=True)
        listener = Listener(self, CHANNEL + subject, messages_max, self._open.discard)
        self._open.add(listener)
        try:
            async with asyncio.timeout(self._timeout_s):
                await listener.ready.wait()
        except TimeoutError as error:
            await listener.close()
            raise no_answer(self.kind, "subscribe to", subject, "no answer in time", uncertain=False) from error
        return listener

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Sends a request, and returns the first answer."""
        limited(payload, "request", checked(subject, "subject"))
        number = uuid4().hex
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._listen_for_answers()
                self._answers[number] = answer
                back = f"{self._consumer} {number} ".encode()
                listeners: Wire = await self.call(
                    "request", subject, lambda: self.client.publish(CHANNEL + subject, back + payload)
                )
                if not listeners:
                    raise nobody(self.kind, subject)
                return await answer
        except TimeoutError as error:
            raise no_answer(self.kind, "request", subject, "no answer in time", uncertain=True) from error
        finally:
            self._answers.pop(number, None)

    async def _listen_for_answers(self) -> None:
        async with self._inbox_lock:
            if self._inbox is None:
                self._inbox = await self.subscribe(f"answers/{self._consumer}")
                self._inbox_task = asyncio.create_task(self._read_answers(self._inbox))
            await self._inbox.ready.wait()

    async def _read_answers(self, inbox: "Listener") -> None:
        while True:
            message = await inbox.next()
            number, _, payload = message.payload.partition(b" ")
            answer = self._answers.get(number.decode())
            if answer is not None and not answer.done():
                answer.set_result(payload)

    async def answer(self, consumer: str, number: str, payload: bytes) -> None:
        """Sends the answer to a request of another connection; one that is gone gets none."""
        limited(payload, "answer", number)
        with contextlib.suppress(CorralError):
            channel = f"{CHANNEL}answers/{consumer}"
            await self.call("answer", number, lambda: self.client.publish(channel, f" {number} ".encode() + payload))

    # -- the connection

    @property
    def is_connected(self) -> bool:
        """Returns whether the last operation reached the server."""
        return self._is_connected

    async def weaknesses(self) -> tuple[str, ...]:
        """Returns what this server, as it is set up now, cannot promise."""
        found: list[str] = []
        info: Wire = await self.call("read settings", "redis", lambda: self.client.info())
        if not info.get("aof_enabled"):
            found.append(
                "Redis has no append-only file: a server that dies loses all that it confirmed since its last snapshot; set appendonly yes and appendfsync always"
            )
        else:
            found += await self._fsync_weakness()
        if info.get("maxmemory_policy", "noeviction") != "noeviction" and info.get("maxmemory"):
            found.append(
                f"Redis removes keys when its memory is full (maxmemory-policy {info['maxmemory_policy']}): tasks and leases may vanish; set noeviction"
            )
        found.append(
            "Redis is one server: while it is down nothing is accepted; its replicas copy later than it confirms, so a fail-over may lose what was confirmed"
        )
        found.append("Redis counts leases by the clock of the machine: a clock that jumps ahead ends them early")
        return tuple(found)

    async def _fsync_weakness(self) -> list[str]:
        try:
            config: Wire = await self.call("read settings", "redis", lambda: self.client.config_get("appendfsync"))
        except (ResponseError, CorralError):
            return [
                "Redis does not show appendfsync: unless it is always, a power loss may lose up to a second and more"
            ]
        value = config.get("appendfsync", config.get(b"appendfsync", ""))
        value = value.decode() if isinstance(value, bytes) else value
        if value == "always":
            return []
        return [
            f"Redis writes to disk with appendfsync {value}: a power loss, or a kill of the server while a slow sync is under way, loses what it confirmed in the last two seconds or more; set appendfsync always"
        ]

    async def close(self) -> None:
        """Closes the connection."""
        if self._inbox_task is not None:
            self._inbox_task.cancel()
        self._pipeline.close()
        for each in list(self._open):
            await each.close()
        with contextlib.suppress(*FAILURES):
            async with asyncio.timeout(1.0):
                await self.client.aclose()

    async def run(self, what: str, name: str, script: str, keys: list[str], args: list[str | bytes]) -> Wire:
        """Runs a script by its digest; sends it where the server does not have it."""
        sha = self._shas.get(script)
        if sha is None:
            sha = await self.call(what, name, lambda: self.client.script_load(script))
            self._shas[script] = sha
        try:
            return await self.call(what, name, lambda: self._pipeline.run("EVALSHA", sha, len(keys), *keys, *args))
        except NoScriptError:  # it was started again
            return await self.call(what, name, lambda: self.client.eval(script, len(keys), *keys, *args))
        except ResponseError as error:
            raise self._refused(what, name, error) from error

    async def call(self, what: str, name: str, work: Callable[[], Awaitable[Wire]], *, extra_s: float = 0.0) -> Wire:
        """Runs one command, bounded."""
        try:
            async with asyncio.timeout(self._timeout_s + extra_s):
                found = await work()
        except (OutOfMemoryError, ReadOnlyError, MasterDownError) as error:
            raise self._refused(what, name, error) from error
        except ResponseError as error:
            if str(error).startswith("MISCONF"):  # the disk is full
                raise self._refused(what, name, error) from error
            raise
        except FAILURES as error:
            self._is_connected = not isinstance(error, NoConnection)
            was_refused = isinstance(error.__cause__, ConnectionRefusedError)
            is_late = isinstance(error, TimeoutError | RedisTimeout)
            reason = "no answer in time" if is_late else "not connected"
            raise no_answer(self.kind, what, name, reason, uncertain=not was_refused) from error
        self._is_connected = True
        return found

    def _refused(self, what: str, name: str, error: ResponseError) -> Timeout:
        return no_answer(self.kind, what, name, str(error)[:200], uncertain=False)


class KeyWatch(View, Following):
    """Follows keys by the stream of changes; begins anew where the stream has forgotten some."""

    failures = (CorralError, ResponseError)

    def __init__(self, engine: RedisEngine, prefix: str, closed: Callable[["KeyWatch"], None]) -> None:
        View.__init__(self)
        self._engine = engine
        self._prefix = prefix
        Following.__init__(self, lambda: closed(self))

    async def _follow_once(self) -> None:
        engine = self._engine
        last, found = await engine.run("watch", self._prefix, scripts.SNAPSHOT, [], [self._prefix])
        self.begin()
        for key, revision, value in sorted(found, key=lambda each: int(each[1])):
            self.put(Change(key.decode(), value, int(revision)))
        self.complete()
        while True:
            _, first = await engine.run("watch", self._prefix, scripts.SWEEP, [], [self._prefix])
            if last != b"0-0" and scripts.position(first) > scripts.position(last):
                return  # some may be gone: anew
            answer: Wire = await engine.call("watch", self._prefix, partial(self._read, last), extra_s=SWEEP_S)
            self.alive()
            if not answer:
                continue
            entries = scripts.entries(answer)
            for entry, fields in entries:
                last = entry
                await self._take(fields)

    async def _read(self, last: bytes) -> Wire:
        client = self._engine.client
        return await client.xread({scripts.changes(self._prefix): last}, count=500, block=int(SWEEP_S * 1000))

    async def _take(self, fields: dict[bytes, bytes]) -> None:
        key, revision = fields[b"k"].decode(), int(fields[b"r"])
        if key != self._prefix and not key.startswith(self._prefix + "/"):
            return
        if b"f" in fields:
            entry = await self._engine.get(key)
            if entry is not None:
                self.put(Change(key, entry.value, entry.revision))
            return
        self.put(Change(key, fields.get(b"v"), revision))


class Listener(Following):
    """Receives messages into a bounded inbox, over a connection of its own that it makes anew when it is lost."""

    def __init__(
        self, engine: RedisEngine, channel: str, messages_max: int, closed: Callable[["Listener"], None]
    ) -> None:
        self._engine = engine
        self._channel = channel
        self._inbox = Inbox(messages_max)
        self.ready = asyncio.Event()
        super().__init__(lambda: closed(self))

    @property
    def dropped(self) -> int:
        """Returns how many messages the reader was too slow for."""
        return self._inbox.dropped

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(*FAILURES):
                await self._follow_once()
            self.ready.clear()
            await asyncio.sleep(0.1)

    async def _follow_once(self) -> None:
        async with self._engine.client.pubsub() as pubsub:
            if self._channel.endswith("/*"):
                await pubsub.psubscribe(self._channel)
            else:
                await pubsub.subscribe(self._channel)
            silent_s = 0.0
            while silent_s < SILENCE_S:
                found: Wire = await pubsub.get_message(timeout=PING_S)
                if found is None:
                    silent_s += PING_S
                    await pubsub.ping()
                    continue
                silent_s = 0.0
                if found["type"] in ("subscribe", "psubscribe"):
                    self.ready.set()
                elif found["type"] in ("message", "pmessage"):
                    self._inbox.put((found["channel"], found["data"]))

    async def next(self) -> Message:
        """Returns the next message."""
        found: Wire = await self._inbox.get()
        channel, data = found
        back, _, rest = data.partition(b" ")
        number = b""
        if back:
            number, _, rest = rest.partition(b" ")

        async def answer(payload: bytes) -> None:
            if back:
                await self._engine.answer(back.decode(), number.decode(), payload)

        return Message(channel.decode().removeprefix(CHANNEL), rest, answer)


_Closable = KeyWatch | Listener
