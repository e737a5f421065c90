"""Implements the engine over NATS with JetStream (server 2.11 or newer).

Two streams hold everything: `corral-keys` the newest value of each key, with its own end where it is a lease, and
`corral-tasks`, from which a task goes when it is done. A revision is the sequence number of `corral-keys`. They have three
replicas where the cluster has three servers.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from corral.worker.contract.errors import CorralError, InvalidParams, Timeout

from .interface import MESSAGES_MAX, REDELIVERY_S, TIMEOUT_S, Change, Entry, Outcome, Taken, TlsFiles
from .jetstream_wire import (
    KEYS,
    MARKER_S,
    SECOND,
    TASKS,
    ApiError,
    Json,
    Listener,
    PullInbox,
    Replies,
    answer_of,
    bytes_of,
    cancellable,
    dotted,
    is_mark,
    key_subject,
    keys_config,
    quietly,
    tasks_config,
    tls_context,
)
from .names import bare, checked, conflict, lease_seconds, limited, no_answer, nobody
from .view import Following, View

VERSION_MIN = (2, 11)
HEARTBEAT_S = 0.5
"""Seconds between two signs of life of a watch."""

SILENCE_S = 1.6
"""Seconds of silence after which a watch begins anew."""

PULL_S = 2.0
"""Seconds that one request for a task may wait: a change of leaders loses it."""

PULL_LATE_S = 1.0
"""Seconds that the answer to such a request may be late; a task that comes later is delivered again."""

RECONNECTS_MAX = 1_000_000_000
"""Number of attempts to reach a server again: for ever. The library's own word for that, -1, never ends with a wrong token."""

RECONNECT_S = 0.1
"""Seconds between two attempts."""

WRONG_SEQUENCE = (10071, 10164)
NOT_FOUND = (10059, 10014, 10037)


class JetStream:
    """Represents a connection to NATS."""

    kind = "nats"

    def __init__(self, client: Client, timeout_s: float = TIMEOUT_S) -> None:
        self._client: Any = client  # Any: the library's types are partial
        self._timeout_s = timeout_s
        self._queues: dict[str, str] = {}
        self._open: set[_Closable] = set()
        self._inboxes: list[PullInbox] = []
        self._replies = Replies(client)

    @classmethod
    async def open(
        cls,
        urls: tuple[str, ...],
        *,
        token: str = "",
        tls: TlsFiles | None = None,
        timeout_s: float = TIMEOUT_S,
        start_s: float = 10.0,
    ) -> "JetStream":
        """Connects, and makes the streams where they are missing."""
        last: list[Exception] = []

        async def note(error: Exception) -> None:
            last[:] = [error]

        # The library sleeps for any number of seconds, and is annotated with whole ones.
        options: Json = {"reconnect_time_wait": RECONNECT_S}
        if token:
            options["token"] = token
        if tls is not None:
            options["tls"] = tls_context(tls)
        client = Client()
        try:
            async with asyncio.timeout(start_s):
                await client.connect(
                    list(urls),
                    error_cb=note,
                    max_reconnect_attempts=RECONNECTS_MAX,
                    connect_timeout=1,
                    ping_interval=1,
                    max_outstanding_pings=2,
                    **options,
                )
                engine = cls(client, timeout_s)
                engine._check_version()
                await engine._replies.start()
                await engine._prepare()
        except (TimeoutError, nats.errors.Error, OSError) as error:
            await quietly(client.close())
            reason = str(last[0] if last else error) or "no answer"
            raise no_answer("nats", "connect to", ",".join(map(bare, urls)), reason, uncertain=False) from error
        except BaseException:
            await quietly(client.close())
            raise
        return engine

    def _check_version(self) -> None:
        version = self._client.connected_server_version
        if (version.major, version.minor) < VERSION_MIN:
            found = f"{version.major}.{version.minor}"
            wanted = ".".join(map(str, VERSION_MIN))
            raise InvalidParams(
                f"cannot use NATS server {found}: keys with an end need {wanted}",
                key="cluster.url",
                value=found,
                reason=f"needs {wanted}",
            )

    async def _prepare(self) -> None:
        """Makes the streams, and gives them three replicas once there are three servers."""
        while True:
            replicas = 3 if len({uri.netloc for uri in self._client.servers}) >= 3 else 1
            try:
                for config in (keys_config(replicas), tasks_config(replicas)):
                    await self._prepare_one(config, replicas)
                return
            except (ApiError, Timeout) as error:
                if isinstance(error, ApiError) and error.code in (10039, 10076):
                    raise InvalidParams(
                        f"cannot use the NATS server: {error.reason}: start it with --jetstream",
                        key="cluster.url",
                        reason=error.reason,
                    ) from error
                await asyncio.sleep(0.1)  # until its caller's timeout: a leader is being elected

    async def _prepare_one(self, config: Json, replicas: int) -> None:
        name = config["name"]
        try:
            info = await self.api(f"STREAM.INFO.{name}", {}, name, timeout_s=1.0)
        except ApiError as error:
            if error.code not in NOT_FOUND:
                raise
            await self.api(f"STREAM.CREATE.{name}", config, name, timeout_s=5.0)
            return
        if info["config"]["num_replicas"] < replicas:
            changed = {**info["config"], "num_replicas": replicas}
            await self.api(f"STREAM.UPDATE.{name}", changed, name, timeout_s=5.0)

    # -- keys

    async def get(self, key: str) -> Entry | None:
        """Returns the newest state of a key, as the leader has it."""
        message = await self._last(checked(key, "key"))
        return None if message is None or message.value is None else Entry(key, message.value, message.revision)

    async def put(self, key: str, value: bytes | None, *, revision: int, ttl_s: int | None = None) -> int:
        """Stores a value if the key is at `revision`; None removes it, and a mark of it stays for a while."""
        checked(key, "key")
        if value is None:
            if not revision:
                raise conflict(self.kind, key, 0, 0)
            return await self._store(key, b"", revision, {"KV-Operation": "DEL", "Nats-TTL": f"{MARKER_S}s"})
        headers = {} if lease_seconds(ttl_s, key) is None else {"Nats-TTL": f"{ttl_s}s"}
        return await self._store(key, limited(value, "key", key), revision, headers)

    async def _store(self, key: str, value: bytes, revision: int, headers: dict[str, str]) -> int:
        expected = revision
        for _ in range(3):
            sent = {**headers, "Nats-Expected-Last-Subject-Sequence": str(expected)}
            try:
                return int((await self._stored(key_subject(key), value, sent, "store key", key))["seq"])
            except ApiError as error:
                if error.code not in WRONG_SEQUENCE:
                    raise self._refused("store key", key, error) from error
            last = await self._last(key)
            present = 0 if last is None or last.value is None else last.revision
            if revision or present:
                raise conflict(self.kind, key, revision, present)
            expected = 0 if last is None else last.revision  # the mark of a key that ended
        raise conflict(self.kind, key, revision, 0)

    async def _last(self, key: str) -> Change | None:
        """Returns the last message of a key; None where there is none."""
        body = {"last_by_subj": key_subject(key)}
        try:
            found = await self.api(f"STREAM.MSG.GET.{KEYS}", body, key)
        except ApiError as error:
            if error.code in NOT_FOUND:
                return None
            raise self._refused("read key", key, error) from error
        message = found["message"]
        raw = bytes_of(message.get("hdrs"))
        data = bytes_of(message.get("data"))
        return Change(key, None if is_mark(raw) else data, message["seq"])

    async def watch(self, prefix: str) -> "KeyWatch":
        """Follows the keys below `prefix`."""
        watch = KeyWatch(self, self._client, checked(prefix, "key"), self._open.discard)
        self._open.add(watch)
        return watch

    # -- tasks

    async def append(self, queue: str, id: str, payload: bytes) -> bool:  # noqa: A002  # as in the interface
        """Stores a task; repeats the request while no leader answers, since the id makes it one. Returns whether it is new."""
        subject = f"corral.tasks.{dotted(checked(queue, 'queue'))}"
        headers = {"Nats-Msg-Id": f"{queue}/{checked(id, 'id')}"}
        try:
            answer = await self._stored(subject, limited(payload, "task", id), headers, "store task", id)
        except ApiError as error:
            raise self._refused("store task", id, error) from error
        return not answer.get("duplicate")

    async def take(self, queue: str, wait_s: float, count_max: int = 1) -> list[Taken]:
        """Returns the oldest tasks that nobody has."""
        checked(queue, "queue")
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            left = max(0.0, end - loop.time())
            try:
                found = await self._pull(queue, min(left, PULL_S), count_max)
            except Timeout:
                found = []
            if found or loop.time() >= end:
                return found

    async def _pull(self, queue: str, wait_s: float, count_max: int) -> list[Taken]:
        """Returns the tasks that one request brings: those that are there, or the first that comes."""
        name = await self._consumer(queue)
        body: Json = {"batch": count_max, "no_wait": True}
        if wait_s >= 0.05:
            body["expires"] = int(wait_s * SECOND)  # with no_wait: until the first one comes
        inbox = self._inboxes.pop() if self._inboxes else await PullInbox.open(self._client)
        found: list[Taken] = []
        status = ""
        is_answered = False
        try:
            async with asyncio.timeout(wait_s + PULL_LATE_S):
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{TASKS}.{name}"
                await cancellable(self._client.publish(subject, msgspec.json.encode(body), inbox.subject))
                while not status and len(found) < count_max:
                    message = await inbox.queue.get()
                    status = (message.headers or {}).get("Status", "")
                    if not status:
                        found.append(_taken(queue, message))
            is_answered = True
        except (TimeoutError, nats.errors.Error):
            if not self._client.is_connected:
                await asyncio.sleep(min(wait_s, 0.1))
        finally:
            if is_answered:
                self._inboxes.append(inbox)
            else:  # a late task must not come to another take
                await quietly(inbox.close())
            if not is_answered or status not in ("", "404", "408"):
                self._queues.pop(queue, None)  # the consumer may have gone with its server
        return found

    async def _consumer(self, queue: str) -> str:
        if queue in self._queues:
            return self._queues[queue]
        name = queue.replace("/", "=")  # no name has one, and a consumer's may
        config = {
            "durable_name": name,
            "name": name,
            "ack_policy": "explicit",
            "ack_wait": int(REDELIVERY_S * SECOND),
            "max_deliver": -1,
            "max_ack_pending": 100_000,
            "max_waiting": 8192,
            "filter_subject": f"corral.tasks.{dotted(queue)}",
            "deliver_policy": "all",
            "replay_policy": "instant",
        }
        body = {"stream_name": TASKS, "config": config}
        try:
            await self.api(f"CONSUMER.DURABLE.CREATE.{TASKS}.{name}", body, queue)
        except ApiError as error:
            raise self._refused("take from queue", queue, error) from error
        self._queues[queue] = name
        return name

    async def queued(self, queue: str, count_max: int) -> list[bytes]:
        """Returns the payloads of the oldest tasks that are not done."""
        subject = f"corral.tasks.{dotted(checked(queue, 'queue'))}"
        found: list[bytes] = []
        sequence = 1
        while len(found) < count_max:
            body: Json = {"seq": sequence, "next_by_subj": subject}
            try:
                message = (await self.api(f"STREAM.MSG.GET.{TASKS}", body, queue))["message"]
            except ApiError as error:
                if error.code in NOT_FOUND:
                    break
                raise self._refused("read queue", queue, error) from error
            found.append(bytes_of(message.get("data")))
            sequence = message["seq"] + 1
        return found

    async def settle(self, taken: Taken, outcome: Outcome) -> None:
        """Reports on a task."""
        word = {"done": b"+ACK", "working": b"+WPI", "again": b"-NAK"}[outcome]
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connected()
                await cancellable(self._client.publish(taken.handle, word))
        except (TimeoutError, nats.errors.Error) as error:
            raise self._no_answer("settle task", taken.id, error, uncertain=True) from error

    # -- messages

    async def publish(self, subject: str, payload: bytes) -> None:
        """Sends a message to all who listen."""
        checked(subject, "subject")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connected()
                data = limited(payload, "message", subject)
                await cancellable(self._client.publish(f"corral.say.{dotted(subject)}", data))
        except (TimeoutError, nats.errors.Error) as error:
            raise self._no_answer("publish", subject, error, uncertain=True) from error

    async def subscribe(self, subject: str, *, messages_max: int = MESSAGES_MAX) -> "Listener":
        """Receives the messages of a subject."""
        checked(subject, "subject", wildcard=True)
        wire = dotted(subject.removesuffix("/*")) + (".>" if subject.endswith("/*") else "")
        listener = Listener(self._client, messages_max, self._open.discard)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connected()
                await listener.start(f"corral.say.{wire}")
        except (TimeoutError, nats.errors.Error) as error:
            raise self._no_answer("subscribe to", subject, error, uncertain=False) from error
        self._open.add(listener)
        return listener

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Sends a request, and returns the first answer."""
        wire = f"corral.say.{dotted(checked(subject, 'subject'))}"
        limited(payload, "request", subject)
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected()
                return bytes((await self._replies.request(wire, payload)).data)
        except nats.errors.NoRespondersError as error:
            raise nobody(self.kind, subject) from error
        except (TimeoutError, nats.errors.Error) as error:
            raise self._no_answer("request", subject, error, uncertain=True) from error

    # -- the connection

    @property
    def is_connected(self) -> bool:
        """Returns whether the connection is up."""
        return bool(self._client.is_connected)

    async def weaknesses(self) -> tuple[str, ...]:
        """Returns what the streams cannot promise."""
        try:
            info = await self.api(f"STREAM.INFO.{TASKS}", {}, TASKS)
        except ApiError as error:
            raise self._refused("read stream", TASKS, error) from error
        replicas = int(info["config"]["num_replicas"])
        found: list[str] = []
        if replicas < 3:
            found.append(
                f"JetStream keeps {replicas} replica: while its server is down nothing is accepted, and with its disk all is lost"
            )
        many = "all three servers lose power" if replicas >= 3 else "the server loses power"
        found.append(
            f"JetStream writes to disk every 2 minutes unless the server has sync_interval: always, which a client cannot see: if {many}, it may lose what it confirmed"
        )
        return tuple(found)

    async def close(self) -> None:
        """Closes the connection."""
        for each in list(self._open):
            await each.close()
        await quietly(self._client.close())

    async def _connected(self) -> None:
        """Waits for a connection; its caller bounds the wait."""
        while not self._client.is_connected:
            await asyncio.sleep(0.02)

    async def api(self, what: str, body: Json, name: str, *, timeout_s: float | None = None) -> Json:
        """Sends a request to JetStream."""
        bound = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(bound):
                while True:
                    await self._connected()
                    try:
                        message = await self._replies.request(f"$JS.API.{what}", msgspec.json.encode(body))
                        break
                    except nats.errors.NoRespondersError:
                        await asyncio.sleep(0.05)  # no leader yet
        except (TimeoutError, nats.errors.Error) as error:
            raise self._no_answer("reach", name, error, uncertain=True) from error
        return answer_of(message)

    async def _stored(self, subject: str, payload: bytes, headers: dict[str, str], what: str, name: str) -> Json:
        """Publishes to a stream, and returns the answer; repeats while no leader took it."""
        is_sent = False
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    await self._connected()
                    try:
                        is_sent = True
                        return answer_of(await self._replies.request(subject, payload, headers))
                    except nats.errors.NoRespondersError:
                        is_sent = False
                        await asyncio.sleep(0.05)
        except (TimeoutError, nats.errors.Error) as error:
            raise self._no_answer(what, name, error, uncertain=is_sent) from error

    def _no_answer(self, what: str, name: str, error: Exception, *, uncertain: bool) -> Timeout:
        down = "" if self._client.is_connected else "not connected"
        return no_answer(self.kind, what, name, down or str(error) or "no answer in time", uncertain=uncertain)

    def _refused(self, what: str, name: str, error: ApiError) -> CorralError:
        """Makes the error of an answer that refuses; one of a server without a leader or disk may go away by itself."""
        return no_answer(self.kind, what, name, f"{error.reason} ({error.code})", uncertain=False)


def _taken(queue: str, message: Msg) -> Taken:
    id_ = (message.headers or {}).get("Nats-Msg-Id", "").removeprefix(f"{queue}/")
    return Taken(queue, id_, message.data, message.metadata.num_delivered or 1, message.reply)


class KeyWatch(View, Following):
    """Follows keys by a consumer of its own, which it makes anew after silence or a gap."""

    failures = (TimeoutError, nats.errors.Error, CorralError, ApiError)

    def __init__(self, engine: JetStream, client: Client, prefix: str, closed: Callable[["KeyWatch"], None]) -> None:
        View.__init__(self)
        self._engine = engine
        self._client: Any = client  # Any: the library's types are partial
        self._prefix = prefix
        Following.__init__(self, lambda: closed(self))

    async def _follow_once(self) -> None:
        """Makes a consumer that starts with the present keys, and reads it until it goes silent or skips a message."""
        inbox = self._client.new_inbox()
        queue: asyncio.Queue[Msg] = asyncio.Queue()

        async def receive(message: Msg) -> None:
            queue.put_nowait(message)

        subscription = await cancellable(self._client.subscribe(inbox, cb=receive))
        name = ""
        try:
            config = {
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "ack_policy": "none",
                "replay_policy": "instant",
                "filter_subjects": [key_subject(self._prefix) + ".>", key_subject(self._prefix)],
                "idle_heartbeat": int(HEARTBEAT_S * SECOND),
                "inactive_threshold": int(5 * SECOND),
                "mem_storage": True,
                "num_replicas": 1,
            }
            made = await self._engine.api(
                f"CONSUMER.CREATE.{KEYS}", {"stream_name": KEYS, "config": config}, self._prefix
            )
            name = made["name"]
            self.begin()
            if made["num_pending"] == 0 and made["delivered"]["consumer_seq"] == 0:
                self.complete()
            await self._read(queue)
        finally:
            await quietly(subscription.unsubscribe())
            if name and self._client.is_connected:
                await quietly(self._client.publish(f"$JS.API.CONSUMER.DELETE.{KEYS}.{name}", b""))

    async def _read(self, queue: "asyncio.Queue[Msg]") -> None:
        count = 0
        while True:
            async with asyncio.timeout(SILENCE_S):
                message = await queue.get()
            headers = message.headers or {}
            if headers.get("Status"):
                if headers["Status"] != "100" or int(headers.get("Nats-Last-Consumer", 0)) > count:
                    return
                self.alive()
                continue
            found = message.metadata
            count += 1
            if found.sequence.consumer != count:
                return  # one was lost: anew
            key = message.subject.removeprefix("corral.keys.").replace(".", "/")
            is_end = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
            self.put(Change(key, None if is_end else message.data, found.sequence.stream))
            if not found.num_pending:
                self.complete()


_Closable = KeyWatch | Listener
