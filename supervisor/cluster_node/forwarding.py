"""Passes calls on to the node that has what they are about, and serves those of other nodes.

A call travels whole, with the facts of its caller; rights, scope and audit are those of the node that serves it. Nodes of one
cluster trust each other. Notifications come back at most once, in order; a call whose node is gone fails within seconds.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from ...worker.contract.errors import (
    CorralError,
    InternalError,
    NotFound,
    ResourceLimitExceeded,
    Timeout,
    Unreachable,
    from_wire,
)
from ...worker.contract.records import Error
from ..api.caller import Caller
from ..engine.interface import VALUE_BYTES_MAX, Engine, Message, Subscription
from ..nodes.record import key_of
from .remote_caller import CallerFacts, Part, RemoteCaller

WHERE = "where"
WHERE_S = 0.5
"""Seconds that nodes have to say that they know a name."""

LONGEST_S = 86_400.0
"""Seconds of the longest call."""

LOOK_S = 2.0
"""Seconds between two looks whether the node of a call still has its lease; and between two signs of life of a follower."""

SILENCE_S = 10.0
"""Seconds without a sign of life after which a follower is gone."""

LAST_S = 2.0
"""Seconds that the last notifications may take after the answer."""

CALLS_MAX = 1_000
"""Number of calls of other nodes that are served at a time."""

logger = logging.getLogger(__name__)


class Call(Struct, frozen=True, kw_only=True):
    """Represents a call on its way; `streams` names the subject of its notifications, "" for none."""

    method: str
    params: dict[str, object]
    caller: CallerFacts
    streams: str = ""
    is_direct: bool = False
    """Whether it is about what that node itself runs, whatever the engine has of it."""


class Reply(Struct, frozen=True, kw_only=True):
    """Represents the answer: a result or an error, and how many notifications came before it.

    With `follows` more are to come, until the caller gives no sign of life.
    """

    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Error | None = None
    sent: int = 0
    follows: bool = False


class Question(Struct, frozen=True, kw_only=True):
    """Asks which node has all of these agents, servers, teams or workflows, or this task."""

    names: list[str] = []
    task: str = ""
    running: bool = False
    """Whether the task must not have ended there."""


class Table(Protocol):
    """Represents the method table of this daemon."""

    async def answer_here(
        self, name: str, params: Mapping[str, object], caller: RemoteCaller
    ) -> object:
        """Returns the result of a method, whatever other nodes have."""
        ...

    async def has(self, names: list[str], task: str) -> bool:
        """Returns whether this daemon has all of these names, or this task."""
        ...

    def runs(self, task: str) -> bool:
        """Returns whether a task waits for a worker here, or runs on one."""
        ...


class Forwarding:
    """Passes calls on, and serves those of others.

    Args:
        node: the name of this node.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._table: Table | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def bind(self, table: Table) -> None:
        """Connects the method table."""
        self._table = table

    # -- calls of this node

    async def find(self, engine: Engine, question: Question) -> str:
        """Returns a node that has what is asked for, "" where none says so in time."""
        with contextlib.suppress(NotFound, Timeout):
            payload = msgspec.json.encode(question)
            return (await engine.request(WHERE, payload, WHERE_S)).decode()
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
        """Returns the answer of another node.

        Raises:
            Unreachable: it is not there, or has gone meanwhile.
            Timeout: it has not answered within `timeout_s`.
            ResourceLimitExceeded: the call is too large to be passed on.
            CorralError: as that node answers.
        """
        subject = f"streams/{uuid.uuid4().hex}" if streams else ""
        facts = CallerFacts(
            name=caller.name,
            permission=caller.permission,
            who={**caller.who, "node": self._node},
            agents=None if caller.agents is None else list(caller.agents),
            tenant=caller.tenant,
        )
        call = Call(
            method=method, params=dict(params), caller=facts, streams=subject, is_direct=is_direct
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
                raise from_wire(
                    {"code": failed.code, "message": failed.message, "data": failed.data}
                )
            if reply.follows and parts is not None:
                caller.follow(self._follow(engine, parts, subject, caller))
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

    async def _follow(
        self, engine: Engine, parts: Subscription, subject: str, caller: Caller
    ) -> None:
        """Passes notifications on until the caller hangs up; tells the other node that it is there."""

        async def live() -> None:
            while True:
                with contextlib.suppress(CorralError):
                    await engine.publish(f"{subject}/alive", b"")
                await asyncio.sleep(LOOK_S)

        living = asyncio.create_task(live())
        try:
            while True:
                await _pass_on(await parts.next(), caller)
        finally:
            living.cancel()
            await asyncio.wait([living])
            await parts.close()

    # -- calls of other nodes

    async def serve(self, engine: Engine) -> None:
        """Serves the calls of other nodes until it is cancelled."""
        calls = await engine.subscribe(f"nodes/{self._node}")
        try:
            while True:
                message = await calls.next()
                self._spawn(self._serve_one(engine, message))
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
                self._spawn(self._answer_one_where(await questions.next()))
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
        assert self._table is not None, "it is bound before the node joins"
        with contextlib.suppress(CorralError, msgspec.MsgspecError):
            question = msgspec.json.decode(message.payload, type=Question)
            if question.running:
                has_it = self._table.runs(question.task)
            else:
                has_it = await self._table.has(question.names, question.task)
            if has_it:
                await message.answer(self._node.encode())

    async def _serve_one(self, engine: Engine, message: Message) -> None:
        assert self._table is not None, "it is bound before the node joins"
        try:
            call = msgspec.json.decode(message.payload, type=Call)
        except msgspec.MsgspecError as error:
            logger.error("a call of another node cannot be read: %s", error)
            return

        async def send(part: bytes) -> None:
            await engine.publish(call.streams, part)

        caller = RemoteCaller(call.caller, send, is_direct=call.is_direct)
        try:
            reply = await self._answered(call, caller)
            await caller.flush()
            reply = msgspec.structs.replace(
                reply, sent=caller.sent, follows=caller.following is not None
            )
            payload = msgspec.json.encode(reply)
            if len(payload) > VALUE_BYTES_MAX:
                text = f"cannot pass on the answer of {call.method}: it has {len(payload)} bytes, more than {VALUE_BYTES_MAX}"
                too_large = ResourceLimitExceeded(text, limit=VALUE_BYTES_MAX, value=len(payload))
                payload = msgspec.json.encode(Reply(error=_record(too_large)))
            with contextlib.suppress(CorralError):
                await message.answer(payload)
                if caller.following is not None and reply.error is None:
                    await self._follow_here(engine, call.streams, caller.following)
        finally:
            await caller.close()

    async def _answered(self, call: Call, caller: RemoteCaller) -> Reply:
        assert self._table is not None, "it is bound before the node joins"
        try:
            found = await self._table.answer_here(call.method, call.params, caller)
            return Reply(result=msgspec.Raw(msgspec.json.encode(found)))
        except CorralError as error:
            return Reply(error=_record(error))
        except Exception as error:
            logger.exception("a call of another node failed: %s", call.method)
            return Reply(error=_record(InternalError(f"cannot serve it: {type(error).__name__}")))

    async def _follow_here(self, engine: Engine, subject: str, following: Awaitable[None]) -> None:
        """Runs what a caller follows until it gives no sign of life."""
        signs = await engine.subscribe(f"{subject}/alive")
        running = asyncio.ensure_future(following)
        try:
            while not running.done():
                async with asyncio.timeout(SILENCE_S):
                    await signs.next()
        except TimeoutError:
            pass
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await signs.close()


class _Relay:
    """Passes the notifications of one call on while its answer is awaited."""

    def __init__(self, parts: Subscription, caller: Caller) -> None:
        self._parts = parts
        self._caller = caller
        self._passed = 0
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await _pass_on(await self._parts.next(), self._caller)
            self._passed += 1
            self._changed.set()

    async def until(self, count: int) -> None:
        """Waits until so many were passed on, for a bounded time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                while self._passed < count and not self._task.done():
                    self._changed.clear()
                    await self._changed.wait()

    async def close(self) -> None:
        """Passes nothing more on."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _pass_on(message: Message, caller: Caller) -> None:
    part = msgspec.json.decode(message.payload, type=Part)
    caller.notify(part.method, part.params)
    await caller.drain()


def _record(error: CorralError) -> Error:
    return Error(error.code, error.name, error.message, error.data)


def _unreachable(node: str, reason: str) -> Unreachable:
    return Unreachable(f'cannot reach node "{node}": {reason}', node=node, reason=reason)
