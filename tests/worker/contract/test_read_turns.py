"""Channels that take turns: a flood keeps the loop for some milliseconds at a time, and loses or reorders nothing."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from corral.worker.contract.channel import Channel
from corral.worker.contract.jsonrpc import Foreign, Notification, Peer
from corral.worker.contract.read_turns import TURN_S, ReadTurns

pytestmark = pytest.mark.contract

BOUND_S = 60.0
MESSAGES = 4_000
COST_S = 0.0001
"""Seconds that each message keeps the loop busy: those of one read about 0.2 s."""


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test())


def line(name: str, number: int) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": name, "params": {"n": number}}).encode() + b"\n"


class Listener:
    """The reading side of some channels."""

    def __init__(self) -> None:
        self.turns = ReadTurns()
        self.heard: list[tuple[str, object]] = []
        self.longest_s = 0.0

    async def channel(self) -> tuple[Channel, int]:
        """A channel, and where its peer writes."""
        ours, theirs = os.pipe()
        away, out = os.pipe()
        channel = Channel(
            Peer(log_foreign=True), name="p", on_notification=self._note, on_foreign=self._log, turns=self.turns
        )
        await channel.open_pipes(ours, out)
        os.close(away)
        return channel, theirs

    def _note(self, note: Notification) -> None:
        until = time.perf_counter() + COST_S
        self.heard.append((note.method, note.params["n"]))
        while time.perf_counter() < until:
            pass

    def _log(self, foreign: Foreign) -> None:
        self.heard.append(("log", foreign.line))

    async def watch(self) -> None:
        """Notes the longest time for which the loop did nothing else."""
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()  # of this thread alone: others may have the processor
            self.longest_s = max(self.longest_s, now - last)
            last = now


def write(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(data)


def test_a_flood_keeps_the_loop_for_a_turn_at_a_time_and_everything_is_served_in_order() -> None:
    async def test() -> None:
        listener = Listener()
        channels = [await listener.channel() for _ in range(3)]
        watching = asyncio.create_task(listener.watch())
        names = ["a", "b", "c"]
        floods = [b"".join(line(name, n) for n in range(MESSAGES // 4)) + b"last" for name in names]
        threads = [
            threading.Thread(target=write, args=(fd, flood)) for (_, fd), flood in zip(channels, floods, strict=True)
        ]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(BOUND_S):
            for channel, _ in channels:
                await channel.wait_closed()
        for thread in threads:
            thread.join()
        watching.cancel()
        for name in names:
            assert [n for method, n in listener.heard if method == name] == list(range(MESSAGES // 4))
        assert (
            b"".join(text for method, text in listener.heard if method == "log" and isinstance(text, bytes))
            == b"last" * 3
        )
        assert listener.longest_s < 4 * TURN_S

    run(test)


def test_the_one_message_of_a_quiet_channel_is_served_between_those_of_a_flood() -> None:
    async def test() -> None:
        listener = Listener()
        (flooding, to_flooding), (quiet, to_quiet) = await listener.channel(), await listener.channel()
        os.set_blocking(to_flooding, False)
        os.write(to_flooding, b"".join(line("flood", n) for n in range(MESSAGES))[:60_000])
        os.write(to_quiet, line("quiet", 0))
        async with asyncio.timeout(BOUND_S):
            while ("quiet", 0) not in listener.heard:
                await asyncio.sleep(0)
        assert len(listener.heard) < 4 * TURN_S / COST_S
        flooding.close()
        quiet.close()
        heard = len(listener.heard)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(listener.heard) == heard, "what is left of a closed channel is dropped"
        os.close(to_flooding)
        os.close(to_quiet)

    run(test)


def test_a_handler_that_fails_does_not_stop_the_others() -> None:
    async def test() -> None:
        turns = ReadTurns()
        done = asyncio.Event()

        def fail() -> None:
            raise ValueError

        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        turns.wait(fail)
        turns.wait(done.set)
        async with asyncio.timeout(BOUND_S):
            await done.wait()
        assert len(complaints) == 1

    run(test)
