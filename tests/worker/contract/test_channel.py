"""The asyncio half of the wire on real pipes and sockets, under asyncio's loop and under uvloop."""

import asyncio
import gc
import json
import os
import select
import socket
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest
import uvloop

from corral.worker.contract.channel import Channel, begun
from corral.worker.contract.errors import (
    Cancelled,
    Conflict,
    CorralError,
    InternalError,
    InvalidParams,
    Overloaded,
    Timeout,
    Unreachable,
    WorkerFailed,
)
from corral.worker.contract.jsonrpc import Foreign, Notification, Peer, PeerHandover, Request

pytestmark = pytest.mark.shell

BOUND_S = 60.0
"""How long anything is waited for before the test fails."""

Test = Callable[[], Coroutine[Any, Any, None]]  # Any: what a coroutine is sent is asyncio's affair

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def _open_fds() -> set[str]:
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


@pytest.fixture(scope="module", autouse=True)
def _a_small_heap() -> Iterator[None]:
    """What other tests have left in memory is not looked through at each of the many collections here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a test on a loop; afterwards no task, no fd and no complaint of the loop is left."""
    complaints: list[object] = []

    async def bounded(test: Test) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(BOUND_S):
            await test()
            while len(asyncio.all_tasks()) > 1:  # those of closed channels end in the next turns
                await asyncio.sleep(0)
        gc.collect()

    def runner(test: Test) -> None:
        with asyncio.Runner(loop_factory=LOOPS[str(request.param)]) as first:
            first.run(asyncio.sleep(0))  # the first loop of libuv keeps a pipe for the process
        before = _open_fds()
        with asyncio.Runner(loop_factory=LOOPS[str(request.param)]) as running:
            running.run(bounded(test))
        gc.collect()
        assert complaints == []
        assert _open_fds() == before

    return runner


class Ends:
    """What a channel said about its end, and the handlers that a test gives it."""

    def __init__(self) -> None:
        self.closed: list[CorralError | None] = []
        self.heard = 0
        self.foreign: list[bytes] = []
        self.notes: list[Notification] = []
        self.noted = asyncio.Event()

    def on_message(self) -> None:
        self.heard += 1

    def on_foreign(self, event: Foreign) -> None:
        self.foreign.append(event.line)
        self.noted.set()

    def on_notification(self, event: Notification) -> None:
        self.notes.append(event)
        self.noted.set()

    def channel(self, **options: Any) -> Channel:  # Any: the options of Channel
        return Channel(
            options.pop("peer", None) or Peer(),
            name="peer",
            on_closed=self.closed.append,
            on_message=self.on_message,
            on_foreign=self.on_foreign,
            on_notification=self.on_notification,
            **options,
        )


async def echo(request: Request) -> object:
    return request.params


async def join(kind: str, left: Channel, right: Channel) -> None:
    """Connects two channels with each other."""
    loop = asyncio.get_running_loop()
    if kind == "sockets":
        ours, theirs = socket.socketpair()
        await loop.create_connection(lambda: left, sock=ours)
        await loop.create_connection(lambda: right, sock=theirs)
    else:
        (read, their_write), (their_read, write) = os.pipe(), os.pipe()
        await left.open_pipes(read, write)
        await right.open_pipes(their_read, their_write)


class Raw:
    """The other side of a channel as bare file descriptors, which a test can abuse."""

    def __init__(self, read: int, write: int) -> None:
        self.fds = {"read": read, "write": write}
        self.buffer = b""
        os.set_blocking(read, False)

    @classmethod
    async def joined(cls, kind: str, channel: Channel) -> "Raw":
        if kind == "sockets":
            ours, theirs = socket.socketpair()
            raw = cls(theirs.detach(), -1)
            raw.fds["write"] = raw.fds["read"]
            await asyncio.get_running_loop().create_connection(lambda: channel, sock=ours)
            return raw
        (read, their_write), (their_read, write) = os.pipe(), os.pipe()
        raw = cls(their_read, their_write)
        await channel.open_pipes(read, write)
        return raw

    def send(self, *messages: object) -> None:
        data = b"".join(
            m if isinstance(m, bytes) else json.dumps({"jsonrpc": "2.0", **cast("Any", m)}).encode() + b"\n"  # Any: a literal of the test
            for m in messages
        )  # fmt: skip
        assert os.write(self.fds["write"], data) == len(data)

    async def readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.fds["read"], ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self.fds["read"])

    async def line(self) -> bytes:
        """The next line, or what is left at EOF."""
        while b"\n" not in self.buffer:
            await self.readable()
            data = os.read(self.fds["read"], 1 << 20)
            if not data:
                break
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(b"\n")
        return found

    async def message(self) -> dict[str, Any]:  # Any: JSON
        return cast("dict[str, Any]", json.loads(await self.line()))  # Any: JSON

    async def hung_up(self) -> None:
        """Waits until the channel has closed its writing end, whatever is unread."""
        poll = select.poll()
        poll.register(self.fds["read"], 0)
        events = await asyncio.to_thread(poll.poll, BOUND_S * 1000)
        assert events
        assert events[0][1] & select.POLLHUP

    def close(self, which: str | None = None) -> None:
        for fd in {self.fds[name] for name in ([which] if which else ["read", "write"])}:
            if fd >= 0:  # else closed by the test already
                os.close(fd)
            for name in self.fds:
                self.fds[name] = -1 if self.fds[name] == fd else self.fds[name]


@pytest.fixture(params=["pipes", "sockets"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Runner = Callable[[Test], None]


def test_both_sides_call_each_other(run: Runner, kind: str) -> None:
    async def test() -> None:
        one, two = Ends(), Ends()
        left, right = one.channel(on_request=echo), two.channel(on_request=echo)
        await join(kind, left, right)
        assert await left.request("a", {"x": "\u00fc\n"}, timeout_s=BOUND_S) == {"x": "\u00fc\n"}
        assert await right.request("b", timeout_s=None) == {}
        left.notify("n", {"y": 1})
        await two.noted.wait()
        assert two.notes == [Notification("n", {"y": 1})]
        assert (one.heard, two.heard) == (2, 3)
        left.close()
        await right.wait_closed()
        assert (one.closed, two.closed) == ([None], [None])

    run(test)


def test_a_thousand_requests_at_once_are_all_answered_with_their_own_result(run: Runner, kind: str) -> None:
    async def test() -> None:
        left, right = Ends().channel(on_request=echo), Ends().channel(on_request=echo)
        await join(kind, left, right)
        calls = [c.request("a", {"n": n}, timeout_s=None) for n in range(500) for c in (left, right)]
        assert await asyncio.gather(*calls) == [{"n": n // 2} for n in range(1000)]
        left.close()
        await right.wait_closed()

    run(test)


def test_a_message_of_16_mib_passes_and_a_longer_one_is_refused(run: Runner, kind: str) -> None:
    async def test() -> None:
        async def size(request: Request) -> object:
            return len(str(request.params["x"]))

        left, right = Ends().channel(), Ends().channel(on_request=size)
        await join(kind, left, right)
        text = "x" * (16 * 1024 * 1024 - 100)
        assert await left.request("a", {"x": text}, timeout_s=None) == len(text)
        with pytest.raises(CorralError) as caught:
            await left.request("a", {"x": text + "x" * 100}, timeout_s=None)
        assert caught.value.code == -33005
        left.close()
        await right.wait_closed()

    run(test)


def test_a_request_without_an_answer_ends_with_timeout_and_notifies_the_peer(run: Runner, kind: str) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel()
        raw = await Raw.joined(kind, channel)
        slow = asyncio.create_task(channel.request("slow", timeout_s=None))
        await asyncio.sleep(0)
        with pytest.raises(Timeout):
            await channel.request("a", timeout_s=0.01)
        assert (await raw.message())["method"] == "slow"
        request_id = (await raw.message())["id"]
        cancelled = await raw.message()
        assert cancelled["method"] == "notifications/cancelled"
        assert cancelled["params"]["requestId"] == request_id
        assert ends.heard == 0, "a timeout of ours is no sign of life"
        raw.send({"id": request_id, "result": "late"}, {"id": 1, "result": "in time"})
        assert await slow == "in time"
        channel.close()
        raw.close()

    run(test)


def test_an_earlier_deadline_overtakes_a_later_one(run: Runner) -> None:
    async def test() -> None:
        channel = Ends().channel()
        raw = await Raw.joined("pipes", channel)
        later = asyncio.create_task(channel.request("a", timeout_s=10 * BOUND_S))
        assert (await raw.message())["id"] == 1
        for _ in range(3):
            with pytest.raises(Timeout):
                await channel.request("b", timeout_s=0)
        raw.send({"id": 1, "result": 1})
        assert await later == 1
        channel.close()
        raw.close()

    run(test)


def test_a_cancelled_caller_withdraws_its_request(run: Runner, kind: str) -> None:
    async def test() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def hang(request: Request) -> object:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return None

        left, right = Ends().channel(), Ends().channel(on_request=hang)
        await join(kind, left, right)
        caller = asyncio.create_task(left.request("a", timeout_s=None))
        await started.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await ended.wait()
        assert left.peer.in_flight == 0
        left.close()
        await right.wait_closed()

    run(test)


def test_a_request_that_is_withdrawn_in_the_same_bytes_is_answered_too(run: Runner, kind: str) -> None:
    async def test() -> None:
        channel = Ends().channel(on_request=echo)
        raw = await Raw.joined(kind, channel)
        raw.send(
            {"id": 1, "method": "a"}, {"method": "notifications/cancelled", "params": {"requestId": 1, "reason": "r"}}
        )
        answer = await raw.message()
        assert (answer["id"], answer["error"]["code"]) == (1, Cancelled.code)
        raw.send({"id": 1, "method": "a", "params": {"x": 1}})
        assert (await raw.message())["result"] == {"x": 1}
        channel.close()
        raw.close()

    run(test)


def test_an_answer_and_a_cancel_of_the_caller_in_one_turn_leave_nothing(run: Runner) -> None:
    async def test() -> None:
        channel = Ends().channel()
        raw = await Raw.joined("pipes", channel)
        caller = asyncio.create_task(channel.request("a", timeout_s=None))
        assert (await raw.message())["id"] == 1
        channel.data_received(b'{"jsonrpc":"2.0","id":1,"error":{"code":-33001,"message":"m"}}\n')
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        del caller
        gc.collect()  # the fixture asserts that the loop did not complain
        channel.close()
        assert await raw.line() == b""
        raw.close()

    run(test)


def test_a_handler_that_fails_is_answered_and_the_next_request_served(run: Runner, kind: str) -> None:
    async def test() -> None:
        async def fail(request: Request) -> object:
            match request.method:
                case "known":
                    raise Conflict("cannot", agent="x")
                case "unspeakable":
                    return object()
                case "cancelled":
                    raise asyncio.CancelledError
                case "echo":
                    return request.params
                case _:
                    raise ZeroDivisionError

        left, right = Ends().channel(), Ends().channel(on_request=fail)
        await join(kind, left, right)
        for method, error in (
            ("known", Conflict),
            ("unspeakable", InternalError),
            ("cancelled", Cancelled),
            ("other", InternalError),
        ):
            with pytest.raises(CorralError) as caught:
                await left.request(method, timeout_s=None)
            assert type(caught.value) is error
        assert await left.request("echo", {"x": 1}, timeout_s=None) == {"x": 1}
        with pytest.raises(InvalidParams):
            await left.request("echo", {"x": object()}, timeout_s=None)
        left.close()
        await right.wait_closed()

    run(test)


def test_a_channel_that_serves_nothing_answers_so(run: Runner) -> None:
    async def test() -> None:
        left, right = Ends().channel(), Ends().channel()
        await join("sockets", left, right)
        with pytest.raises(CorralError):
            await left.request("a", timeout_s=None)
        left.close()
        await right.wait_closed()

    run(test)


def test_a_peer_that_goes_in_the_middle_ends_every_request_and_is_reported_once(run: Runner, kind: str) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel(lost=Unreachable)
        raw = await Raw.joined(kind, channel)
        calls = [asyncio.create_task(channel.request("a", timeout_s=None)) for _ in range(5)]
        await raw.line()
        raw.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [Unreachable] * 5
        assert channel.is_closed
        with pytest.raises(Unreachable):
            await channel.request("a", timeout_s=None)
        channel.notify("n")
        channel.close(Conflict("cannot"))
        assert ends.closed == [None]
        assert ends.heard == 0

    run(test)


def test_half_a_line_at_the_end_is_read(run: Runner, kind: str) -> None:
    async def test() -> None:
        for last in (b'{"jsonrpc":"2.0","method":"n"}', b"half"):
            ends = Ends()
            channel = ends.channel()
            raw = await Raw.joined(kind, channel)
            raw.send(last)
            raw.close()
            await channel.wait_closed()
            assert [note.method for note in ends.notes] + ends.foreign in (["n"], [b"half"])
            assert ends.closed == [None]

    run(test)


def test_requests_being_served_are_cancelled_when_the_peer_goes(run: Runner, kind: str) -> None:
    async def test() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def hang(request: Request) -> object:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return None

        for act in ("peer goes", "close"):
            started.clear()
            ended.clear()
            ends = Ends()
            channel = ends.channel(on_request=hang)
            raw = await Raw.joined(kind, channel)
            raw.send({"id": 1, "method": "a"})
            await started.wait()
            if act == "close":
                channel.close()
            raw.close()
            await ended.wait()
            assert ends.closed == [None]

    run(test)


def test_close_sends_what_is_queued_and_nothing_is_dispatched_after_it(run: Runner, kind: str) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel()
        closing = Ends()

        def close(event: Notification) -> None:
            closing.on_notification(event)
            channel.notify("bye")
            channel.close(Conflict("cannot"))

        channel = Channel(Peer(), name="peer", on_notification=close, on_closed=closing.closed.append)
        raw = await Raw.joined(kind, channel)
        pending = asyncio.create_task(channel.request("a", timeout_s=None))
        assert (await raw.message())["method"] == "a"
        raw.send({"method": "n1"}, {"method": "n2"}, {"id": 1, "method": "r"}, {"method": "n3"})
        assert (await raw.message())["method"] == "bye"
        assert await raw.line() == b""
        with pytest.raises(Conflict):
            await pending
        assert [note.method for note in closing.notes] == ["n1"]
        assert [type(error) for error in closing.closed] == [Conflict]
        raw.close()

    run(test)


def test_after_close_writing_the_peer_sees_the_end_and_is_still_read(run: Runner) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel()
        raw = await Raw.joined("pipes", channel)
        pending = asyncio.create_task(channel.request("a", timeout_s=None))
        assert (await raw.message())["id"] == 1
        channel.notify("bye")
        channel.close_writing()
        assert (await raw.message())["method"] == "bye"
        assert await raw.line() == b""
        raw.send({"id": 1, "result": "still read"})
        assert await pending == "still read"
        with pytest.raises(WorkerFailed):
            await channel.request("a", timeout_s=None)
        assert ends.closed == []
        raw.close("write")
        await channel.wait_closed()
        raw.close()
        assert ends.closed == [None]

    run(test)


def test_a_peer_that_closes_its_input_is_still_read_and_no_longer_asked(run: Runner) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel()
        raw = await Raw.joined("pipes", channel)
        raw.close("read")
        result: object = Timeout("cannot")
        while isinstance(result, Timeout):  # the first ones may be sent before the kernel tells
            call = channel.request("a", timeout_s=0.01)
            (result,) = await asyncio.gather(call, return_exceptions=True)
        assert type(result) is WorkerFailed
        raw.send({"method": "n"})
        await ends.noted.wait()
        assert ends.closed == []
        raw.close()
        await channel.wait_closed()

    run(test)


def test_a_peer_that_never_reads_is_given_up_and_nobody_else_notices(run: Runner, kind: str) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel(max_unsent_bytes=2 * 1024 * 1024)
        raw = await Raw.joined(kind, channel)
        left, right = Ends().channel(), Ends().channel(on_request=echo)
        await join(kind, left, right)
        pending = asyncio.create_task(channel.request("a", timeout_s=None))
        sent = 0
        while not channel.is_closed:
            channel.notify("n", {"x": "x" * 65536})
            sent += 1
            assert await left.request("a", {"n": sent}, timeout_s=BOUND_S) == {"n": sent}
        assert sent < 100
        with pytest.raises(Overloaded) as caught:
            await pending
        assert "retry_after_s" in caught.value.data
        assert [type(error) for error in ends.closed] == [Overloaded]
        with pytest.raises(Overloaded):
            await channel.request("a", timeout_s=None)
        await raw.hung_up()
        raw.close()
        left.close()
        await right.wait_closed()

    run(test)


def test_replies_to_a_peer_that_never_reads_are_bounded_too(run: Runner, kind: str) -> None:
    async def test() -> None:
        async def big(request: Request) -> object:
            return "x" * 1024 * 1024

        ends = Ends()
        channel = ends.channel(on_request=big, max_unsent_bytes=4 * 1024 * 1024)
        raw = await Raw.joined(kind, channel)
        raw.send(*({"id": n, "method": "a"} for n in range(50)))
        await channel.wait_closed()
        assert [type(error) for error in ends.closed] == [Overloaded]
        raw.close()

    run(test)


def test_senders_wait_for_a_peer_that_does_not_read_only_so_long(run: Runner, kind: str) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel(stall_s=0.05)
        raw = await Raw.joined(kind, channel)
        calls = [asyncio.create_task(channel.request("a", {"x": "x" * 500_000}, timeout_s=None)) for _ in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {Overloaded}
        assert [type(error) for error in ends.closed] == [Overloaded]
        await raw.hung_up()
        raw.close()

    run(test)


def test_the_time_of_a_request_runs_while_it_waits_to_be_sent(run: Runner, kind: str) -> None:
    async def test() -> None:
        channel = Ends().channel(stall_s=10 * BOUND_S)
        raw = await Raw.joined(kind, channel)
        for _ in range(4):
            channel.notify("n", {"x": "x" * 1024 * 1024})
        await asyncio.sleep(0)
        with pytest.raises(Timeout):
            await channel.request("a", timeout_s=0.01)
        assert channel.peer.in_flight == 0
        reader = asyncio.create_task(channel.request("b", timeout_s=None))
        for _ in range(4):
            assert (await raw.message())["method"] == "n"
        request = await raw.message()
        raw.send({"id": request["id"], "result": 1})
        assert await reader == 1
        channel.close()
        raw.close()

    run(test)


def test_a_patient_channel_waits_for_a_peer_that_does_not_read(run: Runner, kind: str) -> None:
    async def test() -> None:
        channel = Ends().channel(stall_s=0.01)
        raw = await Raw.joined(kind, channel)
        channel.wait_patiently()
        for _ in range(4):
            channel.notify("n", {"x": "x" * 1024 * 1024})
        await asyncio.sleep(0)
        with pytest.raises(Timeout):
            await channel.request("a", timeout_s=0.2)
        for _ in range(4):
            assert (await raw.message())["method"] == "n"
        channel.close()
        raw.close()

    run(test)


@pytest.mark.parametrize("unsent", [512 * 1024, 4 * 1024 * 1024])
@pytest.mark.parametrize("end", ["close", "eof"])
def test_a_closed_channel_keeps_no_fd_for_a_peer_that_never_reads(
    run: Runner, kind: str, unsent: int, end: str
) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel(stall_s=0.05)
        raw = await Raw.joined(kind, channel)
        channel.notify("n", {"x": "x" * unsent})
        await asyncio.sleep(0)
        if end == "close":
            channel.close()
        elif kind == "pipes":
            raw.close("write")
        else:
            with socket.socket(fileno=os.dup(raw.fds["read"])) as half:
                half.shutdown(socket.SHUT_WR)
        await channel.wait_closed()
        await raw.hung_up()
        raw.close()
        assert len(ends.closed) == 1

    run(test)


def test_a_channel_that_is_closed_before_it_opens_keeps_nothing_open(run: Runner, kind: str) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel()
        channel.close()
        raw = await Raw.joined(kind, channel)
        assert await raw.line() == b""
        raw.close()
        assert ends.closed == [None]

    run(test)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)  # libuv aborts the process for files
def test_descriptors_that_are_no_pipes_are_refused_and_closed(run: Runner) -> None:
    async def test() -> None:
        for good in ("read", "write", "none"):
            channel = Ends().channel()
            read, write = os.pipe()
            file = os.open("/proc/self/stat", os.O_RDONLY)
            other = os.open("/proc/self/stat", os.O_RDONLY)
            with pytest.raises((ValueError, OSError)):
                await channel.open_pipes(read if good == "read" else file, write if good == "write" else other)
            channel.close()
            for fd in {read, write, file, other}:
                given = {"read": {read, other}, "write": {file, write}, "none": {file, other}}[good]
                if fd not in given:
                    os.close(fd)

    run(test)


def test_messages_that_come_together_are_read_once_before_the_first_is_served(run: Runner) -> None:
    async def test() -> None:
        ends = Ends()
        heard_at: list[int] = []
        channel = Channel(
            Peer(), name="peer", on_message=ends.on_message, on_notification=lambda _: heard_at.append(ends.heard)
        )
        channel.data_received(b'log\n{"jsonrpc":"2.0","method":"a"}\n{"jsonrpc":"2.0","method":"b"}\n')
        assert heard_at == [1, 1]
        channel.data_received(b"log\n")
        assert ends.heard == 1
        channel.close()

    run(test)


def test_lines_that_are_no_messages_are_passed_on_and_not_decoded(run: Runner, kind: str) -> None:
    async def test() -> None:
        ends = Ends()
        channel = ends.channel(on_request=echo, peer=Peer(answer_foreign=True))
        raw = await Raw.joined(kind, channel)
        raw.send(b"log line\n", b"[" * 10_000 + b"\n")
        for _ in range(2):
            assert (await raw.message())["error"]["code"] == -32700
        assert (len(ends.foreign), ends.heard) == (2, 0)
        raw.send({"id": 1, "method": "a"})
        assert (await raw.message())["id"] == 1
        assert ends.heard == 1
        channel.close()
        raw.close()

    run(test)


def test_messages_of_one_turn_are_one_write(run: Runner) -> None:
    async def test() -> None:
        channel = Ends().channel()
        raw = await Raw.joined("sockets", channel)
        for n in range(10):
            channel.notify("n", {"n": n})
        await raw.readable()
        assert os.read(raw.fds["read"], 65536).count(b"\n") == 10
        channel.close()
        raw.close()

    run(test)


class Owner(Channel):
    """A channel that answers by its own methods, as connections of the daemon do."""

    def __init__(self) -> None:
        super().__init__(Peer(), name="peer", on_request=self._answer, on_closed=self._closed)

    async def _answer(self, request: Request) -> object:
        return request.params

    def _closed(self, _: object) -> None:
        return


def test_a_channel_that_has_ended_is_freed_without_the_garbage_collector(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        gc.disable()
        try:
            with theirs:
                theirs.setblocking(False)
                _, owner = await loop.create_connection(Owner, sock=ours)
                await loop.sock_sendall(theirs, b'{"jsonrpc":"2.0","id":1,"method":"x"}\n')
                assert await loop.sock_recv(theirs, 1000)
            await owner.wait_closed()
            freed = weakref.ref(owner)
            del owner, _
            for _turn in range(1000):
                if freed() is None:
                    break
                await asyncio.sleep(0)
            assert freed() is None
        finally:
            gc.enable()

    run(test)


def test_what_is_answered_at_once_is_in_one_piece_for_all_that_came_in_one(run: Runner, kind: str) -> None:
    async def test() -> None:
        def pong(params: dict[str, object]) -> object:
            if params.get("n") == 1:
                raise Conflict("cannot say it")
            return params

        async def never(_: Request) -> object:
            raise AssertionError("it was to be answered at once")

        left, right = Ends().channel(), Ends().channel(on_request=never, at_once={"ping": pong})
        await join(kind, left, right)
        calls = [left.start("ping", {"n": n}, timeout_s=None) for n in range(3)]
        answers = await asyncio.gather(*(call.answer for call in calls), return_exceptions=True)
        assert isinstance(answers[1], Conflict)
        assert [answers[0], answers[2]] == [{"n": 0}, {"n": 2}]
        left.close()
        await right.wait_closed()

    run(test)


def test_the_only_request_is_sent_before_the_loop_goes_on(run: Runner) -> None:
    async def test() -> None:
        left = Ends().channel()
        its_stdin, write_fd = os.pipe()
        read_fd, its_stdout = os.pipe()
        os.set_blocking(its_stdin, False)
        await left.open_pipes(read_fd, write_fd)
        first, *others = [left.start(name, timeout_s=None) for name in ("first", "second", "third")]
        sent = os.read(its_stdin, 1 << 16)
        assert [json.loads(line)["method"] for line in sent.splitlines()] == ["first"]
        os.write(its_stdout, b'{"jsonrpc":"2.0","id":1,"result":true}\n')
        assert await first.answer is True
        sent = os.read(its_stdin, 1 << 16)
        assert [json.loads(line)["method"] for line in sent.splitlines()] == ["second", "third"]
        os.close(its_stdin)
        os.close(its_stdout)
        await left.wait_closed()
        ends = await asyncio.gather(*(call.answer for call in others), return_exceptions=True)
        assert [type(end) for end in ends] == [WorkerFailed, WorkerFailed]

    run(test)


def test_what_an_eager_channel_answers_without_a_wait_goes_out_together(run: Runner, kind: str) -> None:
    async def test() -> None:
        told = asyncio.Event()

        async def serve(request: Request) -> object:
            if request.method == "later":
                await told.wait()
            if request.method == "fail":
                raise Conflict("cannot do it")
            return request.params

        channel = Ends().channel(on_request=serve, is_eager=True)
        raw = await Raw.joined(kind, channel)
        names = ["now", "later", "fail", "now"]
        raw.send(*({"id": n, "method": name} for n, name in enumerate(names)))
        await raw.readable()
        sent = os.read(raw.fds["read"], 1 << 16)
        assert sorted(json.loads(line)["id"] for line in sent.splitlines()) == [0, 2, 3]
        told.set()
        assert (await raw.message())["id"] == 1
        raw.send({"id": 0, "method": "now", "params": {"again": True}})  # nothing is left of the first
        assert (await raw.message())["result"] == {"again": True}
        channel.close()
        raw.close()

    run(test)


def plain_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **_: Any) -> asyncio.Task[Any]:
    """Makes tasks in a way of its own, as an author's task factory does; Any: as typeshed has them."""
    return asyncio.Task(coroutine, loop=loop)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has no eager tasks before 3.12")
def test_an_eager_channel_answers_before_the_loop_goes_on(run: Runner) -> None:
    async def test() -> None:
        async def serve(request: Request) -> object:
            me = asyncio.current_task()
            assert me is not None, "asyncio.timeout asks for it"
            async with asyncio.timeout(BOUND_S):
                return request.params

        channel = Ends().channel(on_request=serve, is_eager=True)
        raw = await Raw.joined("pipes", channel)
        ask = b'{"jsonrpc":"2.0","id":%d,"method":"now"}\n'
        channel.data_received(ask % 1 + ask % 2)
        sent = os.read(raw.fds["read"], 1 << 16)
        assert [json.loads(line)["id"] for line in sent.splitlines()] == [1, 2]
        loop = asyncio.get_running_loop()
        loop.set_task_factory(plain_task)
        channel.data_received(ask % 3)  # whoever makes tasks in a way of his own makes all of them
        with pytest.raises(BlockingIOError):
            os.read(raw.fds["read"], 1 << 16)
        assert (await raw.message())["id"] == 3
        channel.close()
        raw.close()

    run(test)


@pytest.mark.parametrize("kind", ["pipes", "sockets"])
def test_what_is_noted_of_a_request_is_found_by_the_program_that_serves_it_anew(
    run: Callable[[Test], None], kind: str
) -> None:
    async def test() -> None:
        noted, found, may_end = asyncio.Event(), list[object](), asyncio.Event()

        async def begin(_: Request) -> object:
            begun()["task"] = "t1"
            noted.set()
            await may_end.wait()
            return "of the program before"

        async def go_on(_: Request) -> object:
            found.append(dict(begun()))
            return "of the next program"

        first, second, asker = (Ends().channel(on_request=each) for each in (begin, go_on, echo))
        await join(kind, first, asker)
        answer = asyncio.ensure_future(asker.request("ask", {}, timeout_s=None))
        await noted.wait()
        first.hold()
        left, notes = first.hand_over(), dict(first.notes)
        assert notes == {1: {"task": "t1"}}
        first.leave()
        may_end.set()
        while first.notes:
            await asyncio.sleep(0)
        other = Ends().channel()
        await join(kind, second, other)
        other.peer.take_up(
            PeerHandover(1, b"", False, 0, False, False, 0, {1: ("ask", None)}, ()),
            {1: (ours := asyncio.get_running_loop().create_future())},
        )
        second.take_up(left, notes)
        assert await ours == "of the next program"
        assert found == [{"task": "t1"}]
        assert not answer.done(), "a program that has left answers nothing"
        assert begun() == {}, "nothing is served here"
        for each in (first, second, asker, other):
            each.close()
        with pytest.raises(WorkerFailed):
            await answer

    run(test)
