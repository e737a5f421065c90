"""Passes calls on to the node that has what they are about, and serves those of other nodes.

A call travels whole, with the facts of its caller; rights, scope and audit are those of the node that serves it. Nodes of one
cluster trust each other. Notifications come back at most once, in order; a call whose node is gone fails within seconds. A stream that
follows a call has no gap: it ends as Unreachable where a message is lost, and is as fast as its reader.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping

import msgspec
from msgspec import Struct

from corral.supervisor.api.table.handlers import Caller
from corral.supervisor.api.table.inventory import Inventory
from corral.supervisor.api.table.table import Control
from corral.worker.contract.errors import (
    CorralError,
    InternalError,
    NotFound,
    ResourceLimitExceeded,
    Timeout,
    Unreachable,
)
from corral.worker.contract.records import Error

from ..engine.interface import VALUE_BYTES_MAX, Engine, Message, Subscription
from ..lease.record import decoded, key_of
from .remote_caller import CallerFacts, Part, Pieces, RemoteCaller

WHERE = "where"
WHERE_S = 0.5
"""Seconds that nodes have to say that they know a name."""

LONGEST_S = 86_400.0
"""Seconds of the longest call."""

LOOK_S = 2.0
"""Seconds between two looks whether the node of a call still has its lease; and between two signs of life of a follower."""

SILENCE_S = 10.0
"""Seconds without a sign of life after which a follower is gone."""

WINDOW = 32
"""Number of messages of what is followed that may be under way to its reader."""

LAST_S = 2.0
"""Seconds that the last notifications may take after the answer."""

CALLS_MAX = 1_000
"""Number of calls of other nodes that are served at a time."""

logger = logging.getLogger(__name__)


class Call(Struct, frozen=True, kw_only=True):
    """Represents a call on its way; `streams` names the subject of its notifications, "" for none.

    Of what it follows, at most `window` messages are under way; 0 is for a caller that does not say what it has passed on.
    """

    method: str
    params: dict[str, object]
    caller: CallerFacts
    streams: str = ""
    is_direct: bool = False
    """Whether it is about what that node itself runs, whatever the engine has of it."""
    window: int = 0


class Reply(Struct, frozen=True, kw_only=True):
    """Represents the answer: a result or an error, and how many notifications came before it.

    With `follows` more are to come, until the caller gives no sign of life; a node that names its `incarnation` gives signs, too.
    """

    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Error | None = None
    sent: int = 0
    follows: bool = False
    incarnation: str = ""


class Question(Struct, frozen=True, kw_only=True):
    """Asks which node has all of these agents, servers, teams or workflows, or this task or schedule."""

    names: list[str] = []
    task: str = ""
    schedule: str = ""
    running: bool = False
    """Whether the task must not have ended there."""


class Forwarding:
    """Passes calls on, and serves those of others."""

    def __init__(self, node: str, incarnation: str, has_name: Callable[[], bool]) -> None:
        self._node = node
        self._incarnation = incarnation
        self._has_name = has_name
        self._control: Control | None = None
        self._inventory: Inventory | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def answer_with(self, control: Control, inventory: Inventory) -> None:
        """Lets the method table of this daemon answer, and says where is what this daemon has."""
        self._control, self._inventory = control, inventory

    # -- calls of this node

    async def answer_here(self, method: str, params: Mapping[str, object], caller: Caller) -> object:
        """Returns the answer of this daemon to a call."""
        assert self._control is not None, "it is there before the node joins"
        return await self._control.answer_here(method, params, caller)

    async def find(self, engine: Engine, question: Question) -> str:
        """Returns a node that has what is asked for, "" where none says so in time."""
        with contextlib.suppress(NotFound, Timeout):
            return (await engine.request(WHERE, msgspec.json.encode(question), WHERE_S)).decode()
        return ""

    async def forward(
        self,
        engine: Engine,
        node: str,
        method: str,
        params: Mapping[str, object],
        caller: Caller,
        *,
        streams: bool,
        is_direct: bool = False,
        timeout_s: float = LONGEST_S,
    ) -> object:
        """Returns the answer of another node."""
        subject = f"streams/{uuid.uuid4().hex}" if streams else ""
        facts = CallerFacts(
            name=caller.name,
            permission=caller.permission,
            who={**caller.who, "node": self._node},
            agents=None if caller.agents is None else list(caller.agents),
            tenant=caller.tenant,
        )
        call = Call(
            method=method, params=dict(params), caller=facts, streams=subject, is_direct=is_direct, window=WINDOW
        )
        payload = msgspec.json.encode(call)
        parts = await engine.subscribe(subject) if subject else None
        try:
            relay = None if parts is None else _Relay(parts, caller)
            try:
                reply = await self._asked(engine, node, payload, timeout_s)
                if relay is not None and not reply.follows:
                    await relay.until(reply.sent)
            finally:
                if relay is not None:
                    await relay.close()
            if (failed := reply.error) is not None:
                raise _raised(failed)
            if reply.follows and parts is not None:
                source = _Source(node, reply.incarnation, subject, parts, 0 if relay is None else relay.passed)
                caller.follow(self._follow(engine, source, caller))
                parts = None
            return reply.result
        finally:
            if parts is not None:
                await parts.close()

    async def _asked(self, engine: Engine, node: str, payload: bytes, timeout_s: float) -> Reply:
        asking = asyncio.ensure_future(engine.request(f"nodes/{node}", payload, timeout_s))
        try:
            while True:
                await asyncio.wait([asking], timeout=LOOK_S)
                if asking.done():
                    return msgspec.json.decode(asking.result(), type=Reply)
                with contextlib.suppress(Timeout):
                    if await engine.get(key_of(node)) is None:
                        raise _unreachable(node, "it has lost its lease")
        except NotFound:
            raise _unreachable(node, "it does not listen") from None
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _follow(self, engine: Engine, source: "_Source", caller: Caller) -> None:
        """Passes notifications on until the caller hangs up, or they end; tells the other node that it is there."""

        async def live() -> None:
            while True:
                with contextlib.suppress(CorralError):
                    await engine.publish(f"{source.subject}/alive", b"%d" % source.passed)
                source.acknowledged = source.passed
                source.has_room.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await source.has_room.wait()

        living = asyncio.create_task(live())
        try:
            received_at = time.monotonic()
            while True:
                try:
                    async with asyncio.timeout(LOOK_S):
                        message = await source.parts.next()
                except TimeoutError:
                    await self._check_there(engine, source, time.monotonic() - received_at)
                    continue
                received_at = time.monotonic()
                part = msgspec.json.decode(message.payload, type=Part)
                source.check(part)
                if part.ends:
                    if part.error is not None:
                        raise _raised(part.error)
                    return
                await source.pass_on(part, caller)
        finally:
            living.cancel()
            await asyncio.wait([living])
            await source.parts.close()

    async def _check_there(self, engine: Engine, source: "_Source", silent_s: float) -> None:
        """Raises Unreachable where the node of a stream is not there any more, or is another daemon."""
        if not source.incarnation:
            return  # an older version, which gives no signs
        if silent_s > SILENCE_S:
            raise _unreachable(source.node, f"it has sent nothing for {SILENCE_S:g} s")
        with contextlib.suppress(Timeout):
            entry = await engine.get(key_of(source.node))
            record = None if entry is None else decoded(entry.value)
            if entry is None:
                raise _unreachable(source.node, "it has lost its lease")
            if record is not None and record.incarnation != source.incarnation:
                raise _unreachable(source.node, "it has been started again")

    # -- calls of other nodes

    async def serve(self, engine: Engine) -> None:
        """Serves the calls of other nodes until it is cancelled."""
        calls = await engine.subscribe(f"nodes/{self._node}")
        try:
            while True:
                call = await calls.next()
                if self._has_name():  # else it is for another daemon
                    self._spawn(self._serve_one(engine, call))
        finally:
            for each in self._serving:
                each.cancel()
            if self._serving:
                await asyncio.wait(self._serving)
            await calls.close()

    async def answer_where(self, engine: Engine) -> None:
        """Answers which names this daemon has, until it is cancelled."""
        questions = await engine.subscribe(WHERE)
        try:
            while True:
                question = await questions.next()
                if self._has_name():
                    self._spawn(self._answer_one_where(question))
        finally:
            await questions.close()

    def _spawn(self, serving: Coroutine[None, None, None]) -> None:
        if len(self._serving) >= CALLS_MAX:
            serving.close()  # its caller sees that nothing comes
            return
        task = asyncio.create_task(serving)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _answer_one_where(self, message: Message) -> None:
        assert self._inventory is not None, "it is there before the node joins"
        with contextlib.suppress(CorralError, msgspec.MsgspecError):
            question = msgspec.json.decode(message.payload, type=Question)
            if question.running:
                has_it = self._inventory.runs(question.task)
            elif question.schedule:
                has_it = self._inventory.has_schedule(question.schedule)
            else:
                has_it = await self._inventory.has(question.names, question.task)
            if has_it:
                await message.answer(self._node.encode())

    async def _serve_one(self, engine: Engine, message: Message) -> None:
        try:
            call = msgspec.json.decode(message.payload, type=Call)
        except msgspec.MsgspecError as error:
            logger.error("a call of another node cannot be read: %s", error)
            return

        async def send(part: bytes) -> None:
            await engine.publish(call.streams, part)

        caller = RemoteCaller(call.caller, send, is_direct=call.is_direct, window=call.window)
        try:
            reply = await self._answered(call, caller)
            await caller.flush()
            reply = msgspec.structs.replace(
                reply, sent=caller.sent, follows=caller.following is not None, incarnation=self._incarnation
            )
            payload = msgspec.json.encode(reply)
            if len(payload) > VALUE_BYTES_MAX:
                text = f"cannot pass on the answer of {call.method}: it has {len(payload)} bytes, more than {VALUE_BYTES_MAX}"
                too_large = ResourceLimitExceeded(text, limit=VALUE_BYTES_MAX, value=len(payload))
                payload = msgspec.json.encode(Reply(error=Error.of(too_large)))
            follows = caller.following is not None and reply.error is None
            with contextlib.suppress(CorralError):
                # Before the answer: the first sign of life may come at once.
                signs = await engine.subscribe(f"{call.streams}/alive") if follows else None
                await message.answer(payload)
                if signs is not None and caller.following is not None:
                    await self._follow_here(signs, caller, caller.following)
        finally:
            await caller.close()

    async def _answered(self, call: Call, caller: RemoteCaller) -> Reply:
        assert self._control is not None, "it is there before the node joins"
        try:
            found = await self._control.answer_here(call.method, call.params, caller)
            return Reply(result=msgspec.Raw(msgspec.json.encode(found)))
        except CorralError as error:
            return Reply(error=Error.of(error))
        except Exception as error:
            logger.exception("a call of another node failed: %s", call.method)
            return Reply(error=Error.of(InternalError(f"cannot serve it: {type(error).__name__}")))

    async def _follow_here(self, signs: Subscription, caller: RemoteCaller, following: Awaitable[None]) -> None:
        """Runs what a caller follows until it gives no sign of life, and gives signs itself; sends the end.

        It begins with the first sign: then the caller reads what is followed, and not what comes before the answer.
        """
        received_at = 0.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await signs.next()
            received_at = time.monotonic()
        running = asyncio.ensure_future(following)
        next_sign = asyncio.ensure_future(signs.next())
        signed_at = time.monotonic()
        try:
            while not running.done() and received_at > time.monotonic() - SILENCE_S:
                await asyncio.wait([running, next_sign], timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if next_sign.done():
                    received_at = time.monotonic()
                    count = next_sign.result().payload
                    caller.acknowledge(int(count) if count.isdigit() else 0)
                    next_sign = asyncio.ensure_future(signs.next())
                if time.monotonic() > signed_at + LOOK_S / 2:
                    signed_at = time.monotonic()
                    caller.sign()
        finally:
            next_sign.cancel()
            running.cancel()
            ended = await asyncio.gather(running, next_sign, return_exceptions=True)
            await signs.close()
        failed = ended[0]
        if isinstance(failed, Exception) and not isinstance(failed, CorralError):
            logger.error("cannot go on with a stream to another node", exc_info=failed)
            failed = InternalError(f"cannot go on: {type(failed).__name__}")
        if not isinstance(failed, asyncio.CancelledError):
            caller.sign(ends=True, error=Error.of(failed) if isinstance(failed, CorralError) else None)
            await caller.flush()


class _Source:
    """Represents what is followed on another node, and how much of it was passed on."""

    def __init__(self, node: str, incarnation: str, subject: str, parts: Subscription, passed: int) -> None:
        self.node = node
        self.incarnation = incarnation
        self.subject = subject
        self.parts = parts
        self.passed = passed
        self.acknowledged = passed
        """Number of messages that the node knows to be passed on."""
        self.has_room = asyncio.Event()
        self._pieces = Pieces()

    def check(self, part: Part) -> None:
        """Raises Unreachable where messages before one are missing."""
        expected = self.passed if part.is_sign else self.passed + 1
        if part.number and part.number != expected:
            raise _unreachable(self.node, "messages of it were lost")

    async def pass_on(self, part: Part, caller: Caller) -> None:
        """Passes a notification on once all pieces of it are there."""
        if part.is_sign:
            return
        if (whole := self._pieces.whole(part)) is not None:
            caller.notify(whole.method, whole.params)
            await caller.drain()
        self.passed += 1
        if self.passed >= self.acknowledged + WINDOW // 2:
            self.has_room.set()


class _Relay:
    """Passes the notifications of one call on while its answer is awaited."""

    def __init__(self, parts: Subscription, caller: Caller) -> None:
        self._parts = parts
        self._caller = caller
        self.passed = 0
        self._pieces = Pieces()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            part = msgspec.json.decode((await self._parts.next()).payload, type=Part)
            if (whole := self._pieces.whole(part)) is not None:
                self._caller.notify(whole.method, whole.params)
                await self._caller.drain()
            self.passed += 1
            self._changed.set()

    async def until(self, count: int) -> None:
        """Waits until so many were passed on, for a bounded time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                while self.passed < count and not self._task.done():
                    self._changed.clear()
                    await self._changed.wait()

    async def close(self) -> None:
        """Passes nothing more on."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _raised(failed: Error) -> CorralError:
    return failed.as_error()


def _unreachable(node: str, reason: str) -> Unreachable:
    return Unreachable(f'cannot reach node "{node}": {reason}', node=node, reason=reason)
